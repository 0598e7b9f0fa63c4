"""What a launcher puts into the environment: several processes are refused, its settings hidden."""

import os
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import nn

from dynamicpo.core.config import PreferenceConfig, SFTConfig
from dynamicpo.core.errors import ConfigError
from dynamicpo.training import sft_batches
from dynamicpo.training.launchers import check_one_process, without_launcher_settings
from dynamicpo.training.preference_training import train_preferences
from dynamicpo.training.schedule import Schedule
from dynamicpo.training.sft import fine_tune
from dynamicpo.training.sft_batches import cross_entropy
from dynamicpo.training.trainer import train
from tests.fixtures.folders import write_model, write_preferences
from tests.fixtures.scoring import tiny_model


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_several_processes_are_refused_before_any_work(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "2")
    preferences = write_preferences(tmp_path / "preferences")
    model = write_model(tmp_path / "model")
    output = tmp_path / "output"
    with pytest.raises(ConfigError, match="sft: trains in one process, but the launcher started 2"):
        fine_tune(preferences, output, SFTConfig())
    with pytest.raises(ConfigError, match="train-preferences: trains in one process"):
        train_preferences(preferences, model, output, PreferenceConfig(num_negatives=2))
    assert not output.exists()


def test_one_process_of_a_launcher_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_one_process("sft")


def test_precision_in_the_environment_does_not_change_a_training_in_float32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    rows = Dataset.from_dict({"input_ids": [[3, 4, 5]], "labels": [[-100, 4, 5]]})
    model = tiny_model("llama")
    # Far from 1, so that products in bfloat16 show.
    by_hand = nn.functional.cross_entropy(
        model(torch.tensor([[3, 4, 5]])).logits[0, :2], torch.tensor([4, 5])
    )
    schedule = Schedule.from_config(SFTConfig(max_steps=1), learning_rate=0.1)
    steps = train(model, rows, sft_batches.collate_sft, cross_entropy, schedule, tmp_path, "test")
    assert steps[0]["loss"] == pytest.approx(float(by_hand.detach()), abs=1e-5)
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_settings_of_a_launcher_come_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "7")
    with pytest.raises(ZeroDivisionError), without_launcher_settings():
        assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" not in os.environ
        raise ZeroDivisionError
    assert os.environ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == "7"
