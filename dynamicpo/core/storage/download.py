"""Objects to local files: under another name until the checksum is right."""

import os
from collections.abc import Callable
from pathlib import Path

from dynamicpo.core.storage.addresses import Address
from dynamicpo.core.storage.checksums import check_equal, crc32c_of
from dynamicpo.core.storage.parts import in_threads, num_part_bytes
from dynamicpo.core.storage.retries import retried
from dynamicpo.core.storage.store import Store, StoredFile, find_object


def download_small(store: Store, file: StoredFile, path: Path) -> None:
    """Copy an object with one request, and again where that may help.

    Raises:
        Exception: The last failure, when the deadline is over. There is no file then.
    """

    def fill(partial: Path) -> StoredFile:
        part = store.read(file, 0, file.size)
        with partial.open("wb") as stream:
            stream.writelines(part.blocks)
        return file._replace(crc32c=part.crc32c)

    retried(store, lambda: _download(store, path, fill))


def download_large(store: Store, file: StoredFile, path: Path) -> None:
    """Copy an object in parts, each of which is fetched again where it fails.

    Raises:
        Exception: The last failure, when the deadline is over. There is no file then.
    """
    part_bytes = num_part_bytes(file.size)

    def fill(partial: Path) -> StoredFile:
        checksums = set()
        with partial.open("wb") as stream:

            def fetch_part(start: int) -> None:
                end = min(start + part_bytes, file.size)
                descriptor = stream.fileno()
                checksum = retried(store, lambda: _copy_range(store, file, start, end, descriptor))
                checksums.add(checksum)

            in_threads(fetch_part, range(0, file.size, part_bytes))
        # All parts are of one version, so there is one.
        return file._replace(crc32c=checksums.pop())

    retried(store, lambda: _download(store, path, fill))


def _copy_range(store: Store, file: StoredFile, start: int, end: int, descriptor: int) -> str:
    """Write a range to its place in an open file; the checksum of the whole object."""
    part = store.read(file, start, end)
    position = start
    for block in part.blocks:
        written = os.pwrite(descriptor, block, position)
        position += written
    return part.crc32c


def read_whole(store: Store, address: Address) -> bytes | None:
    """The content of a small object; None where there is none.

    Raises:
        CorruptionError: It has another checksum than the store says.
    """
    file = find_object(store, address)
    if file is None:
        return None
    part = store.read(file, 0, file.size)
    content = part.content()
    if part.crc32c:
        check_equal(part.crc32c, crc32c_of(content))
    return content


def _download(store: Store, path: Path, fill: Callable[[Path], StoredFile]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A half file must not look like the file.
    partial = path.with_name(f".{path.name}.partial")
    try:
        store.check(fill(partial), partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
