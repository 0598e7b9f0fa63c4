"""Read access by range: a file object that fetches what is read, and nothing else."""

import io
from typing import BinaryIO

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage.addresses import is_remote, parse_address
from dynamicpo.core.storage.clients import explained, store_of
from dynamicpo.core.storage.files import existing_path
from dynamicpo.core.storage.retries import retried
from dynamicpo.core.storage.store import Store, StoredFile, find_object

# One request brings at least this much: readers of footers and headers ask for few bytes at once.
_BUFFER_BYTES = 256 << 10


def open_file(uri: str) -> BinaryIO:
    """A file or object, open for reading: seekable, so that Parquet and safetensors need no copy.

    The object is read at the version that it has now. Ranges come without a checksum.

    Raises:
        DataError: Nothing is there, or it can't be read.
    """
    if not is_remote(uri):
        with explained(uri):
            return existing_path(uri).open("rb")
    address = parse_address(uri)
    store = store_of(address.scheme)
    with explained(uri, store):
        file = retried(store, lambda: find_object(store, address))
    if file is None:
        raise DataError(f"{uri}: must be an object, but nothing is there. Check the name.")
    return open_object(store, file)


def open_object(store: Store, file: StoredFile) -> BinaryIO:
    """An object, open for reading at the version that was found."""
    return io.BufferedReader(_Ranges(store, file), _BUFFER_BYTES)


class _Ranges(io.RawIOBase):
    """An object as a raw file: each read is a request."""

    def __init__(self, store: Store, file: StoredFile) -> None:
        self._store = store
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}
        self._position = max(0, origin[whence] + offset)
        return self._position

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        start = self._position
        end = min(start + len(buffer), self._file.size)
        if start >= end:
            return 0
        store, file = self._store, self._file
        with explained(str(file.address), store):
            content = retried(store, lambda: store.read(file, start, end).content())
        buffer[: end - start] = content
        self._position = end
        return end - start
