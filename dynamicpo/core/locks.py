"""Locks between processes: files whose lock the kernel takes back when their process ends, however that ends."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)


@contextmanager
def locked(
    path: Path, busy: str = "another process is at the same, waiting for it"
) -> Iterator[None]:
    """Hold a lock, and wait for it first where another process holds it.

    Args:
        path: The lock's file, in a folder that is there; deleted afterwards.
        busy: What to say in the log before waiting.

    Raises:
        OSError: The file can't be written, or its file system knows no locks.
    """
    with path.open("w") as lock:
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info(busy)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            path.unlink(missing_ok=True)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock."""
    with suppress(OSError), path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
