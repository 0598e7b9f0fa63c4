"""An interpreter that has imported the libraries, and forks itself for each task.

`python -m dynamicpo.runs.local.warm_server SOCKET`: it serves `warm_client` on that socket as soon
as the imports are done, and ends when its standard input does: when the run has ended, or was
killed. A task ends with its client.
"""

import contextlib
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

import numpy as np

from dynamicpo.core.config_checkpoints import (
    CHECKPOINT_MINUTES_VARIABLE,
    CHECKPOINT_PREFIX_VARIABLE,
)
from dynamicpo.runs.local.supervisor import get_signal_when_parent_ends, shell_exit_code
from dynamicpo.runs.local.warm_client import (
    PATIENCE_SECONDS,
    REFUSED,
    STANDARD_STREAMS,
    as_text,
)

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
# Those that the run has given, as clients send them; libraries set more.
_GIVEN_VARIABLES = {as_text(name): as_text(value) for name, value in os.environ.items()}
_STANDARD_INPUT, *_ = STANDARD_STREAMS


class Request(NamedTuple):
    """A task to run, as a client sends it, each word by `as_text`.

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
    client: socket.socket | None


def main(arguments: Sequence[str]) -> None:
    """Serve until the run has ended; in a fork, run its task."""
    (path,) = arguments
    # Old systems have none. Then this process ends, and each task starts a Python of its own.
    os.close(os.pidfd_open(os.getpid()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"{path}.new")
        _import_libraries()
        # It gets its name when it listens: a client must not wait for one that does not.
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
        # No thread of ours may be at work where a process forks. Those of libraries bear it.
        watcher.join()


def _serve(listener: socket.socket) -> Request | None:
    """Fork for each client. Returns its request in the fork, and None at the end of the run."""
    children: list[_Child] = []
    sources: list[socket.socket | int] = [listener, _STANDARD_INPUT]
    while sources or children:
        ended = [child.ended for child in children]
        clients = [child.client for child in children if child.client is not None]
        ready, _, _ = select.select([*sources, *ended, *clients], [], [])
        looked_after = [_look_after(child, ready) for child in children]
        children = [child for child in looked_after if child is not None]
        if _STANDARD_INPUT in ready:
            sources = []
        elif listener in ready:
            client, _ = listener.accept()
            request = _answer(client, children)
            if request is not None:
                return request
    return None


def _look_after(child: _Child, ready: Sequence[socket.socket | int]) -> _Child | None:
    """Report the end of a child, which then is none any more, or kill it after its client."""
    if child.ended in ready:
        # Processes that the task started and did not wait for; before its number is free again.
        _kill_group(child)
        _, status = os.waitpid(child.process, 0)
        os.close(child.ended)
        code = os.waitstatus_to_exitcode(status)
        if child.client is not None:
            _tell(child.client, shell_exit_code(code))
            child.client.close()
        return None
    # It says nothing after its request.
    if child.client is not None and child.client in ready:
        _kill_group(child)
        child.client.close()
        return child._replace(client=None)
    return child


def _kill_group(child: _Child) -> None:
    with contextlib.suppress(OSError):
        os.killpg(child.process, signal.SIGKILL)


def _tell(client: socket.socket, number: int) -> None:
    # What becomes of its task is decided by its end, which is seen when it comes.
    with contextlib.suppress(OSError):
        client.sendall(f"{number}\n".encode())


def _answer(client: socket.socket, children: list[_Child]) -> Request | None:
    """Fork for a client. Returns its request in the fork, None in this process."""
    client.settimeout(PATIENCE_SECONDS)
    try:
        request, streams = _read_request(client)
    # It went away, or does not know how to ask.
    except (OSError, ValueError, TypeError):
        client.close()
        return None
    server = os.getpid()
    process = _fork_for(request)
    if process == 0:
        client.close()
        _leave_server(server, children, streams)
        return request
    for stream in streams:
        os.close(stream)
    child = None if process is None else _child(process, client)
    if child is None:
        _tell(client, REFUSED)
        client.close()
        return None
    children.append(child)
    _tell(client, child.process)
    return None


def _read_request(client: socket.socket) -> tuple[Request, list[int]]:
    """A request, and descriptors of the client's standard streams."""
    _, streams, _, _ = socket.recv_fds(client, 1, len(STANDARD_STREAMS))
    try:
        if len(streams) != len(STANDARD_STREAMS):
            raise ValueError(f"{len(streams)} standard streams")
        with client.makefile("rb") as reader:
            content = json.loads(reader.readline())
        return Request(**content), streams
    except BaseException:
        for stream in streams:
            os.close(stream)
        raise


def _fork_for(request: Request) -> int | None:
    """Fork. Returns 0 in the fork; None where a task must have, or can have, no fork."""
    if _has_other_variables(request.environment):
        return None
    try:
        return os.fork()
    # There are too many processes, or there is too little memory.
    except OSError:
        return None


def _child(process: int, client: socket.socket) -> _Child | None:
    """A new child, in a group of its own; None where it can't be watched, and is killed."""
    # Here as well as in the fork, for who comes first.
    with contextlib.suppress(OSError):
        os.setpgid(process, process)
    try:
        return _Child(process, os.pidfd_open(process), client)
    except OSError:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return None


def _has_other_variables(environment: Mapping[str, str]) -> bool:
    """Tell whether variables differ that a library may have read at its import."""
    names = {*environment, *_GIVEN_VARIABLES} - _OWN_VARIABLES
    return any(environment.get(name) != _GIVEN_VARIABLES.get(name) for name in names)


def _leave_server(server: int, children: Sequence[_Child], streams: Sequence[int]) -> None:
    """Take the client's streams, and let go of all that is the server's."""
    for number, stream in zip(STANDARD_STREAMS, streams, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.setpgid(0, 0)
    get_signal_when_parent_ends(signal.SIGKILL)
    # It may have ended before the line above.
    if os.getppid() != server:
        os._exit(1)
    # A run in the background of a script ignores it, and so does what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for child in children:
        os.close(child.ended)
        if child.client is not None:
            child.client.close()


def _run(request: Request) -> None:
    """Do what the Python would do that the client was started as."""
    os.chdir(_as_word(request.folder))
    for name in _OWN_VARIABLES:
        os.environ.pop(name, None)
    for name, value in request.environment.items():
        os.environ[_as_word(name)] = _as_word(value)
    sys.argv = [request.module, *map(_as_word, request.arguments)]
    # What nobody has seeded differs from process to process.
    np.random.seed()
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)


def _as_word(text: str) -> str:
    """The word that `as_text` has sent."""
    return os.fsdecode(text.encode("latin-1"))


if __name__ == "__main__":
    main(sys.argv[1:])
