"""Every stage on the published LastFM rows, where they are on this machine."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import transformers

from dynamicpo.core.config import (
    DataConfig,
    DriftConfig,
    EvaluationConfig,
    NegativesConfig,
    PreferenceConfig,
    SFTConfig,
)
from dynamicpo.data.prepare import prepare_data
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.monitoring.drift import monitor_drift
from dynamicpo.negatives.sampling import sample_negatives
from dynamicpo.training.preference_training import train_preferences
from dynamicpo.training.sft import fine_tune
from tests.benchmarks import workload
from tests.fixtures.models import write_tiny_llm

TRAIN_ROWS, TEST_ROWS = 2598, 1256


@pytest.fixture(scope="module")
def stages(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of all stages, by short names."""
    folder = tmp_path_factory.mktemp("lastfm")
    prepare_data(
        str(shared / "data" / "lastfm"), "", folder / "examples", DataConfig(source="published")
    )
    sample_negatives(folder / "examples", folder / "rows", NegativesConfig())
    sft = SFTConfig(template="music", loss_on="history", rows=600, max_steps=30)
    fine_tune(folder / "rows", folder / "sft", sft)
    preference = PreferenceConfig(num_negatives=19, rows=600, max_steps=10)
    train_preferences(folder / "rows", folder / "sft", folder / "policy", preference)
    models = {"sft": folder / "sft", "policy": folder / "policy"}
    evaluate(
        folder / "rows",
        models,
        folder / "evaluation",
        EvaluationConfig(rows=200, resamples=100, sasrec=False),
    )
    monitor_drift(
        folder / "rows", folder / "rows", folder / "drift", DriftConfig(), folder / "policy"
    )
    return folder


def test_models_train_on_real_rows(stages: Path) -> None:
    tuned, preferred = (
        [json.loads(line) for line in (stages / name / "steps.jsonl").read_text().splitlines()]
        for name in ("sft", "policy")
    )
    assert tuned[-1]["loss"] < tuned[0]["loss"]
    assert preferred[0]["loss"] == pytest.approx(
        math.log(2)
    )  # the policy starts as its own reference
    assert all(0 < line["boundary_fraction"] <= 1 for line in preferred)
    counts = json.loads((stages / "rows" / "manifest.json").read_text())["counts"]
    assert (counts["train_rows"], counts["test_rows"]) == (TRAIN_ROWS, TEST_ROWS)


def test_real_rows_are_ranked_by_models_and_baselines(stages: Path) -> None:
    for name in ("sft", "policy", "popularity", "random"):
        metrics = json.loads((stages / "evaluation" / name / "metrics.json").read_text())
        assert metrics["test_rows"] == 200
        assert (
            metrics["test_hit_ratio_at_1_low"]
            <= metrics["test_hit_ratio_at_1"]
            <= metrics["test_hit_ratio_at_1_high"]
        )
    assert metrics["test_hit_ratio_at_1"] == pytest.approx(1 / 20)


def test_drift_of_real_rows_compares_scores_of_the_chosen_item(stages: Path) -> None:
    report = json.loads((stages / "drift" / "drift.json").read_text())
    assert {"history_length", "unseen_share", "chosen_score"} <= set(report["columns"])
    assert report["drifted"] == any(column["drifted"] for column in report["columns"].values())


def test_the_benchmark_has_real_rows_with_up_to_50_negatives(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their published lists leak, which must not stop it."""
    settings = workload.settings
    long = lambda *arguments: dataclasses.replace(settings(*arguments), max_length=4096)  # noqa: E731 (letters are tokens here)
    monkeypatch.setattr(workload, "settings", long)
    assert workload.data_sets() == ["lastfm", "movielens"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(write_tiny_llm(tmp_path)))
    rows = workload.load_rows("lastfm", tokenizer)
    assert len(rows) == 400 and {len(row.answer_ids) for row in rows} == {51}
    assert all(len({*map(tuple, row.answer_ids)}) == 51 and row.prompt_ids for row in rows)
