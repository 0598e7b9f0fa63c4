"""`python3` of a local task: has the task run by `warm_server`, in a fork that need not import.

A program of its own, of the standard library alone: `python -I -S warm_client.py PYTHON SOCKET
ARGUMENTS...` does what `PYTHON ARGUMENTS...` does, and becomes that where nobody serves it.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType

STANDARD_STREAMS = (0, 1, 2)
# The answer to a task that must have an interpreter of its own.
REFUSED = b"\n"
# What a local task is.
_MODULE = "kfp.dsl.executor_main"


def main(arguments: Sequence[str]) -> int:
    """Run a command. Returns its exit code, 128 and more for a signal."""
    python, path, *command = arguments
    if command[:2] == ["-m", _MODULE]:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as server:
            server.connect(path)
            code = _served(server, command[2:])
            if code is not None:
                return code
    os.execv(python, [python, *command])


def _served(server: socket.socket, arguments: Sequence[str]) -> int | None:
    """The exit code of a task; None where the server refuses it."""
    request = {
        "module": _MODULE,
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }
    socket.send_fds(server, [b"-"], STANDARD_STREAMS)
    server.sendall(json.dumps(request).encode() + b"\n")
    with server.makefile("rb") as answers:
        answer = answers.readline()
        if answer == REFUSED:
            return None
        process = int(answer)

        def forward(number: int, frame: FrameType | None) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

        # The task decides what they do, and this process ends with it.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, forward)
        code = answers.readline()
    # Without an answer the server is gone, and its forks with it.
    return int(code) if code else 128 + signal.SIGKILL


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
