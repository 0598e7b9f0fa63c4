"""Claims: the right of one process to make something, for as long as its work takes."""

import errno
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from dynamicpo.core.errors import DataError

log = logging.getLogger(__name__)

# The answers of file systems without locks: network and object-store mounts.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
# A holder refreshes its lease every third of this. One that merely computes never loses it.
LEASE_SECONDS = 60.0


@contextmanager
def claimed(path: Path, what: str) -> Iterator[None]:
    """Hold a claim, which no other process on this volume gets meanwhile.

    A kernel lock: it ends with its process and holds between containers, whatever their process
    ids. Where the file system has none, a file with host, start and heartbeat (a lease).

    Args:
        path: The claim's file, in a folder that exists. It is gone after the block.
        what: What is claimed, for the message.

    Raises:
        DataError: Another process holds it.
        OSError: The file can't be written.
    """
    lock = _kernel_lock(path, what) or _lease(path, what)
    try:
        yield
    finally:
        if isinstance(lock, SoftFileLease):
            lock.release()
        else:
            # While the lock is held: whoever had opened the file finds it deleted once it gets the
            # lock, and starts over. filelock looks for that.
            with suppress(OSError):
                path.unlink()
            lock.release()


def _kernel_lock(path: Path, what: str) -> BaseFileLock | None:
    # `preserve_lock_file` also refuses filelock's own fallback, a file without a heartbeat.
    # Anyone may open it: the one of a killed process must not keep the next user of the volume out.
    lock = FileLock(path, preserve_lock_file=True, mode=0o666)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise _held_elsewhere(what, _holder(path)) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        path.unlink(missing_ok=True)
        return None
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    # For messages alone: on a full disk the lock holds without.
    with suppress(OSError):
        path.write_text(f"process {os.getpid()} on {platform.node()}, since {started}", "utf-8")
    return lock


def _lease(path: Path, what: str) -> BaseFileLock:
    # Another name: the attempt to lock has just deleted its own file.
    lease = SoftFileLease(path.with_name(f"{path.name}-lease"), lease_duration=LEASE_SECONDS)
    try:
        lease.acquire(blocking=False)
        return lease
    except Timeout:
        log.info("%s: claimed by another process; waiting to see whether it lives", what)
    try:
        # A dead holder's file must stand still for this long before it may be taken over.
        lease.acquire(timeout=1.5 * LEASE_SECONDS)
    except Timeout as error:
        raise _held_elsewhere(what, "a process without kernel locks") from error
    return lease


def _holder(path: Path) -> str:
    try:
        return path.read_text("utf-8") or "another process"
    # It was finished between the attempt and this look.
    except OSError:
        return "another process"


def _held_elsewhere(what: str, holder: str) -> DataError:
    return DataError(
        f"{what}: must be made by one process at a time, but it is being made ({holder}). "
        "Wait for its end, or choose another output."
    )
