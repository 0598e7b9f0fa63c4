"""Files of delimited columns: how one is written, and its rows as text.

DuckDB reads what is written plainly, with nothing detected. What it refuses, or what has a quirk of
the program that wrote it, is read row by row in Python: slower, and with the line of a problem.
"""

import csv
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa

from dynamicpo.core.errors import DataError
from dynamicpo.core.messages import quoted, shown
from dynamicpo.data.sources.line_scan import scan_lines
from dynamicpo.data.sources.parts import DELIMITERS, Part
from dynamicpo.data.sources.python_rows import delimited_rows, text_lines
from dynamicpo.data.sources.sql import literal, registered
from dynamicpo.data.sources.tab_quotes import is_quoted
from dynamicpo.data.sources.text_values import trim

_OTHER_DELIMITERS = (",", ";", "\t", "|")
_DELIMITER_HINT = "sep="
_BATCH_ROWS = 20_000
_MAX_HEADER = 100_000  # characters; a file without line ends would be one line


@dataclass(frozen=True)
class DelimitedLayout:
    """The layout of a text file of delimited columns.

    Attributes:
        columns: The names of its columns, in order; "" for a column without a name.
        delimiter: The text between two columns.
        header: Whether a first line is to be skipped.
        encoding: The encoding of its text.
        quoted: Whether values may stand in double quotes; None for as DuckDB is told by `header`.
        skipped_lines: Lines before the header, such as Excel's `sep=;`.
    """

    columns: tuple[str, ...]
    delimiter: str
    header: bool = False
    encoding: str = "utf-8"
    quoted: bool | None = None
    skipped_lines: int = 0

    @property
    def has_quotes(self) -> bool:
        """True where double quotes hold a value together.

        Files with a header come from programs that quote; MovieLens' own have quotes in titles.
        """
        return self.header if self.quoted is None else self.quoted


def layout_of(part: Part, required: Sequence[str], has_header: bool = True) -> DelimitedLayout:
    """Find how a file is written from its beginning: its header, delimiter and quotes.

    Args:
        part: A CSV or TSV file.
        required: Names of columns that may be there; they tell the delimiter.
        has_header: Whether the first line holds names. If not, names are "1", "2", ...

    Raises:
        DataError: Names that are not distinct, or quotes that can be read in two ways.
    """
    lines, skipped, hint = _first_line(part)
    delimiter = hint or _delimiter(lines, part, required, has_header)
    names = _names(lines, delimiter, part)
    if not has_header:
        names = [str(number) for number in range(1, len(names) + 1)]
    _check_distinct(names, part)
    layout = DelimitedLayout(
        columns=tuple(names),
        delimiter=delimiter,
        header=has_header,
        quoted=True,
        skipped_lines=skipped,
    )
    if delimiter == "\t":
        return replace(layout, quoted=is_quoted(part, len(names)))
    return layout


def _first_line(part: Part) -> tuple[str, int, str]:
    """The first line that holds something, the number of lines before it, and Excel's delimiter."""
    hint = ""
    for number, line in enumerate(text_lines(part, "utf-8", limit=_MAX_HEADER)):
        text = line.strip("\r\n")
        # Some programs quote the hint.
        text = text.strip('"') if text.lower().startswith(f'"{_DELIMITER_HINT}') else text
        if not hint and text.lower().startswith(_DELIMITER_HINT) and len(text) <= 5:
            hint = text[len(_DELIMITER_HINT) :] or ","
        elif text.strip(" ,;\t|"):
            return text, number, hint
    raise DataError(f"{part.path}: must hold a header, but has none. Check how it was exported.")


def _delimiter(line: str, part: Part, required: Sequence[str], has_header: bool) -> str:
    """The delimiter that the format's name says, or another one that gives more of the columns."""
    usual = DELIMITERS[part.suffix]
    if not has_header or not required:
        counts = {delimiter: line.count(delimiter) for delimiter in _OTHER_DELIMITERS}
        return usual if counts[usual] else max(counts, key=lambda delimiter: counts[delimiter])
    found = {
        delimiter: len({*required} & {*_names(line, delimiter, part)})
        for delimiter in (usual, *_OTHER_DELIMITERS)
    }
    # The first of equals.
    return max(found, key=lambda delimiter: found[delimiter])


def _names(line: str, delimiter: str, part: Part) -> list[str]:
    try:
        (names,) = csv.reader([line], delimiter=delimiter)
    except (csv.Error, ValueError) as error:
        raise DataError(
            f"{part.path}: must begin with the names of its columns, got {quoted(line)}. Add them."
        ) from error
    return [trim(name) for name in names]


def _check_distinct(names: Sequence[str], part: Part) -> None:
    # Columns without a name, such as pandas' index or what a comma at the end makes, are not asked
    # for by anyone.
    named = [name for name in names if name]
    if len({*named}) != len(named):
        listed = ", ".join(shown(name) for name in names)
        raise DataError(f"{part.path}: column names must differ, got {listed}. Rename them.")


def insert_delimited(
    connection: duckdb.DuckDBPyConnection,
    part: Part,
    layout: DelimitedLayout,
    positions: Sequence[int],
    insert: Callable[[str], None],
) -> None:
    """Insert the columns at some positions, named `c0`, `c3` ..., and the number of their `row`.

    Args:
        connection: DuckDB.
        part: The file.
        layout: How it is written.
        positions: The columns that are wanted.
        insert: Inserts what a relation holds.

    Raises:
        DataError: The file is not what the layout says; the message names the line.
    """
    scan = scan_lines(part)
    if not scan.has_mixed_ends and not layout.skipped_lines:
        try:
            insert(_relation(part, layout, positions))
            return
        except duckdb.Error:
            # Read again below, which either succeeds or says what is wrong in which line.
            pass
    rows = delimited_rows(part, layout)
    start = 1
    while batch := list(itertools.islice(rows, _BATCH_ROWS)):
        columns = {
            f"c{position}": pa.array([row[position] for row in batch], pa.string())
            for position in positions
        }
        numbers = pa.array(range(start, start + len(batch)), pa.int64())
        with registered(connection, pa.table({"row": numbers} | columns)) as name:
            insert(name)
        start += len(batch)


def _relation(part: Part, layout: DelimitedLayout, positions: Sequence[int]) -> str:
    quote = '"' if layout.has_quotes else ""
    # Every guess is switched off: ids such as "007" would lose their zeros as integers, and a
    # folder's name such as "user_id=77" would replace a column.
    options = {
        "auto_detect": False,
        "header": layout.header,
        "columns": {f"c{number}": "VARCHAR" for number in range(len(layout.columns))},
        "delim": layout.delimiter,
        "quote": quote,
        "escape": quote,
        "encoding": layout.encoding,
        "compression": "gzip" if part.is_compressed else "none",
        "hive_partitioning": False,
    }
    settings = [f"{key} = {literal(value)}" for key, value in options.items()]
    arguments = ", ".join([literal(part.path), *settings])
    columns = [f"c{position}" for position in positions]
    selected = ", ".join(["row_number() OVER () AS row", *columns])
    return f"(SELECT {selected} FROM read_csv({arguments}))"
