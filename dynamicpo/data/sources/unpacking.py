"""Limits of compressed files: a small one may unpack to more than a disk or a memory holds."""

import gzip
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path
from zipfile import ZipInfo

from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.parts import Part, find_parts

_CHUNK = 1 << 20
_GIGABYTE = 1 << 30
# Below it no ratio is harmful, and short files of equal rows have large ones.
_ALWAYS_ALLOWED = 16 << 20
_MAX_MEMBERS = 10_000
# Bytes of a value in memory, at least: Parquet stores a million equal ones in a few.
_VALUE = 8


@dataclass(frozen=True)
class UnpackingLimits:
    """Limits of what is unpacked.

    Attributes:
        gigabytes: The largest size of a file or archive, unpacked.
        ratio: The largest ratio of the unpacked size to the packed one.
    """

    gigabytes: float = 4.0
    ratio: float = 200.0

    def check(self, path: Path, unpacked: int, packed: int) -> None:
        """Refuse a file that unpacks to too much.

        Args:
            path: The file, for messages.
            unpacked: Bytes that come out of it, or have so far.
            packed: Bytes of it that they come from.

        Raises:
            DataError: They are more than the limits allow.
        """
        if unpacked > self.gigabytes * _GIGABYTE:
            raise _too_much(path, f"at most {self.gigabytes:g} GB", "max_unpacked_gb")
        if unpacked > _ALWAYS_ALLOWED and unpacked > self.ratio * packed:
            raise _too_much(path, f"at most {self.ratio:g} times its size", "max_unpacked_ratio")


DEFAULT_LIMITS = UnpackingLimits()


def _too_much(path: Path, limit: str, setting: str) -> DataError:
    return DataError(
        f"{path}: must unpack to {limit}, but it holds more. If you trust the file, raise "
        f"{setting} or unpack it yourself."
    )


def check_members(path: Path, members: Sequence[ZipInfo], limits: UnpackingLimits) -> None:
    """Refuse a zip by what its index says, before anything is unpacked.

    Args:
        path: The zip, for messages.
        members: Those that shall be unpacked; zipfile reads no more of each than is said there.
        limits: The limits of their sizes.

    Raises:
        DataError: They are too many or too large.
    """
    if len(members) > _MAX_MEMBERS:
        raise DataError(
            f"{path}: must hold at most {_MAX_MEMBERS:,} files, got {len(members):,}. "
            "Unpack those that are needed yourself."
        )
    unpacked = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    # Members may share their bytes, so that the sum says more than there is.
    limits.check(path, unpacked, min(packed, path.stat().st_size))


def check_unpacked(path: Path, limits: UnpackingLimits) -> None:
    """Refuse an input that unpacks to more than the limits.

    Gzip files are unpacked without keeping anything, as far as that; Parquet files say their size.

    Args:
        path: A file, a folder or a glob.
        limits: The limits of all its files together.

    Raises:
        DataError: They unpack to more.
    """
    # A file's format is for its reader to judge: published data sets have names of any kind.
    parts = find_parts(path, any_format=path.is_file())
    unpacked = packed = 0
    for part in parts:
        for unpacked_now, packed_now in _sizes(part):
            limits.check(path, unpacked + unpacked_now, packed + packed_now)
        unpacked += unpacked_now
        packed += packed_now


def _sizes(part: Part) -> Iterable[tuple[int, int]]:
    """Bytes that come out of a file and are read for it, so far; none of plain text."""
    if part.is_compressed:
        return _sizes_of_gzip(part.path)
    if part.suffix == ".parquet":
        return [(_size_of_parquet(part.path), part.path.stat().st_size)]
    return [(0, 0)]


def _size_of_parquet(path: Path) -> int:
    # 50 ms, which text files need not wait for.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
    # One that is damaged is for its reader to tell.
    except (pa.ArrowException, OSError):
        return 0
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    stored: int = sum(group.total_byte_size for group in groups)
    num_values: int = metadata.num_rows * metadata.num_columns
    return max(stored, num_values * _VALUE)


def _sizes_of_gzip(path: Path) -> Iterable[tuple[int, int]]:
    """Bytes that came out of a gzip file and went into it, so far."""
    unpacked = 0
    with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as stream:
        # One that is not whole is for its reader to tell.
        try:
            while chunk := stream.read(_CHUNK):
                unpacked += len(chunk)
                yield unpacked, raw.tell()
        except (BadGzipFile, EOFError, zlib.error):
            pass
    yield unpacked, path.stat().st_size
