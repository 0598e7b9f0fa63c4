"""Locks: one holder at a time among real processes, and none left behind by a killed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynamicpo.core.locks import is_locked, locked

# Adds 1 to a number in a file, slowly enough that two writers at once would lose an addition.
ADD_ONE = """
import sys, time
from pathlib import Path
from dynamicpo.core.locks import locked
lock, counter, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
for _ in range(rounds):
    with locked(lock):
        number = int(counter.read_text())
        time.sleep(0.01)
        counter.write_text(str(number + 1))
"""
HOLD = """
import sys, time
from pathlib import Path
from dynamicpo.core.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
WAIT = """
import logging, sys
from pathlib import Path
from dynamicpo.core.locks import locked
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
with locked(Path(sys.argv[1]), busy="waiting"):
    print("held", flush=True)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_processes_never_hold_the_lock_at_once(tmp_path: Path) -> None:
    lock, counter = tmp_path / "lock", tmp_path / "counter"
    counter.write_text("0")
    processes = [start(ADD_ONE, lock, counter, 15) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert counter.read_text() == "30"


def test_a_process_that_waited_holds_the_lock_that_others_see(tmp_path: Path) -> None:
    """The file keeps its inode: a deleted one would be locked by the waiting process alone."""
    lock = tmp_path / "lock"
    with locked(lock):
        inode = lock.stat().st_ino
        waiting = start(WAIT, lock)
        assert first_line(waiting) == "waiting"
        time.sleep(0.2)
        assert waiting.poll() is None
    assert first_line(waiting) == "held"
    assert waiting.wait(timeout=60) == 0
    assert lock.stat().st_ino == inode


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = start(HOLD, lock)
    assert first_line(holder) == "held"
    assert is_locked(lock)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait(timeout=60)
    assert not is_locked(lock)
    with locked(lock):
        assert is_locked(lock)


def test_looking_at_a_lock_neither_creates_nor_takes_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_locked(lock)
    assert not lock.exists()
    with locked(lock):
        pass
    assert not is_locked(lock)


def test_a_lock_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / "lock"):
        pass
