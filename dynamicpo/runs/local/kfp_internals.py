"""Internals of kfp that a local run replaces, as of kfp 2.17.

kfp.local tells of a run by printing and logging, through process-wide state that is not safe with
two tasks at once, and it takes no callbacks. So `hooked` replaces a few of its functions for as
long as a run lasts. kfp still decides with which arguments a task runs, and what the cache holds;
with several workers `kfp_dag` decides when. tests/dynamicpo/runs/test_kfp_internals.py fails when
kfp changes what is used here, test_kfp_dag.py when it changes what is used there.
"""

import contextlib
import functools
import importlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypedDict

from dynamicpo.core.errors import ConfigError
from dynamicpo.runs.local.kfp_dag import run_graph

if TYPE_CHECKING:
    import docker
    from kfp.local.io import IOStore
    from kfp.local.status import Status
    from kfp.pipeline_spec.pipeline_spec_pb2 import (
        ComponentSpec,
        ExecutorInput,
        PipelineSpec,
        PipelineTaskSpec,
    )

log = logging.getLogger(__name__)

# The compiler's names for values that pass from one level of a pipeline to another.
_CHANNEL_PREFIX = "pipelinechannel--"
_LOOP_ITEM_SUFFIX = "-loop-item"


class TaskResult(NamedTuple):
    """The result of a task: output parameters and artifacts, and whether it succeeded."""

    outputs: Mapping[str, object]
    succeeded: bool


class TaskArguments(TypedDict):
    """The arguments of kfp's `execute_single_task` that are read here; it takes more."""

    task_name: str
    task_spec: "PipelineTaskSpec"
    io_store: "IOStore"


class TaskCall:
    """A call of kfp's `execute_single_task`, not yet made.

    Args:
        function: That function.
        arguments: All its arguments.
    """

    def __init__(
        self,
        function: "Callable[..., tuple[dict[str, object], Status]]",
        arguments: TaskArguments,
    ) -> None:
        """Keep both."""
        self._function = function
        self._arguments = arguments

    def execute(self) -> TaskResult:
        """Make the call: take the task's outputs from the cache, or run it."""
        from kfp.local.status import Status

        outputs, status = self._function(**self._arguments)
        return TaskResult(outputs, status == Status.SUCCESS)

    @property
    def name(self) -> str:
        """The task's display name; its id where it has none."""
        task_info = self._arguments["task_spec"].task_info
        return task_info.name or self._arguments["task_name"]

    @property
    def loop_items(self) -> list[object]:
        """The items of the loops around the task, those that it reads."""
        inputs = self._arguments["task_spec"].inputs.parameters.values()
        channels = {value.component_input_parameter for value in inputs}
        names = [name for name in channels if name.endswith(_LOOP_ITEM_SUFFIX)]
        values = self._arguments["io_store"]
        return [values.get_parent_input(name) for name in sorted(names)]


class TaskHooks(Protocol):
    """The functions that run in place of kfp's."""

    @property
    def workers(self) -> int:
        """The number of tasks that may run at once."""

    def execute(self, call: TaskCall) -> TaskResult:
        """Execute a task, or refuse to."""

    def run_process(self, command: list[str], environment: Mapping[str, str]) -> int:
        """Run a task's command in a process. Returns its exit code."""

    def run_container(
        self,
        client: "docker.DockerClient",
        image: str,
        command: list[str],
        environment: Mapping[str, str] | None = None,
        **arguments: object,
    ) -> int:
        """Run a task's command in a container. Returns its exit code."""


Function = Callable[..., object]


@dataclass(frozen=True)
class Patch:
    """A function of kfp that is replaced while a pipeline runs.

    Attributes:
        module: The module whose attribute it is.
        function: The attribute; for a method its class, a dot and its name.
        parameters: The parameters of kfp's function, as the replacement expects them.
        replacement: Makes ours, from kfp's and the hooks.
        purpose: The reason, and so the thing that is missing without the patch.
        is_required: Whether a local run can't do without it.
    """

    module: str
    function: str
    parameters: tuple[str, ...]
    replacement: Callable[[Function, TaskHooks], Function]
    purpose: str
    is_required: bool = False

    def applies_to(self, function: object) -> bool:
        """Tell whether kfp still has the function that this patch was written for."""
        if not callable(function):
            return False
        return tuple(inspect.signature(function).parameters) == self.parameters


def _executing(original: Function, hooks: TaskHooks) -> Function:
    from kfp.local.status import Status

    def execute_single_task(**arguments: object) -> "tuple[Mapping[str, object], Status]":
        call = TaskCall(original, arguments)  # type: ignore[arg-type]
        result = hooks.execute(call)
        return result.outputs, Status.SUCCESS if result.succeeded else Status.FAILURE

    return execute_single_task


def _running_process(_: Function, hooks: TaskHooks) -> Function:
    def run_local_subprocess(
        full_command: list[str], env_vars: Mapping[str, str] | None = None
    ) -> int:
        return hooks.run_process(full_command, env_vars or {})

    return run_local_subprocess


def _running_container(_: Function, hooks: TaskHooks) -> Function:
    return hooks.run_container


def _leaving_command(_: Function, hooks: TaskHooks) -> Function:
    def replace_python_executable(full_command: list[str], new_executable: str) -> list[str]:
        return full_command

    return replace_python_executable


def _leaving_out_absent_values(original: Function, _: TaskHooks) -> Function:
    def executor_input_to_dict(
        executor_input: "ExecutorInput", component_spec: "ComponentSpec"
    ) -> object:
        values = executor_input.inputs.parameter_values
        absent = [name for name, value in values.items() if not value.WhichOneof("kind")]
        for name in absent:
            del values[name]
        return original(executor_input, component_spec)

    return executor_input_to_dict


def _keeping_outputs_of_tasks(original: Function, _: TaskHooks) -> Function:
    def create_parameter_loop_iteration_task_spec(
        original_task_spec: "PipelineTaskSpec", loop_item: object, loop_task_name: str
    ) -> object:
        iteration: PipelineTaskSpec = original(original_task_spec, loop_item, loop_task_name)
        items = original_task_spec.parameter_iterator.item_input
        for name, value in original_task_spec.inputs.parameters.items():
            is_output = value.WhichOneof("kind") == "task_output_parameter"
            if is_output and name != items:
                iteration.inputs.parameters[name].CopyFrom(value)
        return iteration

    return create_parameter_loop_iteration_task_spec


def _finding_outputs_of_tasks(original: Function, _: TaskHooks) -> Function:
    def get_parent_input(self: "IOStore", key: str) -> object:
        # Copies: tasks beside this one add theirs meanwhile.
        for task, outputs in list(self._task_output_data.items()):
            for name, value in list(outputs.items()):
                if key == f"{task}-{name}":
                    return value
        return original(self, key)

    return get_parent_input


def _side_by_side(original: Function, hooks: TaskHooks) -> Function:
    def run_enhanced_dag(**arguments: object) -> object:
        # One at a time they have kfp's order, which is the same each time.
        if hooks.workers == 1:
            return original(**arguments)
        return run_graph(original, hooks.workers, arguments)  # type: ignore[arg-type]

    return run_enhanced_dag


def _doing_nothing(_: Function, hooks: TaskHooks) -> Function:
    return contextlib.nullcontext


# Without it nothing tells that a task begins or ends, or fails; in a loop kfp logs a failure
# and goes on with the tasks behind it.
_TASKS = Patch(
    "kfp.local.orchestrator.task_executor",
    "execute_single_task",
    (
        *("task_name", "task_spec", "pipeline_resource_name", "components", "executors"),
        *("io_store", "pipeline_root", "runner", "unique_pipeline_id", "fail_stack"),
    ),
    _executing,
    "an account of the tasks",
    is_required=True,
)
# kfp prints what a process says and keeps no handle of it: no log of a task, no progress, and
# no way to interrupt it.
_PROCESSES = Patch(
    "kfp.local.subprocess_task_handler",
    "run_local_subprocess",
    ("full_command", "env_vars"),
    _running_process,
    "logs of processes",
    is_required=True,
)
# The same; and kfp takes a container that is gone before it asked for the exit code for one
# that succeeded.
_CONTAINERS = Patch(
    "kfp.local.docker_task_handler",
    "run_docker_container",
    ("client", "image", "command", "volumes", "container_run_args"),
    _running_container,
    "logs and exit codes of containers",
    is_required=True,
)
# kfp puts the interpreter's path for every "python3" in a command, also inside the values of
# parameters: a path with "python3" in it would reach the task changed.
_COMMANDS = Patch(
    "kfp.local.subprocess_task_handler",
    "replace_python_executable",
    ("full_command", "new_executable"),
    _leaving_command,
    "parameters that contain the text python3",
)
# kfp converts a whole number that is optional and was not given as if it had been: `int(None)`.
_ABSENT_VALUES = Patch(
    "kfp.local.executor_input_utils",
    "executor_input_to_dict",
    ("executor_input", "component_spec"),
    _leaving_out_absent_values,
    "parameters of a component that are not given",
    is_required=True,
)
# kfp gives the tasks of a loop the loop's item for every output of an earlier task.
_LOOP_INPUTS = Patch(
    "kfp.local.orchestrator.task_spec_utils",
    "create_parameter_loop_iteration_task_spec",
    ("original_task_spec", "loop_item", "loop_task_name"),
    _keeping_outputs_of_tasks,
    "settings of tasks in a loop",
    is_required=True,
)
# kfp knows a list among the outputs of a task only if it is the only one, and named `Output`.
_LOOP_LISTS = Patch(
    "kfp.local.io",
    "IOStore.get_parent_input",
    ("self", "key"),
    _finding_outputs_of_tasks,
    "loops over one of several outputs of a task",
    is_required=True,
)
# kfp runs the tasks of a graph one after another, but for the rounds of a loop.
_GRAPHS = Patch(
    "kfp.local.orchestrator.enhanced_dag_orchestrator",
    "run_enhanced_dag",
    (
        *("pipeline_resource_name", "dag_component_spec", "executors", "components"),
        *("dag_arguments", "pipeline_root", "runner", "unique_pipeline_id", "fail_stack"),
        "parent_io_store",
    ),
    _side_by_side,
    "tasks side by side",
)
# It replaces `print` of the whole process, and with two tasks at once leaves its own there.
_PRINTING = Patch(
    "kfp.local.logging_utils",
    "indented_print",
    ("num_spaces",),
    _doing_nothing,
    "a `print` that is left alone",
)
# It takes the handlers of the root logger away, ours among them, and with two tasks at once
# puts its own back.
_LOG_HANDLERS = Patch(
    "kfp.local.logging_utils",
    "local_logger_context",
    (),
    _doing_nothing,
    "log handlers that are left alone",
)
# The only thing that kfp still prints; stdout is for results.
_SEPARATORS = Patch(
    "kfp.local.logging_utils",
    "print_horizontal_line",
    (),
    _doing_nothing,
    "a clean standard output",
)
PATCHES = (
    *(_TASKS, _PROCESSES, _CONTAINERS, _COMMANDS, _ABSENT_VALUES),
    *(_LOOP_INPUTS, _LOOP_LISTS, _GRAPHS),
    *(_PRINTING, _LOG_HANDLERS, _SEPARATORS),
)


@contextmanager
def hooked(hooks: TaskHooks) -> Iterator[None]:
    """Have kfp.local run tasks through `hooks`, without a word of its own.

    Raises:
        ConfigError: This version of kfp is another than this was written for.
    """
    with ExitStack() as stack:
        for patch in PATCHES:
            stack.enter_context(_replaced(patch, hooks))
        stack.enter_context(_without_kfp_logs())
        stack.enter_context(_without_kfp_warnings())
        yield


@contextmanager
def _replaced(patch: Patch, hooks: TaskHooks) -> Iterator[None]:
    module = importlib.import_module(patch.module)
    class_name, _, name = patch.function.rpartition(".")
    owner = getattr(module, class_name, None) if class_name else module
    original = getattr(owner, name, None)
    if original is None or not patch.applies_to(original):
        _report_change(patch)
        yield
        return
    setattr(owner, name, patch.replacement(original, hooks))
    try:
        yield
    finally:
        setattr(owner, name, original)


@functools.cache  # once a process, however many pipelines run in it
def _report_change(patch: Patch) -> None:
    import kfp

    problem = f"kfp {kfp.__version__}: {patch.module}.{patch.function} is not as in kfp 2.17"
    if patch.is_required:
        raise ConfigError(
            f"{problem}, and a local run needs it for {patch.purpose}. Install kfp 2.17.0."
        )
    log.warning("%s; local runs go on without %s", problem, patch.purpose)


@contextmanager
def _without_kfp_logs() -> Iterator[None]:
    """Drop what kfp.local logs: it does so on the root logger, as nobody else should."""
    import kfp.local

    folder = str(Path(kfp.local.__file__).parent)

    def is_not_from_kfp(record: logging.LogRecord) -> bool:
        return not record.pathname.startswith(folder)

    root_logger = logging.getLogger()
    root_logger.addFilter(is_not_from_kfp)
    try:
        yield
    finally:
        root_logger.removeFilter(is_not_from_kfp)


@contextmanager
def _without_kfp_warnings() -> Iterator[None]:
    """Ignore kfp's warnings of settings, such as a display name, that do nothing locally."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"kfp\b")
        yield


def count_tasks(spec: "PipelineSpec", list_length: Callable[[str], int]) -> int:
    """The number of tasks of a run, where each loop counts as often as its list has entries.

    Args:
        spec: The compiled pipeline.
        list_length: Gives the number of entries of a list that is looped over, by its name: a
            parameter of the pipeline, or `TASK-Output` for the output of a task.
    """
    return _count_below(spec.root, spec, list_length)


def _count_below(
    component: "ComponentSpec", spec: "PipelineSpec", list_length: Callable[[str], int]
) -> int:
    total = 0
    for task in component.dag.tasks.values():
        child = spec.components[task.component_ref.name]
        is_group = bool(child.dag.tasks)
        count = _count_below(child, spec, list_length) if is_group else 1
        if task.WhichOneof("iterator") == "parameter_iterator":
            channel = task.parameter_iterator.items.input_parameter
            count *= list_length(channel.removeprefix(_CHANNEL_PREFIX))
        total += count
    return total
