"""Processes that a stage starts by itself, and what is left when one of them is killed."""

import logging
import threading
import time
from pathlib import Path

import psutil
import pytest

from dynamicpo.core.config import EvaluationConfig, PreferenceConfig, SFTConfig
from dynamicpo.core.config_checkpoints import CheckpointConfig
from dynamicpo.core.config_fields import Checked
from dynamicpo.core.errors import ConfigError, RunFailedError, ToldError
from dynamicpo.distributed import group
from dynamicpo.distributed.workers import done_by_workers
from dynamicpo.training.sft import fine_tune
from tests.fixtures.folders import write_preferences

pytestmark = pytest.mark.training
CONFIG = SFTConfig(num_processes=2, batch_size=2, max_steps=80)


def kill_one(place: Path, others: set[int], killed: list[psutil.Process]) -> None:
    """Kill a worker of this process once there is a checkpoint; other tests have children too."""
    while not list(place.glob("*/*/state.json")):
        time.sleep(0.05)
    workers = [child for child in psutil.Process().children() if child.pid not in others]
    workers[-1].kill()
    killed += workers


@pytest.mark.parametrize("kind", [SFTConfig, PreferenceConfig, EvaluationConfig])
def test_more_processes_than_a_machine_takes_are_refused(kind: type[Checked]) -> None:
    with pytest.raises(ConfigError, match="num_processes: must be <= 64, got 65"):
        kind(num_processes=65)


class GoneStore:
    """The store of a main process that has ended."""

    def compare_set(self, *_: str) -> bytes:
        raise RuntimeError("connection reset")


@pytest.mark.parametrize(("error", "code"), [(ConfigError("rows: none."), 2), (OSError(), 1)])
def test_a_failure_keeps_its_exit_code_where_nobody_can_tell_who_failed_first(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The main one, as the others speak of errors alone from then on.
    launched = group.Launched(rank=0, world_size=2, local_rank=0, local_world_size=2)
    monkeypatch.setattr(group, "launched_by_torchrun", lambda: launched)
    monkeypatch.setattr(group, "_meet", lambda _: GoneStore())
    monkeypatch.setattr(group, "_end_with_launcher", lambda: None)
    monkeypatch.setattr(group, "see_one_gpu", lambda _: None)
    with pytest.raises(ToldError) as raised, group.joined_group():
        raise error
    assert raised.value.exit_code == code


def test_a_killed_worker_ends_all_and_the_next_start_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    preferences = write_preferences(tmp_path / "preferences")
    place = tmp_path / "kept"
    checkpoints = CheckpointConfig(checkpoints=str(place), checkpoint_steps=2)
    workers: list[psutil.Process] = []
    others = {child.pid for child in psutil.Process().children()}
    killer = threading.Thread(target=kill_one, args=(place, others, workers))
    killer.start()
    with pytest.raises(RunFailedError, match="SIGKILL ended process 1"):
        fine_tune(preferences, tmp_path / "output", CONFIG, checkpoints)
    killer.join()
    assert len(workers) == 2 and not any(worker.is_running() for worker in workers)
    assert not (tmp_path / "output").exists()
    capfd.readouterr()
    manifest = fine_tune(preferences, tmp_path / "output", CONFIG, checkpoints)
    printed = capfd.readouterr()
    assert "2 processes work together" in printed.err
    assert "going on from step" in printed.err and not printed.out
    assert manifest.counts["steps"] == CONFIG.max_steps
    # One process, or another number of them, gives the same result but for rounding.
    assert "num_processes" not in manifest.config


def test_what_a_worker_says_is_said_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Those of commands that earlier tests ran: their streams are closed.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(ToldError) as raised:
        done_by_workers("sft", {"output": tmp_path / "output"}, CONFIG, {})
    assert raised.value.exit_code == 2
    printed = capfd.readouterr().err
    assert printed.count("sft: --preferences must be given") == 1
    assert "Traceback" not in printed and "exitcode" not in printed


def test_one_process_is_the_default_without_several_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert done_by_workers("sft", {"output": tmp_path}, SFTConfig(), {}) is None
