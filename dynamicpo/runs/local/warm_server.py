"""An interpreter that has imported the libraries, and forks itself for each task.

`python -m dynamicpo.runs.local.warm_server SOCKET`: it serves `warm_client` on that socket as soon
as the imports are done, and ends when its standard input does: when the run has ended, or was
killed. A task ends with its client.
"""

import contextlib
import ctypes
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dynamicpo.core.config_checkpoints import (
    CHECKPOINT_MINUTES_VARIABLE,
    CHECKPOINT_PREFIX_VARIABLE,
)
from dynamicpo.runs.local.warm_client import REFUSED, STANDARD_STREAMS

# What takes a task that trains or scores ten seconds on two processors.
IMPORTED = (
    *("torch", "transformers.modeling_utils", "transformers.trainer", "peft", "pandas"),
    *("scipy.sparse", "scipy.special", "pyarrow.parquet", "matplotlib.axes", "kfp.dsl.executor"),
)
# Variables that are read when a task is at work, and by no library at its import.
_OWN_VARIABLES = {
    *(CHECKPOINT_MINUTES_VARIABLE, CHECKPOINT_PREFIX_VARIABLE),
    *("_", "OLDPWD", "PWD", "SHLVL"),  # the shell's
}
# Those that the run has given; libraries set more.
_GIVEN_VARIABLES = dict(os.environ)
_STANDARD_INPUT, *_ = STANDARD_STREAMS
# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1


class Request(NamedTuple):
    """A task to run, as a client sends it.

    Attributes:
        module: The module to run.
        arguments: Its arguments.
        environment: All variables.
        folder: The working directory.
    """

    module: str
    arguments: list[str]
    environment: dict[str, str]
    folder: str


class _Child(NamedTuple):
    """A fork at work: its process id, a descriptor that can be read at its end, its client."""

    process: int
    ended: int
    client: socket.socket


def main(arguments: Sequence[str]) -> None:
    """Serve until the run has ended; in a fork, run its task."""
    (path,) = arguments
    # Old systems have none. Then this process ends, and each task starts a Python of its own.
    os.close(os.pidfd_open(os.getpid()))
    _import_libraries()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # It gets its name when it listens: a client must not wait for one that does not.
        listener.bind(f"{path}.new")
        listener.listen()
        Path(f"{path}.new").rename(path)
        request = _serve(listener)
    if request is not None:
        _run(request)


def _import_libraries() -> None:
    """Import all. The end of the run meanwhile ends this process."""
    has_imported = threading.Event()

    def watch() -> None:
        while not has_imported.is_set():
            readable, _, _ = select.select([_STANDARD_INPUT], [], [], 0.2)
            if readable:
                os._exit(0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for name in IMPORTED:
            # One that is not installed is for the task to miss.
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    finally:
        has_imported.set()
        # No thread may be at work where a process forks.
        watcher.join()


def _serve(listener: socket.socket) -> Request | None:
    """Fork for each client. Returns its request in the fork, and None at the end of the run."""
    children: list[_Child] = []
    sources: list[socket.socket | int] = [listener, _STANDARD_INPUT]
    while sources or children:
        watched = [part for child in children for part in (child.ended, child.client)]
        ready, _, _ = select.select([*sources, *watched], [], [])
        children = [child for child in children if not _look_after(child, ready)]
        if _STANDARD_INPUT in ready:
            sources = []
        elif listener in ready:
            client, _ = listener.accept()
            request = _answer(client, children)
            if request is not None:
                return request
    return None


def _look_after(child: _Child, ready: Sequence[socket.socket | int]) -> bool:
    """Report the end of a child, or kill it after that of its client. Returns whether it ended."""
    if child.ended in ready:
        _, status = os.waitpid(child.process, 0)
        # Processes that the task started and did not wait for.
        _kill_group(child)
        os.close(child.ended)
        code = os.waitstatus_to_exitcode(status)
        with child.client, contextlib.suppress(OSError):
            child.client.sendall(f"{128 - code if code < 0 else code}\n".encode())
        return True
    # It says nothing after its request.
    if child.client in ready:
        _kill_group(child)
    return False


def _kill_group(child: _Child) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.process, signal.SIGKILL)


def _answer(client: socket.socket, children: list[_Child]) -> Request | None:
    """Fork for a client. Returns its request in the fork, None in this process."""
    _, streams, _, _ = socket.recv_fds(client, 1, len(STANDARD_STREAMS))
    with client.makefile("rb") as reader:
        request = Request(**json.loads(reader.readline()))
    process = 0
    is_refused = _has_other_variables(request.environment)
    if not is_refused:
        process = os.fork()
        if process == 0:
            _leave_server(children, client, streams)
            return request
    for stream in streams:
        os.close(stream)
    if is_refused:
        with client:
            client.sendall(REFUSED)
        return None
    # Here as well as in the fork, for who comes first.
    with contextlib.suppress(OSError):
        os.setpgid(process, process)
    children.append(_Child(process, os.pidfd_open(process), client))
    client.sendall(f"{process}\n".encode())
    return None


def _has_other_variables(environment: Mapping[str, str]) -> bool:
    """Tell whether variables differ that a library may have read at its import."""
    names = {*environment, *_GIVEN_VARIABLES} - _OWN_VARIABLES
    return any(environment.get(name) != _GIVEN_VARIABLES.get(name) for name in names)


def _leave_server(children: Sequence[_Child], client: socket.socket, streams: list[int]) -> None:
    """Take the client's streams, and let go of all that is the server's."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, stream in zip(STANDARD_STREAMS, streams, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    client.close()
    for child in children:
        os.close(child.ended)
        child.client.close()


def _run(request: Request) -> None:
    """Do what the Python would do that the client was started as."""
    os.chdir(request.folder)
    for name in _OWN_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(request.environment)
    sys.argv = [request.module, *request.arguments]
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
