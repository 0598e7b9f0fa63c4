"""Folders that appear under their name only when they are complete, and on the disk."""

import errno
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamicpo.core.claims import claimed
from dynamicpo.core.errors import DataError, DynamicPOError

log = logging.getLogger(__name__)

# A disk's own failures. EFBIG: larger than this account's or this file system's limit.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# safetensors and duckdb raise classes of their own, with the system's number in the text.
_ERROR_NUMBER = re.compile(r"os error (\d+)|\[Errno (\d+)\]", re.IGNORECASE)


@contextmanager
def partial_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` to write into, for one process at a time; gone after the block.

    What killed processes have left of the same output is deleted first.

    Args:
        output: The folder that `publish` makes of it.

    Raises:
        DataError: Another process makes this output, nothing can be written beside it, or the disk
            fails or fills up meanwhile.
    """
    claim = output.parent / f".{output.name}.claim"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with claimed(claim, str(output)):
            _remove_leftovers(output)
            partial = _partial_name(output)
            partial.mkdir()
            try:
                yield partial
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except Exception as error:
        number = _disk_error(error)
        if number is None:
            raise
        raise DataError(
            f"{output}: must be writable to its end, but {os.strerror(number)}. "
            "Nothing is left of it; make room or choose another output."
        ) from error


def check_replaceable(output: Path) -> None:
    """Refuse an output that could not be put in place after the work.

    Raises:
        DataError: It is the current folder, a mount point, or its parent can't be written.
    """
    if output.is_dir() and output.samefile(Path.cwd()):
        raise DataError(
            f"{output}: must be a folder that can be replaced, but it is the current one. "
            f"Name a folder in it, such as {output / 'output'}."
        )
    trial = _partial_name(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        trial.mkdir()
        if output.is_dir():
            # The very operation that comes at the end. Mount points answer EBUSY.
            trial.rename(output)
        else:
            trial.rmdir()
    except OSError as error:
        shutil.rmtree(trial, ignore_errors=True)
        raise DataError(
            f"{output}: must be writable and replaceable, but {error.strerror}. "
            "Choose another output, below a mounted folder and not the mounted folder itself."
        ) from error


def publish(partial: Path, output: Path) -> None:
    """Give a finished folder its name, all of it on the disk.

    Raises:
        DataError: It can't; the finished folder then has another name, which the message gives.
    """
    _share(partial)
    _sync(partial)
    try:
        # Linux replaces an empty folder by the rename itself.
        partial.replace(output)
    except OSError as error:
        kept = output.parent / f"{output.name}.finished-{secrets.token_hex(4)}"
        partial.replace(kept)
        raise DataError(
            f"{output}: the finished result could not be put there ({error.strerror}). "
            f"It is complete in {kept}; move it."
        ) from error
    _sync_file(output.parent)


def _partial_name(output: Path) -> Path:
    # Beside the output, because a rename to another disk is a copy. At random: a process id is not
    # unique among containers. No tempfile: its folders are for one user, shared volumes for many.
    return output.parent / f"{_partial_prefix(output)}{secrets.token_hex(4)}"


def _partial_prefix(output: Path) -> str:
    return f".{output.name}.partial-"


def _remove_leftovers(output: Path) -> None:
    # Whoever holds the claim is the only one who writes: what lies there is of killed processes.
    prefix = _partial_prefix(output)
    for entry in sorted(output.parent.iterdir()):
        is_left = entry.name.startswith(prefix)
        if is_left:
            log.info("%s: removed, left by a process that was killed", entry)
            shutil.rmtree(entry, ignore_errors=True)


def _share(folder: Path) -> None:
    """Give all files the modes that new ones get here; some libraries make private ones."""
    probe = folder / ".mode"
    probe.touch()
    file_mode = probe.stat().st_mode
    probe.unlink()
    folder_mode = folder.stat().st_mode
    for path in folder.rglob("*"):
        mode = folder_mode if path.is_dir() else file_mode
        path.chmod(mode)


def _sync(folder: Path) -> None:
    # Without it, a machine that loses power after the rename has the name and not the content.
    for path in [*folder.rglob("*"), folder]:
        _sync_file(path)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some mounts have no fsync for folders.
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def _disk_error(error: Exception) -> int | None:
    """The number of a disk's failure, or None for any other error."""
    if isinstance(error, DynamicPOError):
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := _ERROR_NUMBER.search(str(error))):
        number = int(match[1] or match[2])
    return number if number in _DISK_ERRORS else None
