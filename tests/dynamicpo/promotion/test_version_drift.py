"""Drift against a published version: its training window, and the rows that it was gated on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dynamicpo.cli.main import main
from dynamicpo.core.config import DriftConfig, EvaluationConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import read_manifest, write_json
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.promotion.champion import Reason, promote_version
from dynamicpo.promotion.version_drift import monitor_window
from dynamicpo.promotion.versions import VersionSource, make_version, version_uri
from tests.fixtures.folders import write_model, write_preferences

SIGNALS = ("chosen_score", "margin", "hit")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> VersionSource:
    """A model, its rows and its evaluation on the test split."""
    folder = tmp_path_factory.mktemp("version")
    preferences = write_preferences(folder / "preferences")
    model = write_model(folder / "model")
    manifest = read_manifest(model)
    manifest.inputs = {"preferences": read_manifest(preferences).fingerprint}
    write_json(model / "manifest.json", dataclasses.asdict(manifest))
    config = EvaluationConfig(resamples=100, sasrec=False, allow_leak=True)
    evaluate(preferences, {"new": model}, folder / "evaluation", config)
    return VersionSource(model, folder / "evaluation", preferences)


@pytest.fixture
def store(source: VersionSource, tmp_path: Path) -> str:
    """A store whose champion is the model."""
    store = str(tmp_path / "store")
    name = make_version(source, store).name
    promote_version(store, name, Reason("ann", "first", {}))
    return store


def check(preferences: Path, output: Path, **settings: Any) -> dict[str, Any]:
    monitor_window(None, preferences, output, DriftConfig(**{"min_users": 2, **settings}))
    drift: dict[str, Any] = json.loads((output / "drift.json").read_text(encoding="utf-8"))
    return drift


def test_rows_of_the_gate_have_not_drifted(
    source: VersionSource, store: str, tmp_path: Path
) -> None:
    """Scored again, the very rows of the gate have the signals that the version holds."""
    drift = check(source.preferences, tmp_path / "drift", store=store, split="test")
    assert drift["status"] == "not drifted"
    for name in ("history_length", "unseen_share", *SIGNALS):
        column = drift["columns"][name]
        assert column["distance"] == pytest.approx(0, abs=1e-4)
        assert column["compared_with"] == "held-out window"
    ratios = drift["hit_ratio_at_1"]
    evaluated = json.loads((source.evaluation / "new" / "metrics.json").read_text())
    assert ratios["current window"]["value"] == pytest.approx(evaluated["test_hit_ratio_at_1"])
    assert ratios["held-out window"] == pytest.approx(ratios["current window"])


def test_training_rows_are_the_training_window(
    source: VersionSource, store: str, tmp_path: Path
) -> None:
    drift = check(source.preferences, tmp_path / "drift", store=store, split="train")
    assert drift["columns"]["user_activity"]["distance"] == 0
    assert drift["columns"]["category"]["distance"] == 0
    assert drift["columns"]["chosen_score"]["distance"] > 0


def test_a_version_names_no_user(source: VersionSource, store: str) -> None:
    (champion,) = Path(store, "versions").iterdir()
    users = {f"{split}{number}" for split in ("train", "test") for number in range(6)}
    for path in champion.rglob("*.parquet"):
        names = {name for name in pq.read_schema(path).names if name == "user"}
        for name in names:
            assert not users & set(pq.read_table(path)[name].to_pylist())
    assert (champion / "reference" / "held_out.parquet").is_file()


def test_without_a_champion_there_is_nothing_to_compare_with(
    source: VersionSource, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="must have a champion, but nothing was promoted yet"):
        check(source.preferences, tmp_path / "drift", store=str(tmp_path / "store"))


def test_versions_without_windows_are_to_be_published_again(
    source: VersionSource, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    name = make_version(source, store).name
    copy = Path(version_uri(store, name))
    (copy / "reference" / "description.json").unlink()
    with pytest.raises(DataError, match=r"must hold the windows .* Publish the version again"):
        monitor_window(copy, source.preferences, tmp_path / "drift", DriftConfig())
    assert not (tmp_path / "drift").exists()


def test_the_command_compares_with_the_champion(
    source: VersionSource, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["monitor-drift", "--store", store, "--current", str(source.preferences), "--json"]
    assert main([*argv, "--output", str(tmp_path / "drift"), "--gate"]) == 3
    result = json.loads(capsys.readouterr().out)
    assert (result["status"], result["fails_gate"]) == ("too few users", True)
    assert main([*argv, "--output", str(tmp_path / "drift")]) == 0
