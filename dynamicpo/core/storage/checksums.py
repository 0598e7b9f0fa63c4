"""Checksums of files and of what is sent."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

from dynamicpo.core.storage.failures import CorruptionError

_BLOCK_BYTES = 1 << 20


def crc32c(path: Path) -> str:
    """A file's CRC32C as Google's store writes it: big-endian, in base 64."""
    import google_crc32c

    checksum = 0
    for block in blocks(path, _BLOCK_BYTES):
        checksum = google_crc32c.extend(checksum, block)
    return _encoded(checksum)


def crc32c_of(content: bytes) -> str:
    """The CRC32C of bytes, written as that of files."""
    import google_crc32c

    return _encoded(google_crc32c.value(content))


def _encoded(checksum: int) -> str:
    return base64.b64encode(checksum.to_bytes(4, "big")).decode()


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of(content: bytes) -> str:
    """The SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def md5(content: bytes) -> bytes:
    """The MD5 of bytes: S3 has no other checksum that all of its servers know."""
    return hashlib.md5(content, usedforsecurity=False).digest()


def etag(path: Path, part_bytes: int | None) -> str:
    """The ETag that S3 gives a file that was sent in parts of this size, or (None) at once."""
    if part_bytes is None:
        whole = hashlib.md5(usedforsecurity=False)
        for block in blocks(path, _BLOCK_BYTES):
            whole.update(block)
        return whole.hexdigest()
    return etag_of_parts([md5(part) for part in blocks(path, part_bytes)])


def etag_of_parts(digests: list[bytes]) -> str:
    """The ETag of an object in parts: the MD5 of their MD5s, and their number."""
    return f"{md5(b''.join(digests)).hex()}-{len(digests)}"


def blocks(path: Path, num_bytes: int) -> Iterator[bytes]:
    """The content of a file in pieces of this size."""
    with path.open("rb") as stream:
        while block := stream.read(num_bytes):
            yield block


def check_equal(stored: str, local: str) -> None:
    """Raise CorruptionError where a checksum in the store is another than here."""
    if stored != local:
        raise CorruptionError(f"{stored} in the store, {local} here")
