"""Folders that appear under their name only when they are complete, and on the disk."""

import errno
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dynamicpo.core.claims import claimed
from dynamicpo.core.errors import DataError, DynamicPOError

log = logging.getLogger(__name__)

# A disk's own failures. EFBIG: larger than this account's or this file system's limit.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# safetensors and duckdb raise classes of their own, with the system's number in the text.
_ERROR_NUMBER = re.compile(r"os error (\d+)|\[Errno (\d+)\]", re.IGNORECASE)
# An address, or what pathlib makes of one: `s3:/bucket/name`.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


class _NotInPlaceError(DataError):
    """Finished work that has another name than it should, and is not to be deleted."""


@contextmanager
def partial_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` to write into, for one process at a time; gone after the block.

    What killed processes have left of the same output is deleted first.

    Args:
        output: The folder that `publish` makes of it.

    Raises:
        DataError: The output could not be put in place after the work, another process makes it, or
            the disk fails or fills up meanwhile.
    """
    check_place(output)
    claim = output.parent / f".{output.name}.claim"
    try:
        with claimed(claim, str(output)):
            # Another process may have finished it since the look above.
            check_output(output)
            _remove_leftovers(output)
            with _temporary(_random_name(output, "partial")) as partial:
                yield partial
    except Exception as error:
        number = disk_error(error)
        if number is None:
            raise
        raise DataError(
            f"{output}: must be writable to its end, but {os.strerror(number)}. "
            "Nothing is left of it; make room or choose another output."
        ) from error


@contextmanager
def _temporary(partial: Path) -> Iterator[Path]:
    partial.mkdir()
    try:
        yield partial
    except _NotInPlaceError:
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(partial, ignore_errors=True)


def check_output(output: Path) -> None:
    """Refuse an output that holds something already, or is no folder of this machine.

    Raises:
        DataError: It exists and is not an empty folder, or its name means something else.
    """
    check_name(output)
    if output.is_symlink():
        raise DataError(
            f"{output}: must be a folder, but it is a symbolic link. "
            f"Name the folder itself, {output.resolve()}, or choose another output."
        )
    # Temporary folders exist before a stage can write into them.
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists():
        raise DataError(
            f"{output}: must not exist yet, but something is there. "
            "Remove it or choose another output."
        )
    for folder in output.absolute().parents:
        if (folder / "manifest.json").is_file():
            raise DataError(
                f"{output}: must not lie in the finished output {folder}, whose files are checked "
                "when it is read. Choose another output."
            )


def check_name(output: Path) -> None:
    """Refuse a name that means something else than a folder of this machine.

    Raises:
        DataError: It is an address, was meant for a shell, or can't be written as text.
    """
    name = str(output)
    if name.startswith("~"):
        raise DataError(
            f"{name}: must be the folder itself; '~' means the home folder in shells only. "
            f"Write {output.expanduser()}."
        )
    if _ADDRESS.match(name):
        raise DataError(
            f"{name}: must be a folder of this machine, but it is an address. "
            "Choose a folder, and copy it from there."
        )
    try:
        name.encode()
    # File systems take any bytes, but libraries, manifests and pages take text.
    except UnicodeEncodeError as error:
        raise DataError(
            f"{ascii(name)}: must be a name of characters in UTF-8, but it is not. "
            "Choose another output."
        ) from error


def check_apart(output: Path, *inputs: str) -> None:
    """Refuse an output within a folder that is an input, which would be another one with it.

    Args:
        output: The output.
        *inputs: Paths of the inputs, or other texts; finished outputs need no such check.

    Raises:
        DataError: It lies in one of them.
    """
    for name in inputs:
        folder = Path(name)
        if name and folder.is_dir() and output.resolve().is_relative_to(folder.resolve()):
            raise DataError(
                f"{output}: must not lie in the input {folder}, which would change by it. "
                "Choose another output."
            )


def check_place(output: Path) -> None:
    """Refuse, before any work, an output whose result could not be put in place at its end.

    Raises:
        DataError: As `check_output`; or it is the current folder, a mount point, or its parent
            can't be written.
    """
    check_output(output)
    if output.is_dir() and output.samefile(Path.cwd()):
        raise DataError(
            f"{output}: must be a folder that can be replaced, but it is the current one. "
            f"Name a folder in it, such as {output / 'output'}."
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _try_rename(output)
    except OSError as error:
        raise DataError(
            f"{output}: must be writable and replaceable, but {error.strerror}. "
            "Choose another output, below a mounted folder and not the mounted folder itself."
        ) from error


def _try_rename(output: Path) -> None:
    """Do what comes at the end of the work. Mount points answer EBUSY."""
    trial = _random_name(output, "trial")
    trial.mkdir()
    try:
        # The process that has the claim may take the trial for a leftover.
        with suppress(FileNotFoundError):
            if output.is_dir():
                trial.rename(output)
    finally:
        # Not there after the rename.
        with suppress(OSError):
            trial.rmdir()


def publish(partial: Path, output: Path) -> None:
    """Give a finished folder its name, all of it on the disk.

    Raises:
        DataError: It can't; the finished folder then has another name, which the message gives.
    """
    _share(partial)
    sync_folder(partial)
    try:
        # Linux replaces an empty folder by the rename itself.
        partial.replace(output)
    except OSError as error:
        raise _NotInPlaceError(
            f"{output}: the finished result could not be put there ({error.strerror}). "
            f"It is complete in {_keep(partial, output)}; move it."
        ) from error
    # A folder may be one that we can write to and not read.
    with suppress(PermissionError):
        _sync_file(output.parent)


def _keep(partial: Path, output: Path) -> Path:
    """Give a finished folder a name that the next process does not take for a leftover."""
    kept = output.parent / f"{output.name}.finished-{secrets.token_hex(4)}"
    try:
        return partial.replace(kept)
    # Nothing can be renamed there any more: it stays where it is.
    except OSError:
        return partial


def _random_name(output: Path, kind: str) -> Path:
    # Beside the output, because a rename to another disk is a copy. At random: a process id is not
    # unique among containers. No tempfile: its folders are for one user, shared volumes for many.
    # Absolute: pyarrow takes a relative path such as `run:1/out` for an address.
    return output.absolute().parent / f".{output.name}.{kind}-{secrets.token_hex(4)}"


def _remove_leftovers(output: Path) -> None:
    # Whoever holds the claim is the only one who writes: what lies there is of killed processes.
    leftover = re.compile(rf"\.{re.escape(output.name)}\.(partial|trial)-[0-9a-f]{{8}}")
    for entry in sorted(output.parent.iterdir()):
        if not leftover.fullmatch(entry.name):
            continue
        # It was killed, or could not rename, after all of the work.
        if (entry / "manifest.json").is_file():
            log.info("%s: complete, found in %s", _keep(entry, output), entry.name)
            continue
        log.info("%s: removed, left by a process that was killed", entry)
        shutil.rmtree(entry, ignore_errors=True)


def _share(folder: Path) -> None:
    """Give all files the modes that new ones get here; some libraries make private ones."""
    probe = folder / ".mode"
    # The work is done: a mount without modes, or a last file that has no room, must not lose it.
    with suppress(OSError):
        probe.touch()
        file_mode = probe.stat().st_mode
        probe.unlink()
        folder_mode = folder.stat().st_mode
        for path in folder.rglob("*"):
            mode = folder_mode if path.is_dir() else file_mode
            path.chmod(mode)


def sync_folder(folder: Path) -> None:
    """Have the disk write all of a folder."""
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


def disk_error(error: Exception) -> int | None:
    """The number of a disk's failure, or None for any other error."""
    if isinstance(error, DynamicPOError):
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := _ERROR_NUMBER.search(str(error))):
        number = int(match[1] or match[2])
    return number if number in _DISK_ERRORS else None
