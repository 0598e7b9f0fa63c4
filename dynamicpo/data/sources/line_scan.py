"""One pass over a text file's bytes: is it whole, and how do its lines end?"""

import zlib
from gzip import BadGzipFile
from typing import NamedTuple

from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.parts import Part

_CHUNK = 1 << 20
# The longer ones first: they begin like the others.
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_LOOKED_AT = 16  # bytes, of the names of columns


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
    """Refuse a text in UTF-16 or UTF-32.

    Raises:
        DataError: It begins with a mark of one of these, or has a zero at every other place.
    """
    found = "begins with the mark of {}"
    encoding = next((name for mark, name in _MARKS.items() if beginning.startswith(mark)), "")
    if not encoding:
        encoding = _unmarked(beginning[:_LOOKED_AT])
        found = "looks like {}"
    if encoding:
        raise DataError(
            f"{part.path}: must be UTF-8, but it {found.format(encoding)}. "
            f"Convert it with iconv -f {encoding} -t UTF-8."
        )


def _unmarked(beginning: bytes) -> str:
    """The encoding without a mark in which zeros stand at every other place; empty for none."""
    for name, zeros, others in (
        ("UTF-16LE", beginning[1::2], beginning[::2]),
        ("UTF-16BE", beginning[::2], beginning[1::2]),
    ):
        if len(zeros) > 1 and not any(zeros) and all(others):
            return name
    return ""
