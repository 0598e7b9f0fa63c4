"""One pass over a text file's bytes: is it whole, and how do its lines end?"""

import zlib
from gzip import BadGzipFile
from typing import NamedTuple

from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.parts import Part

_CHUNK = 1 << 20
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class LineScan(NamedTuple):
    """The ends of a file's lines.

    Attributes:
        has_mixed_ends: Whether more than one of CR LF, LF and CR ends lines.
    """

    has_mixed_ends: bool


def scan_lines(part: Part) -> LineScan:
    """Read a file's bytes once.

    Raises:
        DataError: A gzip file that is not whole, or a text in UTF-16.
    """
    counts = {b"\r\n": 0, b"\n": 0, b"\r": 0}
    last = b""
    try:
        with part.open() as stream:
            while chunk := stream.read(_CHUNK):
                if not last:
                    check_encoding(part, chunk)
                for end in counts:
                    counts[end] += chunk.count(end)
                # One that is split between two chunks.
                counts[b"\r\n"] += last == b"\r" and chunk[:1] == b"\n"
                last = chunk[-1:]
    except (BadGzipFile, EOFError, zlib.error) as error:
        raise broken_gzip(part, error) from error
    pairs = counts[b"\r\n"]
    kinds = [pairs, counts[b"\n"] - pairs, counts[b"\r"] - pairs]
    return LineScan(has_mixed_ends=sum(count > 0 for count in kinds) > 1)


def broken_gzip(part: Part, error: Exception) -> DataError:
    """Make the error for a gzip file that is cut short or damaged."""
    return DataError(f"{part.path}: must be a whole gzip file, but {error}. Copy it again.")


def check_encoding(part: Part, beginning: bytes) -> None:
    """Refuse a text in UTF-16.

    Raises:
        DataError: It begins with the mark of UTF-16.
    """
    if beginning.startswith(_UTF_16_MARKS):
        raise DataError(
            f"{part.path}: must be UTF-8, but it begins with the mark of UTF-16. "
            "Convert it with iconv -f UTF-16 -t UTF-8."
        )
