"""Every component compiles, has a README in step, and makes the files of its stage."""

import ast
import inspect
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import yaml
from kfp import compiler

from dynamicpo.models import checkpoints
from dynamicpo.runs.shown_metrics import MOST_METRICS
from dynamicpo_components import readme
from dynamicpo_components.image import IMAGE
from tests.components.conftest import Call, manifest_of

stages = pytest.mark.parametrize("stage", readme.stages())


@pytest.mark.parametrize("path", readme.documents(), ids=lambda path: path.parent.name)
def test_readme_is_made_from_the_docstring(path: Path):
    assert path.read_text(encoding="utf-8") == readme.documents()[path], (
        "run `python -m dynamicpo_components.readme`"
    )


@stages
def test_compiles_and_installs_nothing_at_run_time(stage: str, tmp_path: Path):
    compiler.Compiler().compile(readme.load(stage), str(tmp_path / "component.yaml"))
    spec = yaml.safe_load((tmp_path / "component.yaml").read_text())
    (executor,) = spec["deploymentSpec"]["executors"].values()
    assert executor["container"]["image"] == IMAGE
    assert not re.search(r"\bpip\b", " ".join(executor["container"]["command"]))


@stages
def test_body_is_wiring(stage: str):
    function = readme.load(stage).python_func
    (tree,) = ast.parse(inspect.getsource(function)).body
    assert isinstance(tree, ast.FunctionDef)
    statements = [node for node in tree.body[1:] if not isinstance(node, ast.ImportFrom)]
    assert len(statements) <= 8
    # Nothing is decided here: what has branches or loops has tests of its own.
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.If, ast.For, ast.Try))]


def check_metrics(metrics: Any, expected: dict[str, Any], model: str = "") -> None:
    """Check the numbers in the artifact and in its file, without which kfp's cache never hits."""
    numbers = dict(metrics.metadata)
    # What tells the tasks of a loop apart where runs are compared.
    assert numbers.pop("model", "") == model
    assert json.loads(Path(metrics.path).read_text()) == numbers
    assert all(name.isidentifier() for name in numbers)
    assert 1 <= len(numbers) <= MOST_METRICS
    assert not [name for name in numbers if name.endswith(("_low", "_high"))]
    for name, value in numbers.items():
        assert value == pytest.approx(float(expected[name]))


def test_prepare_data_makes_examples(prepared: SimpleNamespace):
    manifest = manifest_of(prepared.examples)
    assert manifest.counts["train_rows"] > manifest.counts["test_rows"] > 0
    check_metrics(prepared.metrics, manifest.counts)
    assert prepared.returned == (prepared.examples.uri,)


def test_sample_negatives_makes_preferences(sampled: SimpleNamespace):
    manifest = manifest_of(sampled.preferences)
    assert manifest.config["num_candidates"] == 6
    check_metrics(sampled.metrics, manifest.counts)
    assert sampled.returned == (sampled.preferences.uri,)


def test_a_training_goes_on_from_the_place_that_was_compiled_in(
    call: Call,
    sampled: SimpleNamespace,
    tuned: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """The retry of a task has another folder for its output, and the same environment."""
    monkeypatch.setenv("DYNAMICPO_CHECKPOINT_PREFIX", str(tmp_path / "place"))
    # Every step has an end of this interval.
    monkeypatch.setenv("DYNAMICPO_CHECKPOINT_MINUTES", "1e-9")
    arguments = {"max_steps": 2, "settings": {"batch_size": 8.0}}
    with monkeypatch.context() as lost, pytest.raises(RuntimeError, match="a lost node"):
        lost.setattr(checkpoints, "save_model", mock.Mock(side_effect=RuntimeError("a lost node")))
        call("sft", preferences=sampled.preferences, **arguments)
    with caplog.at_level("INFO", logger="dynamicpo"):
        retried = call("sft", preferences=sampled.preferences, **arguments)
    assert "going on from step 1 of 2" in caplog.text
    assert manifest_of(retried.model).files == manifest_of(tuned.model).files
    assert not (tmp_path / "place").exists()


def test_fine_tune_makes_a_model(tuned: SimpleNamespace):
    manifest = manifest_of(tuned.model)
    assert manifest.config["max_steps"] == 2
    check_metrics(tuned.metrics, manifest.counts, "sft")
    assert tuned.returned == (tuned.model.uri, tuned.report.uri)
    assert (
        Path(tuned.report.path).read_text() == (Path(tuned.model.path) / "report.html").read_text()
    )


def test_train_preferences_continues_the_sft_model(
    call: Call, sampled: SimpleNamespace, tuned: SimpleNamespace
):
    made = call(
        "preference_training",
        preferences=sampled.preferences,
        adapter=tuned.model,
        name="dynamicpo-dmpo",
        num_negatives=3,
        settings={"max_steps": 2, "batch_size": 8},
    )
    manifest = manifest_of(made.model)
    sft = manifest_of(tuned.model)
    assert sft.fingerprint in manifest.inputs.values()
    check_metrics(made.metrics, manifest.counts, "dynamicpo-dmpo")
    assert made.returned == (made.model.uri, made.report.uri)
    assert Path(made.report.path).read_text() == (Path(made.model.path) / "report.html").read_text()


def test_evaluate_logs_the_metrics_of_one_model(evaluated: SimpleNamespace):
    metrics = json.loads((Path(evaluated.evaluation.path) / "sft" / "metrics.json").read_text())
    check_metrics(evaluated.metrics, metrics, "sft")
    assert evaluated.returned == (evaluated.evaluation.uri, evaluated.report.uri)
    assert 0 <= evaluated.metrics.metadata["test_hit_ratio_at_1"] <= 1
    assert (
        Path(evaluated.report.path).read_text()
        == (Path(evaluated.evaluation.path) / "report.html").read_text()
    )


def test_baselines_are_trained_once_and_taken_over(
    call: Call, sampled: SimpleNamespace, tuned: SimpleNamespace, evaluated: SimpleNamespace
):
    # A model's settings: the base and a generator need one, and are left to its own evaluation.
    settings = {"resamples": 100, "base": True, "generator": "cooccurrence"}
    made = call("baselines", preferences=sampled.preferences, settings=settings)
    taken = call(
        "evaluation",
        preferences=sampled.preferences,
        model=tuned.model,
        name="sft",
        baselines=made.evaluation,
        settings={"resamples": 100},
    )
    manifest = manifest_of(taken.evaluation)
    assert manifest.inputs["baselines"] == manifest_of(made.evaluation).fingerprint
    for path in ("sasrec/ranks.parquet", "sft/ranks.parquet", "comparisons.json"):
        with_baselines = Path(taken.evaluation.path) / path
        assert with_baselines.read_bytes() == (Path(evaluated.evaluation.path) / path).read_bytes()
    assert "sasrec" in Path(made.report.path).read_text()


def test_compare_evaluations_shows_all_models(
    call: Call, sampled: SimpleNamespace, tuned: SimpleNamespace, evaluated: SimpleNamespace
):
    again = call(
        "evaluation",
        preferences=sampled.preferences,
        model=tuned.model,
        name="again",
        settings={"resamples": 100},
    )
    made = call(
        "comparison",
        baselines=evaluated.evaluation,
        evaluations=[again.evaluation],
        rows_uri=sampled.preferences.uri,
        sft_uri=tuned.model.uri,
        sft_report_uri=tuned.report.uri,
        baselines_report_uri=evaluated.report.uri,
        model_uris=["minio://b/again"],
        training_report_uris=["minio://b/training"],
        evaluation_report_uris=[again.report.uri],
        run_id="run-1",
        pipeline="training",
        images=["registry.invalid/dynamicpo"],
        # As Kubeflow delivers them.
        parameters={"sft_lora_rank": 40.0, "sft_epochs": 2.0, "sft_seed": "9007199254740993"},
    )
    for text in (Path(made.table.path).read_text(), Path(made.report.path).read_text()):
        assert all(name in text for name in ("random", "popularity", "sft", "again"))
    check_record(made, sampled, tuned, evaluated, again)
    metrics = evaluated.metrics.metadata
    assert made.scorecard.metadata["sft_hit_ratio_at_1"] == round(metrics["test_hit_ratio_at_1"], 3)


def check_record(
    made: SimpleNamespace,
    sampled: SimpleNamespace,
    tuned: SimpleNamespace,
    evaluated: SimpleNamespace,
    again: SimpleNamespace,
) -> None:
    record = json.loads((Path(made.record.path) / "record.json").read_text())
    parameters = {"sft_lora_rank": 40, "sft_epochs": 2.0, "sft_seed": 9007199254740993}
    assert (record["run"], record["parameters"]) == ("run-1", parameters)
    assert type(record["parameters"]["sft_lora_rank"]) is int
    assert record["rows"] == sampled.preferences.uri and record["report"] == made.report.uri
    rows = {"rows": manifest_of(tuned.model).counts["rows"]}
    assert record["training_rows"] == {"sft": rows, "again": rows}
    assert record["models"] == {"sft": tuned.model.uri, "again": "minio://b/again"}
    assert record["evaluations"] == {
        "sft": evaluated.evaluation.uri,
        "again": again.evaluation.uri,
    }
    assert record["reports"]["training"] == {
        "sft": tuned.report.uri,
        "again": "minio://b/training",
    }
    assert {"random", "sasrec", "sft", "again"} <= set(record["metrics"])


@pytest.mark.parametrize("scored", [False, True], ids=["rows alone", "with a model"])
def test_monitor_drift_returns_its_verdict(
    call: Call, sampled: SimpleNamespace, tuned: SimpleNamespace, scored: bool
):
    model = tuned.model if scored else None
    made = call("drift_monitoring", current=sampled.preferences, model=model)
    manifest = manifest_of(made.drift)
    # Twelve users are too few to tell, which is no failure of the task.
    assert made.returned == (False, "too few users")
    assert manifest.counts["too_few_users"]
    check_metrics(made.metrics, manifest.counts)


def test_a_wrong_value_is_named(call: Call, prepared: SimpleNamespace):
    from dynamicpo.core.errors import ConfigError

    with pytest.raises(
        ConfigError, match=r"strategy: unknown name 'unifrom'.*Did you mean 'uniform'"
    ):
        call("negative_sampling", examples=prepared.examples, strategy="unifrom")


def test_metrics_leave_out_what_kfp_cannot_hold(tmp_path: Path):
    from kfp import dsl

    from dynamicpo.runs.component_artifacts import log_metrics

    metrics = dsl.Metrics(uri=str(tmp_path / "metrics"))
    log_metrics(
        metrics, {"rewards/margins": 1, "loss": float("nan"), "note": "text", "drifted": True}
    )
    assert metrics.metadata == {"rewards_margins": 1.0, "drifted": 1.0}


def test_main_parameters_win_over_settings():
    from dynamicpo.core.config import DriftConfig
    from dynamicpo.runs.component_artifacts import config_of

    config = config_of(DriftConfig, {"rows": 7.0, "seed": 2}, threshold=1, seed=3, split=None)
    assert config == DriftConfig(rows=7, threshold=1.0, seed=3)
    assert (type(config.rows), type(config.threshold)) == (int, float)


def test_an_unknown_setting_is_named(call: Call, prepared: SimpleNamespace):
    from dynamicpo.core.errors import ConfigError

    with pytest.raises(ConfigError, match="unknown name 'hard_shar'.*Did you mean 'hard_share'"):
        call("negative_sampling", examples=prepared.examples, settings={"hard_shar": 0.1})
