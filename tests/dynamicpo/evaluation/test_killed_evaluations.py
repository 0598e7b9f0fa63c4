"""Evaluations that are killed go on, and end with the bytes of one that was never interrupted."""

import json
import logging
from pathlib import Path

import pytest

from dynamicpo.core.config import SFTConfig
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.storage import exists
from dynamicpo.evaluation.baselines import sasrec_training
from dynamicpo.training.sft import fine_tune
from tests.fixtures.killed_evaluations import (
    MOMENTS,
    NUM_ROWS,
    run_evaluation,
    run_killed_evaluation,
)
from tests.fixtures.sampled_rows import sampled_rows
from tests.fixtures.tables import write_tables

BASELINES = ("random", "popularity", "cooccurrence", "sasrec")
WORKS = ("listed", "catalogue")


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    return sampled_rows(folder, *write_tables(folder))


@pytest.fixture(scope="module")
def models(preferences: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("model") / "sft"
    fine_tune(preferences, folder, SFTConfig(rows=24, max_steps=2))
    return {"sft": folder}


@pytest.fixture(scope="module")
def uninterrupted(
    preferences: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Manifest:
    folder = tmp_path_factory.mktemp("whole") / "evaluation"
    return run_evaluation(preferences, models, folder, "")


def counted(moment: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The arguments of all calls of the function in which a process was killed."""
    module, name, _ = MOMENTS[moment]
    function = getattr(module, name)
    calls = []

    def counting(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, counting)
    return calls


def taken_rows(output: Path) -> dict[tuple[str, str], int]:
    """The rows that were taken from shards, by model and by what was ranked."""
    costs = json.loads((output / "run.json").read_text(encoding="utf-8"))["costs"]
    return {
        (name, work): cost["rows_from_shards"]
        for name, of_model in costs.items()
        for work, cost in of_model.items()
        if "rows_from_shards" in cost
    }


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_evaluation_ends_with_the_bytes_of_an_uninterrupted_one(
    moment: str,
    preferences: Path,
    models: dict[str, Path],
    uninterrupted: Manifest,
    tmp_path: Path,
    s3_store: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    is_remote = moment == "as it serves"
    place = f"{s3_store}/{tmp_path.name}" if is_remote else str(tmp_path / "kept")
    paths = (preferences, models, tmp_path / "output", place)
    run_killed_evaluation(moment, *paths)
    assert not (tmp_path / "output").exists()
    epochs = counted("training SASRec", monkeypatch)
    with caplog.at_level(logging.INFO):
        manifest = run_evaluation(*paths)
    # Every file: metrics, ranks, served lists, generated answers, the generator, the page.
    assert manifest.files == uninterrupted.files
    assert manifest.fingerprint == uninterrupted.fingerprint
    assert not exists(place)
    taken = taken_rows(tmp_path / "output")
    if moment == "training SASRec":
        # The fifth epoch was under way, and the last checkpoint was that after the fourth.
        assert "going on from epoch 4 of 20" in caplog.text
        assert [epoch for *_, epoch, _ in epochs] == [*range(4, 20)] and not taken
        return
    assert not epochs
    assert {taken[name, work] for name in BASELINES for work in WORKS} == {NUM_ROWS}
    if moment == "ranking lists":
        assert 0 < taken["sft", "listed"] < NUM_ROWS and ("sft", "catalogue") not in taken
    elif moment == "ranking all":
        assert taken["sft", "listed"] == NUM_ROWS and 0 < taken["sft", "catalogue"] < NUM_ROWS
        assert f"{NUM_ROWS} of {NUM_ROWS} rows are taken from" in caplog.text
        assert "shards/sft/answers" in caplog.text
    else:
        assert taken["sft", "listed"] == taken["sft", "catalogue"] == NUM_ROWS
        assert "shards/sft, as it serves/proposed" in caplog.text


def test_an_evaluation_that_failed_before_it_kept_anything_leaves_nothing(
    preferences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(sasrec_training, "_train_epoch", broken)
    with pytest.raises(RuntimeError, match="broken"):
        run_evaluation(preferences, {}, tmp_path / "output", str(tmp_path / "kept"))
    assert not list(tmp_path.iterdir())
