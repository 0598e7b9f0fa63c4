"""Object stores, as the rest of storage sees them: one request each, without retries."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from dynamicpo.core.storage.addresses import Address
from dynamicpo.core.storage.failures import FailureKind

# The version of an object that must not exist yet.
NO_VERSION: Literal["no version"] = "no version"


class StoredFile(NamedTuple):
    """An object.

    `modified` is in epoch seconds. `version` is the generation or ETag, which another content would
    change. `crc32c` is in base 64, and empty where the store has not told it.
    """

    address: Address
    size: int
    modified: float
    version: str
    crc32c: str = ""


class Range(NamedTuple):
    """The bytes of a range as they come, and the CRC32C of the whole object where it is known."""

    blocks: Iterable[bytes]
    crc32c: str

    def content(self) -> bytes:
        """All bytes at once."""
        return b"".join(self.blocks)


class Store(Protocol):
    """A client of one kind of store, which all threads of a process share.

    Its methods raise the client library's exceptions, of which `kind` tells what they mean.
    """

    credentials_hint: str

    def objects(self, prefix: Address, limit: int | None = None) -> Iterator[StoredFile]:
        """The objects whose names begin with the prefix's, by name."""

    def read(self, file: StoredFile, start: int, end: int) -> Range:
        """The bytes from `start` to before `end` of this version."""

    def check(self, file: StoredFile, path: Path) -> None:
        """Raise CorruptionError where a local copy has another checksum than the store."""

    def write(self, address: Address, content: bytes, expected: str | None = None) -> StoredFile:
        """Write a small object and check what the store has got.

        `expected` is the version that must be there, NO_VERSION, or None for any.
        """

    def upload(self, path: Path, address: Address) -> None:
        """Write a large object in parts, each sent again where it fails; check it."""

    def delete(self, address: Address) -> None:
        """Delete an object; one that is not there is no error."""

    def kind(self, error: Exception) -> FailureKind | None:
        """The kind of failure that an exception means; None if it is not the store's."""

    def detail(self, error: Exception) -> str:
        """A few words of the store on a failure, without addresses or credentials."""


def find_object(store: Store, address: Address) -> StoredFile | None:
    """The object of that very name."""
    # By listing, where a name comes first among those that begin with it. To ask for the object
    # itself tells a missing bucket, a wrong key and a wrong clock as 404, 403 and 403 (S3), and a
    # missing bucket as a missing object (Google).
    for file in store.objects(address, limit=1):
        if file.address.name == address.name:
            return file
    return None
