"""Supervisor of a task's processes: they end when the run that started them is gone.

A program of its own, of the standard library alone, so that it starts within milliseconds:
`python -I supervisor.py RUNNER_PID COMMAND...`. It ends with the command's exit code, 128 and more
for a signal.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_MANY = 4096  # bytes of signals
# Time for a task to remove what it has not finished.
_GRACE_SECONDS = 10


def main(arguments: Sequence[str]) -> int:
    """Run a command as long as the runner lives. Returns its exit code."""
    runner, command = int(arguments[0]), arguments[1:]
    # The runner's interruptions go to the whole group. They are for the task, which then ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken = _signal_bytes()
    signal.signal(signal.SIGTERM, _end_group)
    get_signal_when_parent_ends(signal.SIGTERM)
    # It may have ended before the line above.
    if os.getppid() != runner:
        return 128 + signal.SIGTERM
    # A signal that is ignored here would be ignored by the command, too.
    with subprocess.Popen(command, preexec_fn=_default_interrupt) as process:
        while (code := process.poll()) is None:
            os.read(woken, _MANY)
    return shell_exit_code(code)


def _signal_bytes() -> int:
    """A descriptor that gets a byte of each signal that is handled, the end of the command too.

    A signal that comes just before `wait` would not end it, and its handler would not run.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _do_nothing)
    return woken


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def _default_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def shell_exit_code(code: int) -> int:
    """The exit code that a shell gives a process, of Python's: 128 and more for a signal."""
    return 128 - code if code < 0 else code


def get_signal_when_parent_ends(number: int) -> None:
    """Have the system send this process a signal when its parent has ended; Linux alone does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _end_group(number: int, frame: FrameType | None) -> None:
    """Interrupt all processes of the group, and kill after a while those that go on."""
    signal.signal(signal.SIGALRM, _kill_group)
    signal.alarm(_GRACE_SECONDS)
    os.killpg(os.getpgrp(), signal.SIGINT)


def _kill_group(number: int, frame: FrameType | None) -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
