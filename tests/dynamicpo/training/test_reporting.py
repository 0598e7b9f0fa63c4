"""A training's metrics where others look at them: TensorBoard, MLflow, and what happens if not."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynamicpo.core.config import PreferenceConfig, SFTConfig
from dynamicpo.core.errors import ConfigError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.training.preference_training import train_preferences
from dynamicpo.training.sft import fine_tune
from tests.fixtures.folders import write_preferences, write_title_model

# Of one step each, so that every step has lines of its own.
STEPS = 3


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_preferences(tmp_path_factory.mktemp("rows") / "preferences")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_title_model(tmp_path_factory.mktemp("backbone") / "model")


def train(preferences: Path, model: Path, output: Path, **settings: Any) -> list[dict[str, float]]:
    """The lines of a training's log."""
    config = PreferenceConfig(num_negatives=2, max_steps=STEPS, batch_size=4, **settings)
    train_preferences(preferences, model, output, config)
    lines = (output / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_tensorboard_and_mlflow_have_each_step_of_the_log(
    preferences: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    address = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    events = tmp_path / "events"
    settings = {"report_to": "tensorboard,mlflow", "report_folder": str(events)}
    steps = train(preferences, model, tmp_path / "dpo", **settings)

    (attempt,) = events.glob("*/*")
    assert attempt.parent.name == "dynamicpo-dmpo-2-negatives-seed-0"
    written = EventAccumulator(str(attempt)).Reload()
    scalars = {scalar.step: scalar.value for scalar in written.Scalars("train/loss")}
    assert scalars == pytest.approx({step["step"]: step["loss"] for step in steps})
    assert "train/boundary_gradient" in written.Tags()["scalars"]

    client = mlflow.MlflowClient(address)
    (run,) = client.search_runs(["0"])
    assert run.info.run_name == "DynamicPO-DMPO, 2 negatives, seed 0"
    assert run.info.status == "FINISHED"
    for name in ("loss", "rewards/margins", "learning_rate"):
        history = client.get_metric_history(run.info.run_id, name)
        values = {metric.step: metric.value for metric in history}
        assert values == pytest.approx({step["step"]: step[name] for step in steps})


def test_results_are_the_same_whoever_is_told(
    preferences: Path, model: Path, tmp_path: Path
) -> None:
    train(preferences, model, tmp_path / "silent")
    settings = {"report_to": "tensorboard", "report_folder": str(tmp_path / "events")}
    train(preferences, model, tmp_path / "told", **settings)
    manifests = [read_manifest(tmp_path / name) for name in ("silent", "told")]
    assert manifests[0].fingerprint == manifests[1].fingerprint


def test_a_server_that_does_not_answer_costs_its_metrics_alone_and_shows_no_password(
    preferences: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://anna:hunter2@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    with caplog.at_level(logging.DEBUG):
        steps = train(preferences, model, tmp_path / "dpo", report_to="mlflow")
    assert len(steps) == STEPS
    warnings = [line for line in caplog.messages if line.startswith("report_to: mlflow failed")]
    assert len(warnings) == 1
    assert "hunter2" not in caplog.text


def test_a_package_that_is_missing_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = "report_to: wandb needs the package wandb, which is not installed"
    nowhere = tmp_path / "nowhere"
    with pytest.raises(ConfigError, match=message):
        fine_tune(nowhere, tmp_path / "sft", SFTConfig(report_to="wandb"))
    with pytest.raises(ConfigError, match=message):
        train_preferences(nowhere, nowhere, tmp_path / "dpo", PreferenceConfig(report_to="wandb"))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [SFTConfig, PreferenceConfig])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"report_to": "tensorbord"}, "report_to: unknown name 'tensorbord'.*'tensorboard'"),
        ({"report_to": "mlflow,"}, "report_to: unknown name ''"),
        ({"report_to": "tensorboard"}, "report_folder: must be a local or mounted folder"),
        (
            {"report_to": "tensorboard", "report_folder": "gs://bucket/events"},
            "report_folder: must be a local or mounted folder .* got 'gs://bucket/events'",
        ),
    ],
)
def test_settings_that_cannot_be_used(
    kind: type[SFTConfig] | type[PreferenceConfig], settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**settings)
