"""Graphs whose tasks run side by side."""

import threading
from pathlib import Path
from typing import Any

import kfp.local
import pytest
from kfp import dsl

from dynamicpo.runs.local.kfp_internals import TaskCall, TaskResult, hooked

WAIT_SECONDS = 20


class Recorder:
    """Hooks that keep when tasks begin and end; some wait for others, and one may fail."""

    workers = 2

    def __init__(self, failing: str = "", together: tuple[str, ...] = ()) -> None:
        self.failing = failing
        self.together = together
        self.events: list[str] = []
        self._barrier = threading.Barrier(max(len(together), 1))

    def execute(self, call: TaskCall) -> TaskResult:
        name = call.name
        self.events.append(f"begin {name}")
        if name in self.together:
            # Breaks where not all of them are there at once.
            self._barrier.wait(WAIT_SECONDS)
        self.events.append(f"end {name}")
        return TaskResult({"Output": 1}, succeeded=name != self.failing)

    def run_process(self, *_: object) -> int:
        raise AssertionError

    def run_container(self, *_: object, **__: object) -> int:
        raise AssertionError

    def names(self, kind: str) -> list[str]:
        return [event.removeprefix(f"{kind} ") for event in self.events if event.startswith(kind)]


@dsl.component(base_image="python:local", install_kfp_package=False)
def step(x: int = 0) -> int:
    return x


def named(name: str, **arguments: Any) -> dsl.PipelineTask:
    return step(**arguments).set_display_name(name)


@dsl.pipeline(name="diamond")
def diamond(rows: list = ["a", "b"], wanted: int = 1):  # noqa: B006
    first = named("first", x=1)
    left = named("left", x=first.output)
    right = named("right", x=first.output)
    with dsl.ParallelFor(rows):
        named("round", x=left.output)
    named("last", x=left.output).after(right)
    with dsl.If(wanted == 1):
        named("taken", x=first.output)
    with dsl.If(wanted == 2):
        named("left out", x=first.output)


def run(recorder: Recorder, folder: Path, **parameters: Any) -> list[str]:
    kfp.local.init(kfp.local.SubprocessRunner(use_venv=False), pipeline_root=str(folder))
    with hooked(recorder):
        diamond(**parameters)
    return recorder.events


def test_tasks_that_need_nothing_of_each_other_run_at_once(tmp_path: Path):
    run(Recorder(together=("left", "right", "taken")), tmp_path)


def test_a_loop_has_as_many_rounds_at_once_as_there_are_workers(tmp_path: Path):
    recorder = Recorder(together=("round", "round", "round"))
    recorder.workers = 3
    run(recorder, tmp_path, rows=["a", "b", "c"])


def test_a_task_begins_when_those_before_it_have_ended(tmp_path: Path):
    events = run(Recorder(together=("left", "right")), tmp_path)
    place = events.index
    assert events[:2] == ["begin first", "end first"]
    assert place("begin last") > max(place("end left"), place("end right"))
    rounds = [number for number, event in enumerate(events) if event == "begin round"]
    assert len(rounds) == 2
    assert min(rounds) > place("end left")


def test_a_condition_that_does_not_hold_leaves_its_tasks_out(tmp_path: Path):
    recorder = Recorder()
    run(recorder, tmp_path)
    assert "taken" in recorder.names("begin")
    assert "left out" not in recorder.names("begin")


def test_what_needs_a_failed_task_does_not_begin(tmp_path: Path):
    recorder = Recorder(failing="left")
    with pytest.raises(RuntimeError, match="failed"):
        run(recorder, tmp_path)
    begun = recorder.names("begin")
    assert not {"round", "last"} & {*begun}
    assert {"first", "left", "right", "taken"} <= {*begun}


def test_one_at_a_time_they_have_the_order_of_kfp(tmp_path: Path):
    orders = []
    for _ in range(3):
        recorder = Recorder()
        recorder.workers = 1
        events = run(recorder, tmp_path)
        orders.append([event for event in events if not event.endswith("round")])
    assert orders[0] == orders[1] == orders[2]
    begun, ended = orders[0][::2], orders[0][1::2]
    assert [event.removeprefix("begin ") for event in begun] == [
        event.removeprefix("end ") for event in ended
    ]
