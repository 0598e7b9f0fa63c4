"""Locks between processes, on files: the kernel unlocks them when their process ends or dies."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


@contextmanager
def locked(
    path: Path, busy: str = "another process holds the lock, waiting for it"
) -> Iterator[None]:
    """Hold a lock, and wait for it first where another process holds it.

    Args:
        path: The lock's file, in a folder that exists. It stays there, unlocked and empty.
        busy: The log message before waiting.

    Raises:
        OSError: The file can't be written, or its file system has no locks.
    """
    # The file is never deleted: a process that waits for a deleted file gets a lock that nobody
    # else sees, while the next one creates the file anew and gets a second lock. The option also
    # refuses filelock's fallback to a file that merely exists, which would outlive its process.
    lock = FileLock(path, preserve_lock_file=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info(busy)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Tell whether a process holds the lock."""
    # filelock has exclusive locks only, and creates the file. Two readers that look at once must
    # not take each other for the holder, nor write into a folder that may be read-only. Hence a
    # shared lock of the same kind.
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
