"""Are the double quotes of a TSV file part of its values, or written around them?

Both are common: databases write values as they are, pandas and spreadsheets quote those that hold a
tab or a quote. A title such as `"Heroes"` read the wrong way loses its quotes or swallows lines.
"""

from collections.abc import Iterator
from typing import NamedTuple

from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.parts import Part
from dynamicpo.data.sources.python_rows import text_lines


class _Signs(NamedTuple):
    """The first line of each sign; 0 for none.

    Attributes:
        doubled: A value in quotes whose inner quotes are doubled: no one writes a title so.
        plain: A value that begins with a quote, and that no program would have quoted so.
        uneven: Another number of values than in the header: a value in quotes with a line end.
    """

    doubled: int
    plain: int
    uneven: int


def is_quoted(part: Part, num_columns: int) -> bool:
    """Decide whether quotes are written around the values of a TSV file.

    Raises:
        DataError: There are signs of both.
    """
    lines = text_lines(part, "utf-8")
    if _quotes_everything(part):
        return True
    signs = _signs(lines, num_columns)
    if signs.plain and (signs.doubled or signs.uneven):
        raise DataError(
            f"{part.path}:{signs.plain}: quotes must be around values everywhere or nowhere, but "
            f"they are part of a value here, and not so in line {signs.doubled or signs.uneven}. "
            "Write the file as CSV, JSONL or Parquet."
        )
    return bool(signs.doubled or signs.uneven)


def _quotes_everything(part: Part) -> bool:
    """True where the header is quoted, too: then all text is."""
    for line in text_lines(part, "utf-8"):
        text = line.strip()
        if text:
            return text.startswith('"') and text.endswith('"')
    return False


def _signs(lines: Iterator[str], num_columns: int) -> _Signs:
    doubled = plain = uneven = 0
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n")
        if not text or text.lower().startswith("sep="):
            continue
        # What ends with a delimiter has one value more, which is empty.
        if text.count("\t") + 1 not in (num_columns, num_columns + text.endswith("\t")):
            uneven = uneven or number
        if '"' not in text:
            continue
        for value in text.split("\t"):
            if not value.startswith('"'):
                continue
            if _has_doubled_quotes(value):
                doubled = doubled or number
            elif _is_closed(value):
                plain = plain or number
    return _Signs(doubled, plain, uneven)


def _has_doubled_quotes(value: str) -> bool:
    inner = value[1:-1]
    is_well_quoted = len(value) > 1 and value.endswith('"') and '"' not in inner.replace('""', "")
    return is_well_quoted and '""' in inner


def _is_closed(value: str) -> bool:
    """True where a value that begins with a quote has another; if not, the next line may end it."""
    return '"' in value[1:]
