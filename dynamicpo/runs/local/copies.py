"""Copies of artifacts: a run's own, which nothing that is done to another run can change."""

import fcntl
import os
import shutil
import stat
from pathlib import Path

# FICLONE, from linux/fs.h: the copy shares the blocks of the file until either is written to.
_FICLONE = 0x40049409
# Larger files are not copied where they can't share blocks: a run would double a model's weights.
LARGE_BYTES = 1 << 30
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def copy_tree(source: Path, target: Path) -> None:
    """Copy a file, or a folder with all that is in it.

    Files share their blocks with the copies where the file system can. Where it can't, a large one
    gets a second name and becomes read-only: whoever takes it from a cache checks its manifest.

    Raises:
        OSError: It can't be read or written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_copy, dirs_exist_ok=True)
    else:
        _copy(str(source), str(target))


def _copy(source: str, target: str) -> None:
    if _shares_blocks(source, target):
        return
    if os.path.getsize(source) < LARGE_BYTES:
        shutil.copyfile(source, target)
        return
    os.unlink(target)
    try:
        os.link(source, target)
    # On another disk, or without hard links.
    except OSError:
        shutil.copyfile(source, target)
        return
    os.chmod(source, os.stat(source).st_mode & ~_WRITABLE)


def _shares_blocks(source: str, target: str) -> bool:
    """Create the copy; tell whether it has the content already."""
    with open(source, "rb") as original, open(target, "wb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
        # Most file systems: not theirs, or another disk.
        except OSError:
            return False
    return True
