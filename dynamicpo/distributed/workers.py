"""Processes on this machine that do a stage's work together, one for each accelerator.

torchrun's agent starts them in this process, watches them, and ends all when one of them ends.
"""

import json
import logging
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dynamicpo.core.errors import RunFailedError, ToldError
from dynamicpo.core.records.manifest import Manifest, read_manifest
from dynamicpo.distributed.group import world_size

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

log = logging.getLogger(__name__)

# A step that is under way, and the upload of a checkpoint.
_SHUTDOWN_SECONDS = 300
# The agent's log of failures, which workers have explained.
_AGENT_LOGGERS = (
    "torch.distributed.elastic.multiprocessing.api",
    "torch.distributed.elastic.agent.server.api",
)


class ForProcesses(Protocol):
    """A configuration of a stage that several processes may do together."""

    @property
    def num_processes(self) -> int:
        """Number of processes; 0 for one on each accelerator that is visible."""


def done_by_workers(
    stage: str,
    paths: Mapping[str, Path | None],
    config: ForProcesses,
    other_values: Mapping[str, object],
) -> Manifest | None:
    """Have several processes do a stage's work, where its configuration wants more than this one.

    Args:
        stage: The stage's command.
        paths: Its paths, by the names of its flags.
        config: Its configuration.
        other_values: Values of other flags.

    Returns:
        The manifest of the output; None where this process is to do the work.

    Raises:
        ToldError: A process has failed, and said why.
        RunFailedError: One was killed.
    """
    number = _num_workers(config.num_processes)
    if number == 1:
        return None
    given = {name: str(path) for name, path in paths.items() if path is not None}
    values = {**vars(config), **given, **other_values}
    _run(stage, values, number)
    return read_manifest(Path(given["output"]))


def _num_workers(asked: int) -> int:
    # As one of several it does its share.
    if world_size() > 1:
        return 1
    if asked:
        return asked
    import torch

    return max(1, torch.cuda.device_count())


def _run(stage: str, values: Mapping[str, object], number: int) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    log.info("%s: in %d processes", stage, number)
    with tempfile.TemporaryDirectory() as scratch, _own_signals():
        path = Path(scratch) / "settings.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        launch = elastic_launch(_launch_config(number, scratch), sys.executable)
        try:
            launch("-m", "dynamicpo", stage, "--config", str(path))
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            raise _failure(stage, number, codes) from None


def _launch_config(number: int, scratch: str) -> "LaunchConfig":
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    # Their results would stand beside ours; what they log goes where ours does.
    outputs = DefaultLogsSpecs(log_dir=scratch, redirects=Std.OUT)
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=number,
        logs_specs=outputs,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        # Whoever started this command starts it again; it goes on from its checkpoint.
        max_restarts=0,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )


def _failure(stage: str, number: int, codes: Mapping[int, int]) -> ToldError | RunFailedError:
    # The agent ends those that are left; those that lose a killed one may have failed before.
    causes = {rank: code for rank, code in codes.items() if code != -signal.SIGTERM} or codes
    rank, code = min(causes.items(), key=lambda item: item[1])
    if code >= 0:
        return ToldError(f"{stage}: process {rank} of {number} failed, see its message", code)
    name = signal.Signals(-code).name
    return RunFailedError(
        f"{stage}: all {number} processes must live to the end, but {name} ended process {rank}. "
        "Look whether memory ran out. Started again, the training goes on from its last checkpoint."
    )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Have a signal that ends the workers take its usual effect here, once they have ended."""
    from torch.distributed.elastic.multiprocessing import SignalException

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    previous = {number: signal.getsignal(number) for number in numbers}
    received = 0
    levels = {name: logging.getLogger(name).level for name in _AGENT_LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    except SignalException as error:
        received = int(error.sigval)
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if threading.current_thread() is threading.main_thread():
            for number, handler in previous.items():
                signal.signal(number, handler)
    if received:
        signal.raise_signal(received)
        raise SystemExit(128 + received)
