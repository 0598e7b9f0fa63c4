"""Internals of kfp that local runs depend on: each test here fails when kfp changes one of them."""

import ast
import importlib
import logging
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kfp.local
import pytest
from kfp import dsl
from kfp.local import logging_utils
from kfp.local.io import IOStore
from kfp.local.orchestrator import task_executor, task_spec_utils
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineTaskSpec

from dynamicpo.core.errors import ConfigError
from dynamicpo.runs.local import kfp_internals
from dynamicpo.runs.local.kfp_internals import PATCHES, Patch, TaskCall, TaskResult, hooked

patches = pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.function)


class Recorder:
    """Hooks that take every task for one that succeeded."""

    workers = 1

    def __init__(self) -> None:
        self.calls: list[TaskCall] = []

    def execute(self, call: TaskCall) -> TaskResult:
        self.calls.append(call)
        return TaskResult({"Output": 1}, succeeded=True)

    def run_process(self, command: list[str], environment: Mapping[str, str]) -> int:
        raise AssertionError

    def run_container(self, client: Any, image: str, command: list[str], **_: object) -> int:
        raise AssertionError


def function_of(patch: Patch) -> Any:
    return operator.attrgetter(patch.function)(importlib.import_module(patch.module))


@patches
def test_kfp_has_the_function_that_is_replaced(patch: Patch):
    assert patch.applies_to(function_of(patch))


@patches
def test_the_function_is_replaced_until_the_block_ends(patch: Patch):
    original = function_of(patch)
    with pytest.raises(KeyError), hooked(Recorder()):
        assert function_of(patch) is not original
        raise KeyError
    assert function_of(patch) is original


@dsl.component(base_image="python:local", install_kfp_package=False)
def step(x: int = 0) -> int:
    return x


@dsl.pipeline(name="loop")
def loop(rows: list = [1, 2], entries: list = [{"name": "a", "x": 3}]):  # noqa: B006
    first = step(x=1)
    first.set_display_name("first step")
    with dsl.ParallelFor(rows) as row:
        step(x=row).after(first)
    with dsl.ParallelFor(entries) as entry:
        step(x=entry.x).after(first)


def run(pipeline: Any, folder: Path) -> list[TaskCall]:
    """The calls of tasks, in a run in which none is executed."""
    kfp.local.init(kfp.local.SubprocessRunner(use_venv=False), pipeline_root=str(folder))
    recorder = Recorder()
    with hooked(recorder):
        pipeline()
    return recorder.calls


def test_kfp_calls_the_hooks_for_every_task(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    calls = run(loop, tmp_path)
    assert calls[0].name == "first step"
    assert calls[0].loop_items == []
    items = [call.loop_items for call in calls[1:]]
    assert sorted(items, key=str) == [[1], [2], [{"name": "a", "x": 3}]]
    assert capfd.readouterr().out == ""


def test_outputs_of_tasks_reach_the_tasks_of_a_loop():
    loop = PipelineTaskSpec()
    loop.parameter_iterator.item_input = "entries-loop-item"
    settings = loop.inputs.parameters["settings"].task_output_parameter
    settings.producer_task = "check-settings"
    settings.output_parameter_key = "preference"

    def first_iteration() -> PipelineTaskSpec:
        return task_spec_utils.create_parameter_loop_iteration_task_spec(loop, "entry", "each")

    kfps_own = first_iteration().inputs.parameters["settings"]
    assert kfps_own.runtime_value.constant.string_value == "entry"  # what the patch is for
    with hooked(Recorder()):
        parameters = first_iteration().inputs.parameters
    assert parameters["settings"].task_output_parameter == settings
    assert parameters["entries-loop-item"].runtime_value.constant.string_value == "entry"


def test_a_loop_finds_one_of_several_outputs_of_a_task():
    values = IOStore()
    values.put_task_output("check-settings", "objectives", ["dmpo", "sdpo"])
    key = "check-settings-objectives"
    with pytest.raises(ValueError, match="not found"):  # what the patch is for
        values.get_parent_input(key)
    with hooked(Recorder()):
        assert values.get_parent_input(key) == ["dmpo", "sdpo"]
        with pytest.raises(ValueError, match="not found"):
            values.get_parent_input("check-settings-other")


def test_tasks_are_counted_by_the_lengths_of_lists():
    lengths = {"rows": 5, "entries": 7}
    assert kfp_internals.count_tasks(loop.pipeline_spec, lengths.__getitem__) == 1 + 5 + 7


def printing_functions(path: Path) -> set[str]:
    """The innermost functions of a module that call `print`."""
    names = set()

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "original_print"):
            names.add(function)
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return names


def test_kfp_prints_in_replaced_functions_alone():
    """Otherwise something of kfp would stand among a command's results."""
    modules = Path(kfp.local.__file__).parent.rglob("*.py")
    sources = [path for path in modules if not path.stem.endswith(("_test", "testing_utilities"))]
    printing = set().union(*(printing_functions(path) for path in sources))
    # What `indented_print` puts in the place of `print`.
    assert printing - {"indented_print_function"} <= {patch.function for patch in PATCHES}


def test_others_print_and_log_as_before(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    with hooked(Recorder()), caplog.at_level(logging.INFO):
        print("a result")  # noqa: T201
        logging.info("of ours")
        logging_utils.print_horizontal_line()
        logging.getLogger().handle(
            logging.LogRecord("root", 20, task_executor.__file__, 1, "of kfp", (), None)
        )
    assert capfd.readouterr().out == "a result\n"
    assert [record.getMessage() for record in caplog.records] == ["of ours"]


def test_a_function_that_changed_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    kfp_internals._report_change.cache_clear()

    def other_function(width: int) -> None:
        pass

    monkeypatch.setattr(logging_utils, "print_horizontal_line", other_function)
    for _ in range(2):
        with hooked(Recorder()):
            assert logging_utils.print_horizontal_line is other_function
    (record,) = caplog.records
    assert "kfp.local.logging_utils.print_horizontal_line is not as in kfp" in record.getMessage()


def test_a_run_does_not_start_without_an_account_of_its_tasks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(task_executor, "execute_single_task")
    message = "execute_single_task is not as in kfp .*Install kfp"
    with pytest.raises(ConfigError, match=message), hooked(Recorder()):
        raise AssertionError
