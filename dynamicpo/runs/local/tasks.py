"""Tasks of a local run: their states, their outputs, and the error of one that failed."""

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from dynamicpo.core.errors import DataError, DynamicPOError

TaskState = Literal["running", "succeeded", "failed", "skipped", "cancelled"]

# Python writes an exception's class with its module; a message of ours needs neither.
_OUR_ERROR = re.compile(rf"\A{re.escape(DynamicPOError.__module__)}\.\w+: ")
_LAST_LINES = 10


@runtime_checkable
class Artifact(Protocol):
    """An output that is a file or folder, as `kfp.dsl.Artifact` has it.

    Attributes:
        uri: Its path, in a local run.
        metadata: Its metrics, for an artifact of metrics.
    """

    uri: str
    metadata: Mapping[str, float]


@dataclass
class Task:
    """One task of a run.

    Attributes:
        name: The task's name, and the item of the loop around it: `evaluate dmpo`.
        log_path: File with all its output.
        state: `skipped` after the failure of an earlier task, `cancelled` by an interruption.
        cached: Whether an earlier run's outputs were taken.
        seconds: Its duration.
        outputs: Its output parameters and artifacts.
        tail: The last lines of its output.
        killed: Whether its process was killed from outside.
    """

    name: str
    log_path: Path
    state: TaskState = "running"
    cached: bool = True
    seconds: float = 0.0
    outputs: Mapping[str, object] = field(default_factory=dict)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    killed: bool = False

    @property
    def error(self) -> str:
        """The message of the error that ended it, or else the last lines of its output."""
        if self.killed:
            return (
                "its process was killed, as happens when memory runs out. "
                "Lower batch sizes or the number of workers."
            )
        lines = [line for line in self.tail if line.strip()]
        error = "\n".join(_last_exception(lines) or lines[-_LAST_LINES:])
        return _OUR_ERROR.sub("", error) or "it printed nothing"


def _last_exception(lines: list[str]) -> list[str]:
    """The lines of the last exception, without its traceback.

    An exception that was raised while another was handled has the traceback of both above it, and
    the last one is the one that ended the process.
    """
    starts = [index for index, line in enumerate(lines) if line.startswith("Traceback ")]
    if not starts:
        return []
    last = starts[-1]
    following = lines[last + 1 :]
    # The frames of a traceback are indented, the message below them is not.
    return [line for line in following if not line.startswith(" ")]


def missing_outputs(outputs: Mapping[str, object]) -> list[str]:
    """The names of artifacts that a task should have made but did not, sorted."""
    missing = []
    for name, output in outputs.items():
        if isinstance(output, Artifact) and not Path(output.uri).exists():
            missing.append(name)
    return sorted(missing)


def changed_output(outputs: Mapping[str, object]) -> str:
    """The problem with outputs that a cache has kept; empty where they are as they were made."""
    from dynamicpo.core.records.manifest import read_input

    for output in outputs.values():
        if not isinstance(output, Artifact) or not Path(output.uri, "manifest.json").is_file():
            continue
        try:
            read_input(Path(output.uri))
        except DataError as error:
            return f"the cache of earlier runs was changed: {error}"
    return ""


def file_name_of(name: str) -> str:
    """A task's name as the name of a file."""
    return re.sub(r"[^\w.-]", "-", name)
