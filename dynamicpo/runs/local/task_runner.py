"""The task runner of a local run: starts processes and containers, and accounts for every task."""

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from dynamicpo.core.config_checkpoints import (
    CHECKPOINT_MINUTES_VARIABLE,
    CHECKPOINT_PREFIX_VARIABLE,
)
from dynamicpo.runs.local.jobs import Container, Job, Process
from dynamicpo.runs.local.kfp_internals import TaskCall, TaskResult
from dynamicpo.runs.local.tasks import (
    Task,
    TaskState,
    changed_output,
    file_name_of,
    missing_outputs,
)

if TYPE_CHECKING:
    import docker

log = logging.getLogger(__name__)

KILL_AFTER_SECONDS = 10
# Local disks are fast, and most local trainings short.
_CHECKPOINT_MINUTES = "1"
# Log lines of a task: KFP's executor sets up the logging that our stages log through.
_STAGE_LINE = re.compile(r"\[KFP Executor [^\]]*\]: (.*)")
# Those of the executor itself, and of matplotlib on its first import.
_NOISE = re.compile(
    r"--component_module_path|Looking for component|Loading KFP component|Got executor_input"
    r"|Wrote exec|generated new fontManager"
)
# An exit code of a shell or a container says by 128 and more which signal ended it.
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


class TaskRunner:
    """Runs the tasks that kfp gives it, and keeps an account of them.

    Args:
        logs: Folder for the tasks' logs.
        total: The number of tasks to come.
        workers: The number of tasks that may run at once, each with its share of the processors.
        artifacts: Folder for the tasks' outputs; progress lines leave it out.
        scratch: Folder for the processes' temporary files.
        image: Id of the image of the containers, where tasks run in some.
    """

    # Folder for checkpoints of trainings, which a later run of the same cache goes on from.
    checkpoints: Path | None = None

    def __init__(
        self, logs: Path, total: int, workers: int, artifacts: Path, scratch: str, image: str = ""
    ) -> None:
        """Start with no task."""
        self.tasks: list[Task] = []
        self.stopped = False
        self.total = total
        self.image = image
        self.logs = logs
        self.workers = workers
        self._slots = threading.Semaphore(workers)
        # Tasks run in threads: each has a current task of its own.
        self._current = threading.local()
        self._lock = threading.Lock()
        self._jobs: set[Job] = set()
        # Below the folder of artifacts kfp has one for each run; its name means nothing to a user.
        self._artifact_prefix = re.compile(rf"{re.escape(str(artifacts))}/[^/\s]+/")
        self._shared_environment = _shared_environment(workers)
        self.process_environment: Mapping[str, str] = {
            **self._shared_environment,
            **_process_environment(scratch),
        }

    @property
    def failed(self) -> list[Task]:
        """The tasks that failed, in the order in which they began."""
        return [task for task in self.tasks if task.state == "failed"]

    def execute(self, call: TaskCall) -> TaskResult:
        """Execute a task and account for it.

        After a failure, kfp goes on with tasks that don't depend on the one that failed. They are
        skipped.
        """
        with self._slots:
            task = self._begin(call)
            if task.state == "skipped":
                return TaskResult({}, succeeded=False)
            result = self._execute(call, task)
            self._end(task, result.succeeded)
            return result

    def _execute(self, call: TaskCall, task: Task) -> TaskResult:
        started = time.monotonic()
        try:
            result = call.execute()
        # kfp's own errors, of any kind. In a loop kfp would log them and go on.
        except Exception as error:
            task.tail.append(f"{type(error).__name__}: {error}")
            result = TaskResult({}, succeeded=False)
        task.seconds = time.monotonic() - started
        # kfp takes the exit code alone for the truth, and puts what is not there into its cache.
        missing = missing_outputs(result.outputs)
        if missing:
            task.tail.append(f"it ended well, but did not make {', '.join(missing)}")
            result = TaskResult({}, succeeded=False)
        if task.cached and (problem := changed_output(result.outputs)):
            task.tail.append(problem)
            result = TaskResult({}, succeeded=False)
        task.outputs = result.outputs
        return result

    def _begin(self, call: TaskCall) -> Task:
        name = task_name(call)
        task = Task(name, self.logs / f"{file_name_of(name)}.log")
        with self._lock:
            if self.failed or self.stopped:
                task.state = "skipped"
            self.tasks.append(task)
        self._current.task = task
        return task

    def _end(self, task: Task, succeeded: bool) -> None:
        task.state = self._end_state(succeeded)
        num_succeeded = sum(task.state == "succeeded" for task in self.tasks)
        if task.cached and succeeded:
            outcome = "taken from the cache"
        else:
            outcome = f"{task.state} after {task.seconds:.1f} s"
        log.info("[%d/%d] %s: %s", num_succeeded, self.total, task.name, outcome)

    def _end_state(self, succeeded: bool) -> TaskState:
        if succeeded:
            return "succeeded"
        return "cancelled" if self.stopped else "failed"

    def run_process(self, command: list[str], environment: Mapping[str, str]) -> int:
        """Run the current task's command in a process. Returns its exit code."""
        # After this process's own environment, which may name a place of other checkpoints.
        own = {**self._checkpoint_environment(), **environment}
        variables = {**self.process_environment, **own}
        return self._run_job(lambda: Process(command, variables))

    def run_container(
        self,
        client: "docker.DockerClient",
        image: str,
        command: list[str],
        environment: Mapping[str, str] | None = None,
        **arguments: object,
    ) -> int:
        """Run the current task's command in a container. Returns its exit code.

        Args:
            client: A client of the engine.
            image: Not used: it is the one that stands in the pipeline until that is compiled.
            command: The command.
            environment: Variables of the container.
            **arguments: More arguments of `docker.containers.create`.
        """
        variables = {**self._shared_environment, **self._checkpoint_environment()}
        variables |= environment or {}
        return self._run_job(
            lambda: Container(client, self.image, command, environment=variables, **arguments)
        )

    def _checkpoint_environment(self) -> Mapping[str, str]:
        if self.checkpoints is None:
            return {}
        # One place a task: two cells of a loop may train the same.
        place = self.checkpoints / file_name_of(self._current.task.name)
        return {
            CHECKPOINT_PREFIX_VARIABLE: str(place),
            CHECKPOINT_MINUTES_VARIABLE: _CHECKPOINT_MINUTES,
        }

    def _run_job(self, start: Callable[[], Job]) -> int:
        """Run a job of the current task to its end: its output to its log, its progress to ours."""
        task: Task = self._current.task
        task.cached = False
        log.info("%s: started", task.name)
        job = start()
        self._jobs.add(job)
        # The signal may have come between the start and the line above, when `stop` saw no job.
        if self.stopped:
            job.send_signal(signal.SIGINT)
        try:
            with task.log_path.open("a", encoding="utf-8") as log_file:
                self._read_output(task, job.lines(), log_file)
        finally:
            exit_code = job.wait()
            self._jobs.discard(job)
        task.killed = exit_code in _KILLED
        return exit_code

    def _read_output(self, task: Task, lines: Iterable[str], log_file: IO[str]) -> None:
        for line in lines:
            log_file.write(line)
            log_file.flush()  # for whoever follows the log
            task.tail.append(line.rstrip("\n"))
            match = _STAGE_LINE.match(line)
            if not match or _NOISE.match(match[1]):
                continue
            progress = self._artifact_prefix.sub("", match[1])
            log.info("%s: %s", task.name, progress)

    def stop(self) -> None:
        """Interrupt every task, so that it can clean up; kill after a while those that go on.

        Called again, it kills at once.
        """
        self._send_to_all(signal.SIGKILL if self.stopped else signal.SIGINT)
        self.stopped = True
        killer = threading.Timer(KILL_AFTER_SECONDS, self._send_to_all, [signal.SIGKILL])
        killer.daemon = True
        killer.start()

    def _send_to_all(self, number: int) -> None:
        # A copy: the tasks' threads change the set meanwhile.
        for job in list(self._jobs):
            job.send_signal(number)


def _process_environment(scratch: str) -> dict[str, str]:
    # A command begins with "python3": the interpreter's own folder comes first.
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {
        **os.environ,
        "PATH": os.pathsep.join(folders),
        "TMPDIR": scratch,
        # Lines are to arrive as they are written, not when a buffer is full.
        "PYTHONUNBUFFERED": "1",
        # Threads of tokenizers don't survive the fork of data loaders, and warn of it.
        "TOKENIZERS_PARALLELISM": "false",
    }


def _shared_environment(workers: int) -> dict[str, str]:
    """Variables of tasks that run beside others: each takes its share of the processors.

    With all processors each, PyTorch's threads wait for one another far longer than they compute.
    """
    if workers == 1:
        return {}
    num_processors = os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, num_processors // workers))}


def task_name(call: TaskCall) -> str:
    """The task's name, with the items of the loops around it."""
    return " ".join([call.name, *(_item_label(item) for item in call.loop_items)])


def _item_label(item: object) -> str:
    """An item's name: of an objective, of a cell of a study, or the item itself."""
    if not isinstance(item, dict):
        return str(item)
    return str(item.get("objective", item.get("cell", item)))


@contextmanager
def stopped_by_signals(runner: TaskRunner) -> Iterator[None]:
    """Stop the runner's tasks on SIGINT, SIGTERM and SIGHUP. They then end, and so does the run.

    At the end of the block the first signal has the effect that it would have had at once.
    """
    # Python lets only the main thread handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[signal.Signals] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        runner.stop()

    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # `nohup` has a run ignore that its terminal is closed.
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if received:
            _take_effect(received[0], previous[received[0]])


def _take_effect(number: int, handler: object) -> None:
    # The command line's handlers give each signal its exit code; a library may have none.
    if callable(handler):
        handler(number, None)
