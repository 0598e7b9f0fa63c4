"""The tasks of a local run as they go: their logs, their progress, their end.

kfp.local 2.17 tells a run's story by printing, through process-wide state that is not safe with two
tasks at once, and takes no callbacks. So `watched` puts functions of ours in the place of a few of its own
for as long as a run lasts; kfp still decides what runs when, with which arguments, and what the cache holds.
"""

import contextlib
import io
import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from unittest import mock

from dynamicpo.runs.local.jobs import Container, Job, Process

log = logging.getLogger(__name__)

KILL_AFTER_SECONDS = 10
_STAGE_LINE = re.compile(r"\[KFP Executor [^\]]*\]: (.*)")
_NOISE = re.compile(
    r"--component_module_path|Looking for component|Loading KFP component|Got executor_input|Wrote exec"
    r"|generated new fontManager"
)
_OUR_ERROR = re.compile(r"\Adynamicpo\.errors\.\w+: ")


@dataclass
class Task:
    """One task of a run.

    Attributes:
        name: The task's name, and what the loop around it is at: `evaluate dmpo`.
        log_path: Everything the task said.
        in_loop: Whether others of a loop may run beside it; it then takes its share of the processors.
        state: running, succeeded, failed, skipped (an earlier task failed) or cancelled.
        cached: Whether an earlier run's outputs were taken.
        seconds: How long it took.
        outputs: What it gave, as kfp has it.
        tail: The last lines it said.
        killed: Whether something ended its process from outside.
    """

    name: str
    log_path: Path
    in_loop: bool = False
    state: str = "running"
    cached: bool = True
    seconds: float = 0.0
    outputs: dict[str, Any] = field(default_factory=dict)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    killed: bool = False

    @property
    def error(self) -> str:
        """Why it failed: the message of the error that ended it, or else the last lines it said."""
        if self.killed:
            return "its process was killed, as happens when memory runs out. Lower batch sizes or the number of workers."
        lines = [line for line in self.tail if line.strip()]
        starts = [place for place, line in enumerate(lines) if line.startswith("Traceback ")]
        last = (
            [line for line in lines[starts[-1] + 1 :] if not line.startswith(" ")]
            if starts
            else lines[-10:]
        )
        return _OUR_ERROR.sub("", "\n".join(last), count=1) or "it said nothing"


class Watch:
    """Starts the tasks' processes, and keeps an account of them.

    Args:
        logs: Folder for the tasks' logs.
        total: How many tasks there will be.
        workers: How many may run at once.
        root: Folder for what the tasks make; progress lines leave it out.
        scratch: Folder for the processes' temporary files.
        image: Id of the image of the containers, where tasks run in some.
    """

    def __init__(
        self, logs: Path, total: int, workers: int, root: Path, scratch: str, image: str = ""
    ) -> None:
        """Start with no task."""
        self.image = image
        self._root = re.compile(rf"{re.escape(str(root))}/[^/\s]+/")
        self.tasks: list[Task] = []
        self.stopped = False
        self.total = total
        self._logs, self._slots = logs, threading.Semaphore(workers)
        self._current = threading.local()
        self._lock = threading.Lock()
        self._jobs: set[Job] = set()
        self._share = (
            {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
            if workers > 1
            else {}
        )
        path = os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        )
        self._environment = {
            **os.environ,
            "PATH": path,
            "TMPDIR": scratch,
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }

    @property
    def failed(self) -> list[Task]:
        """The tasks that failed, in the order they began."""
        return [task for task in self.tasks if task.state == "failed"]

    def execute(self, original: Callable[..., Any], **call: Any) -> Any:
        """In place of kfp's `execute_single_task`: the same, watched; after a failure only exit handlers start."""
        from kfp.local.status import Status

        with self._slots:
            task = self._begin(call)
            if task.state == "skipped":
                return {}, Status.FAILURE
            started = time.monotonic()
            try:
                outputs, status = original(**call)
            except Exception as error:  # kfp's own; in a loop kfp would log it and go on
                task.tail.append(f"{type(error).__name__}: {error}")
                outputs, status = {}, Status.FAILURE
            task.seconds = time.monotonic() - started
            missing = [
                name
                for name, value in outputs.items()
                if hasattr(value, "uri") and not Path(value.uri).exists()
            ]
            if missing:
                task.tail.append(f"it ended well, but did not make {', '.join(sorted(missing))}")
                outputs, status = {}, Status.FAILURE
            task.outputs = outputs
            self._end(task, status == Status.SUCCESS)
            return outputs, status

    def _begin(self, call: Mapping[str, Any]) -> Task:
        name, in_loop = _task_name(call), "-iteration-" in call["pipeline_resource_name"]
        with self._lock:
            task = Task(name, self._logs / f"{plain(name)}.log", in_loop)
            task.state = (
                "skipped" if (self.failed and not _is_exit(call)) or self.stopped else "running"
            )
            self.tasks.append(task)
            self._current.task = task
            return task

    def _end(self, task: Task, good: bool) -> None:
        task.state = "succeeded" if good else "cancelled" if self.stopped else "failed"
        done = sum(task.state == "succeeded" for task in self.tasks)
        how = (
            "taken from the cache"
            if task.cached and good
            else f"{task.state} after {task.seconds:.1f} s"
        )
        log.info("[%d/%d] %s: %s", done, self.total, task.name, how)

    def run_process(
        self, full_command: list[str], env_vars: Mapping[str, str] | None = None
    ) -> int:
        """In place of kfp's `run_local_subprocess`."""
        environment = {**self._shared(), **self._environment, **(env_vars or {})}
        return self._attend(lambda: Process(full_command, environment))

    def run_container(self, client: Any, image: str, command: list[str], **arguments: Any) -> int:
        """In place of kfp's `run_docker_container`; the image is the watch's."""
        del image  # the one that stands in the pipeline until it is compiled
        environment = {**self._shared(), **arguments.pop("environment", {})}
        return self._attend(
            lambda: Container(client, self.image, command, environment=environment, **arguments)
        )

    def _shared(self) -> dict[str, str]:
        return self._share if self._current.task.in_loop else {}

    def _attend(self, start: Callable[[], Job]) -> int:
        """Run the current task to its end: its lines go to its log, its progress to ours."""
        task: Task = self._current.task
        task.cached = False
        log.info("%s: started", task.name)
        job = start()
        self._jobs.add(job)
        if self.stopped:
            job.signal(signal.SIGINT)
        try:
            with task.log_path.open("a", encoding="utf-8") as stream:
                self._follow(task, job.lines(), stream)
        finally:
            code = job.wait()
            self._jobs.discard(job)
        task.killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        return code

    def _follow(self, task: Task, lines: Iterable[str], stream: IO[str]) -> None:
        for line in lines:
            stream.write(line)
            stream.flush()
            task.tail.append(line.rstrip("\n"))
            said = _STAGE_LINE.match(line)
            if said and not _NOISE.match(said[1]):
                log.info("%s: %s", task.name, self._root.sub("", said[1]))

    def stop(self) -> None:
        """Interrupt every task, so that it can clean up; kill what is still there after a while.

        Called again, it kills at once.
        """
        self._signal(signal.SIGKILL if self.stopped else signal.SIGINT)
        self.stopped = True
        killer = threading.Timer(KILL_AFTER_SECONDS, self._signal, [signal.SIGKILL])
        killer.daemon = True
        killer.start()

    def _signal(self, number: int) -> None:
        for job in list(self._jobs):
            job.signal(number)


def plain(name: str) -> str:
    """A task's name as a file's name."""
    return re.sub(r"[^\w.-]", "-", name)


def _task_name(call: Mapping[str, Any]) -> str:
    """The task's name, with what the loops around it are at."""
    given = call["task_spec"].inputs.parameters.values()
    channels = sorted({item.component_input_parameter for item in given})
    items = [
        call["io_store"].get_parent_input(name) for name in channels if name.endswith("-loop-item")
    ]
    labels = [
        str(item.get("objective", item.get("cell", item)) if isinstance(item, dict) else item)
        for item in items
    ]
    return " ".join([call["task_spec"].task_info.name or call["task_name"], *labels])


def _is_exit(call: Mapping[str, Any]) -> bool:
    """Whether the task is an exit handler, which runs whatever happened."""
    return any(
        given.HasField("task_final_status")
        for given in call["task_spec"].inputs.parameters.values()
    )


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Have kfp.local report to `watch`, in silence; interrupt the tasks on SIGINT and SIGTERM."""
    from kfp.local import docker_task_handler, logging_utils, subprocess_task_handler
    from kfp.local.orchestrator import task_executor

    original = task_executor.execute_single_task
    replaced: list[tuple[Any, str, Any]] = [
        (task_executor, "execute_single_task", lambda **call: watch.execute(original, **call)),
        (subprocess_task_handler, "run_local_subprocess", watch.run_process),
        (docker_task_handler, "run_docker_container", watch.run_container),
        # kfp puts the interpreter's path for every "python3", also inside the values of parameters
        (subprocess_task_handler, "replace_python_executable", lambda command, _: command),
        (logging_utils, "indented_print", contextlib.nullcontext),
        (logging_utils, "local_logger_context", contextlib.nullcontext),
    ]
    with ExitStack() as stack:
        for module, name, function in replaced:
            stack.enter_context(mock.patch.object(module, name, function))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=r"kfp\b")
        stack.enter_context(_quiet_root_logger())
        stack.enter_context(_on_signals(watch.stop))
        yield


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Drop what is logged on the root logger itself; only kfp.local does that."""

    def drop(_: logging.LogRecord) -> bool:
        return False

    logging.getLogger().addFilter(drop)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(drop)


@contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM (only the main thread can). The tasks then end, and so does the run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, lambda *_: stop())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
