"""`python3` of a local task: has the task run by `warm_server`, in a fork that need not import.

A program of its own, of the standard library alone: `python -I -S warm_client.py PYTHON SOCKET
ARGUMENTS...` does what `PYTHON ARGUMENTS...` does, and becomes that where nobody serves it.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType

STANDARD_STREAMS = (0, 1, 2)
# In place of the process id of a task, which must have an interpreter of its own.
REFUSED = 0
# For a request and the answer to it, on a machine where all takes long.
PATIENCE_SECONDS = 20
_MANY = 4096  # bytes, one for each signal
# What a local task is.
_MODULE = "kfp.dsl.executor_main"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    """Run a command. Returns its exit code, 128 and more for a signal."""
    python, path, *command = arguments
    if command[:2] == ["-m", _MODULE] and _has_all_streams():
        with socket.socket(socket.AF_UNIX) as server:
            # One that comes before it is known who is to get it waits.
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            process = _ask(server, path, command[2:])
            if process != REFUSED:
                return _follow(server, process)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    os.execv(python, [python, *command])


def _has_all_streams() -> bool:
    """Tell whether no standard stream is closed; else a socket would take its number."""
    try:
        for number in STANDARD_STREAMS:
            os.fstat(number)
    except OSError:
        return False
    return True


def _ask(server: socket.socket, path: str, arguments: Sequence[str]) -> int:
    """The process id of a task that the server has begun; `REFUSED` where it has not."""
    environment = {as_text(name): as_text(value) for name, value in os.environ.items()}
    request = {
        "module": _MODULE,
        "arguments": [as_text(argument) for argument in arguments],
        "environment": environment,
        "folder": as_text(os.getcwd()),
    }
    server.settimeout(PATIENCE_SECONDS)
    try:
        server.connect(path)
        socket.send_fds(server, [b"-"], STANDARD_STREAMS)
        server.sendall(json.dumps(request).encode() + b"\n")
        return int(_read_line(server) or REFUSED)
    # A task that it begins nevertheless ends, for its client is gone.
    except OSError:
        return REFUSED


def as_text(value: str) -> str:
    """A word with its bytes as characters: two processes may decode them differently."""
    return os.fsencode(value).decode("latin-1")


def _read_line(connection: socket.socket) -> bytes:
    """A line, without its end; what there is of it where the other side is gone."""
    line = b""
    while (byte := connection.recv(1)) not in (b"", b"\n"):
        line += byte
    return line


def _follow(server: socket.socket, process: int) -> int:
    """Pass signals on to a task, and wait for its exit code."""

    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            os.killpg(process, number)

    # A signal that comes just before a wait would not end it: the byte that it writes here does.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    server.settimeout(None)
    while server.fileno() not in select.select([server.fileno(), woken], [], [])[0]:
        os.read(woken, _MANY)
    code = _read_line(server)
    if code:
        return int(code)
    # It took the task with it, but not what the task has started.
    forward(signal.SIGKILL, None)
    sys.stderr.write("the process that this task was started from has ended\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
