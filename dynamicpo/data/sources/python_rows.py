"""Rows of delimited files, read one by one: slow, exact, and with the line of what is wrong."""

import csv
import io
import zlib
from collections.abc import Iterator
from gzip import BadGzipFile
from typing import Protocol

from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.line_scan import broken_gzip, check_encoding
from dynamicpo.data.sources.parts import Part

MAX_FIELD = 131_072  # characters, the limit of Python's csv; no id and no title is that long


class Layout(Protocol):
    """The part of a layout that the rows depend on."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""

    @property
    def delimiter(self) -> str:
        """The text between two columns."""

    @property
    def header(self) -> bool:
        """True where the first line is a header."""

    @property
    def encoding(self) -> str:
        """The encoding of the text."""

    @property
    def skipped_lines(self) -> int:
        """Lines before the header."""

    @property
    def has_quotes(self) -> bool:
        """True where values may stand in double quotes."""


def text_lines(part: Part, encoding: str, limit: int = 1 << 24) -> Iterator[str]:
    """The lines of a file with their ends, decoded one by one.

    Raises:
        DataError: A line that is not in the encoding or is longer than the limit, or a gzip file
            that is not whole.
    """
    is_utf8 = encoding.startswith("utf-8")
    try:
        with part.open() as stream:
            # Decoding is left to us, so that the line of what can't be decoded is known. In Latin-1
            # every byte is a character, and line ends are what they are.
            lines = io.TextIOWrapper(stream, encoding="latin-1", newline="")
            for number, line in enumerate(iter(lambda: lines.readline(limit + 1), ""), start=1):
                if len(line) > limit:
                    raise _too_long(part, number, limit)
                raw = line.encode("latin-1")
                if number == 1 and is_utf8:
                    check_encoding(part, raw)
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                yield _decoded(raw, encoding, part, number)
    except (BadGzipFile, EOFError, zlib.error) as error:
        raise broken_gzip(part, error) from error


def _too_long(part: Part, number: int, limit: int) -> DataError:
    return DataError(
        f"{part.path}:{number}: a line must have at most {limit:,} characters, got more. Check for "
        "a quote that is not closed, and cut long texts."
    )


def _decoded(raw: bytes, encoding: str, part: Part, number: int) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        column = error.start + 1
        raise DataError(
            f"{part.path}:{number}: must be UTF-8, but byte {column} of the line is "
            f"0x{raw[error.start]:02x}. Convert the file; where it is from Windows, with "
            "iconv -f WINDOWS-1252 -t UTF-8."
        ) from error


def delimited_rows(part: Part, layout: Layout) -> Iterator[list[str | None]]:
    """The rows of a delimited file, without its header; None for an empty value.

    Raises:
        DataError: A row with another number of values, or quotes that do not fit.
    """
    read = _quoted_rows if layout.has_quotes else _raw_rows
    num_columns = len(layout.columns)
    for position, (number, values) in enumerate(read(part, layout)):
        if layout.header and position == 0:
            continue
        # Some programs end every row, but not the header, with a delimiter.
        if len(values) == num_columns + 1 and not values[-1]:
            values = values[:-1]
        if len(values) != num_columns:
            raise DataError(
                f"{part.path}:{number}: must have {num_columns} values, as the first line has, got "
                f"{len(values)}. Mend or remove the line."
            )
        yield [value or None for value in values]


def _raw_rows(part: Part, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text_lines(part, layout.encoding), start=1):
        text = line.rstrip("\r\n")
        if text and number > layout.skipped_lines:
            yield number, text.split(layout.delimiter)


def _quoted_rows(part: Part, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    lines = text_lines(part, layout.encoding)
    for _ in range(layout.skipped_lines):
        next(lines)
    reader = csv.reader(lines, delimiter=layout.delimiter, strict=True)
    try:
        for values in reader:
            if values:
                yield reader.line_num + layout.skipped_lines, values
    except csv.Error as error:
        number = max(reader.line_num, 1) + layout.skipped_lines
        raise DataError(f"{part.path}:{number}: {_quote_problem(error)}") from error


def _quote_problem(error: csv.Error) -> str:
    reason = str(error)
    if "field larger" in reason:
        return (
            f"a value must have at most {MAX_FIELD:,} characters, got more. Check for a quote that "
            "is not closed before this line, and cut long texts."
        )
    if "unexpected end" in reason:
        return (
            "a quote must be closed, but the file ends first. Look for a single double quote "
            "before this line, and double those within quotes."
        )
    if "expected after" in reason:
        return (
            'a double quote within quotes must be doubled (""), but one is followed by text. Write '
            'the file anew with doubled quotes (where it has \\", without an escape character), or '
            "as TSV, JSONL or Parquet."
        )
    return f"must be well-formed CSV, but {reason}. Write the file anew."
