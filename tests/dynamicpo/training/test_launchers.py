"""What a launcher puts into the environment: several processes are refused, its settings hidden."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dynamicpo.core.config import PreferenceConfig, SFTConfig
from dynamicpo.core.errors import ConfigError
from dynamicpo.distributed.launchers import check_one_process, without_launcher_settings
from dynamicpo.training import sft_batches
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
    with pytest.raises(ConfigError, match="sft: works in one process, but the launcher started 2"):
        fine_tune(preferences, output, SFTConfig())
    with pytest.raises(ConfigError, match="train-preferences: works in one process"):
        train_preferences(preferences, model, output, PreferenceConfig(num_negatives=2))
    assert not output.exists()


def test_torchrun_itself_is_refused_with_two_processes_and_runs_with_one(tmp_path: Path) -> None:
    """Its agents and ranks are real; what a stage imports besides takes too long for a test."""
    script = tmp_path / "stage.py"
    script.write_text(
        "import os\n"
        "from pathlib import Path\n"
        "from dynamicpo.distributed.launchers import check_one_process\n"
        "check_one_process('sft')\n"
        "Path(__file__).with_suffix('.' + os.environ['RANK']).touch()\n"
    )
    for number, is_refused in ((2, True), (1, False)):
        finished = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", str(number), str(script)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ("the launcher started 2 (WORLD_SIZE)" in finished.stderr) == is_refused
        assert (finished.returncode != 0) == is_refused
        assert script.with_suffix(".0").exists() != is_refused


@pytest.mark.parametrize("value", ["1", "", " "])
def test_one_process_of_a_launcher_is_as_good_as_none(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    check_one_process("sft")


def test_several_processes_of_mpi_in_a_pod_of_one_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="the launcher started 2 .OMPI_COMM_WORLD_SIZE"):
        check_one_process("sft")


def test_a_number_of_processes_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE: must be a number of processes, got 'two'"):
        check_one_process("sft")


def one_step(folder: Path) -> float:
    """Loss of a training step on a row of three tokens."""
    rows = [{"example_id": "1:1", "input_ids": [3, 4, 5], "labels": [-100, 4, 5]}]
    schedule = Schedule.from_config(SFTConfig(max_steps=1), learning_rate=0.1)
    model = tiny_model("llama")
    steps = train(model, rows, sft_batches.collate_sft, cross_entropy, schedule, folder, "test")
    return steps[0]["loss"]


def test_ranks_that_a_launcher_left_behind_change_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By LOCAL_RANK alone accelerate would look for other processes, at MASTER_ADDR."""
    alone = one_step(tmp_path)
    left_behind = {"LOCAL_RANK": "0", "RANK": "3", "MPI_LOCALRANKID": "1"}
    for name, value in left_behind.items():
        monkeypatch.setenv(name, value)
    assert one_step(tmp_path) == alone
    assert {name: os.environ[name] for name in left_behind} == left_behind


def test_precision_in_the_environment_does_not_change_a_training_in_float32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    rows = [{"example_id": "1:1", "input_ids": [3, 4, 5], "labels": [-100, 4, 5]}]
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
