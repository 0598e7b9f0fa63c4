"""Compiled pipelines, run from their files alone by the rules of Kubeflow's driver and launcher."""

import json
from pathlib import Path
from typing import Any

import pytest

from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.runs.compile import compile_pipeline
from tests.fixtures.backend import Backend
from tests.fixtures.tables import write_tables

IMAGE = "registry.invalid/dynamicpo@sha256:" + 64 * "a"
STEPS = {"max_steps": 2, "batch_size": 8}


def form(folder: Path, **more: Any) -> dict[str, Any]:
    """The form's defaults for a small table of one's own; steps are few to save time."""
    interactions, items = write_tables(folder)
    return {
        "data_source": "table",
        "data_interactions": interactions,
        "data_items": items,
        "sft_max_steps": 2,
        "sft_settings": {"batch_size": 8, "lora_rank": 40},
        "preference_settings": STEPS,
        "evaluation_settings": {"resamples": 100},
        **more,
    }


def record_of(run: Path) -> dict[str, Any]:
    (path,) = run.glob("*/*/record/record.json")
    return dict(json.loads(path.read_text()))


def check_order(record: dict[str, Any]) -> None:
    """Check that each model has its own model, evaluation and pages, though a loop made them."""
    for name, uri in record["models"].items():
        evaluation = read_manifest(Path(record["evaluations"][name]), "evaluate")
        model = read_manifest(Path(uri))
        assert evaluation.extra["models"][name]["fingerprint"] == model.fingerprint
        page = Path(record["reports"]["training"][name]).read_text(encoding="utf-8")
        assert page == (Path(uri) / "report.html").read_text(encoding="utf-8")


@pytest.mark.pipeline
def test_a_small_table_runs_with_the_forms_defaults_and_once_more_from_the_cache(tmp_path: Path):
    file = tmp_path / "training.yaml"
    compile_pipeline("training", file, IMAGE, {"gpu_count": 0})
    backend = Backend(tmp_path / "root")
    given = form(tmp_path, sft_rows=5000)
    run = backend.start(file, **given)
    assert backend.cached == [] and backend.ran.count("train-preferences") == 3
    record = record_of(run)
    assert record["run"] == "run-1" and record["images"] == [IMAGE]
    parameters = record["parameters"]
    assert (parameters["sft_rows"], parameters["sft_lora_rank"]) == (5000, 40)
    rows = read_manifest(Path(record["rows"])).counts["train_rows"]
    assert rows < 5000
    both = {"rows": rows, "rows_shared_with_sft": rows}
    names = ["dmpo", "sdpo", "dynamicpo-dmpo"]
    assert record["training_rows"] == {"sft": {"rows": rows}, **dict.fromkeys(names, both)}
    check_order(record)

    again = record_of(backend.start(file, **given))
    assert backend.ran == ["compare-evaluations"]
    assert (again.pop("run"), record.pop("run")) == ("run-2", "run-1")
    assert again.pop("report") != record.pop("report")
    assert again == record


@pytest.mark.pipeline
def test_a_study_runs_and_its_cells_keep_their_order(tmp_path: Path):
    file = tmp_path / "study.yaml"
    compile_pipeline("negative_scaling", file, IMAGE, {"gpu_count": 0})
    grid = {"grid_num_negatives": "1,5", "grid_seeds": "3", "grid_variants": "none,full"}
    given = form(tmp_path, grid_objectives="dmpo", **grid)
    backend = Backend(tmp_path / "root")
    record = record_of(backend.start(file, **given))
    models = ["dmpo-k5-s3", "dpo-k1-s3", "dynamicpo-dmpo-k5-s3", "dynamicpo-dpo-k1-s3", "sft"]
    assert [*record["models"]] == models
    check_order(record)
    trained = read_manifest(Path(record["models"]["dmpo-k5-s3"]))
    assert (trained.config["num_negatives"], trained.config["seed"]) == (5, 3)
    assert record["parameters"]["grid_seeds"] == "3"


def test_a_mistake_in_the_form_ends_the_first_task(tmp_path: Path):
    from dynamicpo.core.errors import ConfigError

    file = tmp_path / "training.yaml"
    compile_pipeline("training", file, IMAGE)
    backend = Backend(tmp_path / "root")
    wrong = form(tmp_path, preference_num_negatives=25, drift_settings={"threshhold": 0.2})
    with pytest.raises(ConfigError, match="preference_num_negatives: must be <= ") as caught:
        backend.start(file, **wrong)
    assert "Did you mean 'threshold'?" in str(caught.value)
    assert backend.ran == ["check-settings"]
    with pytest.raises(AssertionError, match="data_source: 'tabel' is in no menu"):
        backend.start(file, **form(tmp_path, data_source="tabel"))
