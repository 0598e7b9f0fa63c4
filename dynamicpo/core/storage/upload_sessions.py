"""Addresses of resumable uploads, kept so that a process goes on with what a killed one began.

With its address anybody may write the rest of an upload: the files are their user's alone.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

# The store forgets a session after a week.
_LIFETIME = 7 * 24 * 3600


class SessionRecord:
    """The address of one upload's session, if there is a place to keep it."""

    def __init__(self, file: TextIO | None) -> None:
        """Keep the open file; None keeps nothing."""
        self._file = file

    def read(self) -> str:
        """The address that a process before this one left; "" for none."""
        if self._file is None:
            return ""
        self._file.seek(0)
        return self._file.read()

    def write(self, address: str) -> None:
        """Keep an address; "" forgets it."""
        if self._file is None:
            return
        # A disk that is full costs a session, and not the upload.
        with suppress(OSError):
            self._file.seek(0)
            self._file.truncate()
            self._file.write(address)
            self._file.flush()


@contextmanager
def session_record(uri: str, checksum: str) -> Iterator[SessionRecord]:
    """The record of an upload, held by this process while the block runs.

    It keeps nothing where another process holds it, which then uploads the same, or where there is
    no place for it.

    Args:
        uri: The object.
        checksum: Of its content: another content is another upload.
    """
    name = hashlib.sha256(f"{uri} {checksum}".encode()).hexdigest()
    path = _folder() / name
    try:
        file = _open(path)
    except OSError:
        yield SessionRecord(None)
        return
    with file:
        record = SessionRecord(file)
        yield record
        if not record.read():
            path.unlink(missing_ok=True)


def _folder() -> Path:
    home = Path.home() / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home) / "dynamicpo" / "uploads"


def _open(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _delete_old(path.parent)
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    file = os.fdopen(number, "r+", encoding="utf-8")
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _delete_old(folder: Path) -> None:
    oldest = time.time() - _LIFETIME
    for path in folder.iterdir():
        # By another process at the same moment.
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()
