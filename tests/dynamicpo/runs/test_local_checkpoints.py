"""Trainings of local runs have a place for checkpoints, which is that of a later run, too."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from dynamicpo.runs.local.run import _own_checkpoints
from dynamicpo.runs.local.task_runner import TaskRunner
from dynamicpo.runs.local.tasks import Task

PRINTS = 'echo "$DYNAMICPO_CHECKPOINT_PREFIX $DYNAMICPO_CHECKPOINT_MINUTES"'


def printed(runner: TaskRunner, name: str, folder: Path) -> str:
    task = runner._current.task = Task(name, folder / "task.log")
    assert runner.run_process(["sh", "-c", PRINTS], {}) == 0
    return task.tail[-1]


def test_each_task_has_a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the shell that starts the run: another place than the run's.
    monkeypatch.setenv("DYNAMICPO_CHECKPOINT_PREFIX", "/elsewhere")
    runner = TaskRunner(tmp_path, 1, 1, tmp_path, str(tmp_path))
    runner.checkpoints = tmp_path / "kept"
    assert printed(runner, "fine-tune", tmp_path) == f"{tmp_path}/kept/fine-tune 1"
    place = f"{tmp_path}/kept/train-preferences-dmpo 1"
    assert printed(runner, "train-preferences dmpo", tmp_path) == place


def test_of_two_runs_of_the_same_at_once_one_keeps_checkpoints(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with ExitStack() as first, ExitStack() as second:
        place = _own_checkpoints(cache, first)
        assert place == cache / "artifacts" / ".checkpoints"
        assert _own_checkpoints(cache, second) is None
    with ExitStack() as later:
        assert _own_checkpoints(cache, later) == place
