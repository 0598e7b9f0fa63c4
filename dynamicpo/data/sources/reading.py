"""Files of several formats as tables of text."""

import csv
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir

from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.duckdb_errors import explain_read_errors

DELIMITERS = {".csv": ",", ".tsv": "\t"}
FORMATS = (*DELIMITERS, ".jsonl", ".json", ".parquet")
# Texts that programs write where a value is missing.
MISSING = ("", "nan", "NaN", "None", "null", "NULL", "<NA>")


@dataclass(frozen=True)
class DelimitedLayout:
    """The layout of a text file of delimited columns.

    Attributes:
        columns: The names of its columns, in order.
        delimiter: The text between two columns.
        header: Whether a first line is to be skipped.
        encoding: The encoding of its text.
    """

    columns: tuple[str, ...]
    delimiter: str
    header: bool = False
    encoding: str = "utf-8"


def read_text(
    connection: ibis.BaseBackend,
    path: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    layout: DelimitedLayout | None = None,
) -> ir.Table:
    """Read the named columns of a file as text, with its 1-based `row` number (without the header).

    Numbers keep the text they were written with; integers in a Parquet column of floats lose their
    ".0", and its dates become epoch seconds. Optional columns that are absent are null.

    Raises:
        DataError: An unknown format, missing columns, an empty or broken file, or invalid UTF-8.
    """
    with explain_read_errors(path):
        raw = open_table(connection, path, required, layout)
        columns = {name: as_text(raw, name) for name in (*required, *optional)}
        numbered = raw.select(row=ibis.row_number() + 1, **columns)
        # Errors in the file only show when the engine reads all of it, which happens here.
        table = connection.create_table(ibis.util.gen_name("text"), numbered)
    check_not_empty(table, path)
    return table


def check_not_empty(table: ir.Table, path: Path) -> None:
    """Refuse a table without rows.

    Raises:
        DataError: It has none.
    """
    num_rows = table.count().execute()
    if not num_rows:
        raise DataError(
            f"{path}: must hold at least one row, but it is empty. Check how it was exported."
        )


def null_if_missing(column: ir.StringValue) -> ir.StringValue:
    """A text column without outer spaces, null where the text says that a value is missing."""
    text = column.strip()
    return ibis.ifelse(text.isin(MISSING), None, text)


def is_blank(column: ir.StringValue) -> ir.BooleanValue:
    """True where a text is null or of spaces alone."""
    return column.strip().fill_null("") == ""


def open_table(
    connection: ibis.BaseBackend,
    path: Path,
    required: Sequence[str],
    layout: DelimitedLayout | None = None,
) -> ir.Table:
    """Open a file as a table that has the required columns, in the types of its format.

    Values are not checked.

    Raises:
        DataError: An unknown format, missing columns or an empty file.
    """
    table = _open(connection, path, layout)
    _check_columns(path, table.columns, required)
    return table


def _open(connection: ibis.BaseBackend, path: Path, layout: DelimitedLayout | None) -> ir.Table:
    files = _files_to_read(path, any_format=layout is not None)
    suffix = files[0].suffix
    if layout is None and suffix in DELIMITERS:
        layout = _layout_from_header(files[0], DELIMITERS[suffix])
    names = [str(file) for file in files]
    if layout is not None:
        return _read_delimited(connection, names, layout)
    if suffix == ".parquet":
        return connection.read_parquet(names)
    # Depth 1 leaves nested values as JSON. All rows are sampled: a column that is an integer in the
    # first thousand rows may hold text further down.
    table = connection.read_json(names, maximum_depth=1, sample_size=-1)
    # DuckDB's name for the one column of what are no objects.
    if table.columns == ("json",):
        raise DataError(
            f"{path}: must hold JSON objects, one for each row, but there are none. "
            "Export it as records."
        )
    return table


def _files_to_read(path: Path, any_format: bool) -> list[Path]:
    """The file itself, or all of a folder that are of its one format."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in FORMATS)
    if not any_format:
        _check_format(path, {file.suffix for file in files})
    # Before DuckDB sees it, whose messages on empty files differ with the format.
    sizes = [file.stat().st_size for file in files]
    if not sum(sizes):
        raise DataError(
            f"{path}: must hold at least one row, but it is empty. Check how it was exported."
        )
    return files


def _check_format(path: Path, suffixes: set[str]) -> None:
    # A folder of two formats may hold one table twice, so only one format is read.
    is_known = len(suffixes) == 1 and suffixes <= {*FORMATS}
    if is_known:
        return
    known = ", ".join(FORMATS)
    names = ", ".join(sorted(suffixes)) or "none of these"
    raise DataError(
        f"{path}: must be a {known} file (or a folder of one kind), got {names}. Convert it."
    )


def _layout_from_header(path: Path, delimiter: str) -> DelimitedLayout:
    # "utf-8-sig" drops the byte order mark that spreadsheets write.
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter)
        header = next(reader, [])
    names = [name.strip() for name in header]
    if len({*names}) != len(names):
        listed = ", ".join(names)
        raise DataError(f"{path}: column names must differ, got {listed}. Rename them.")
    return DelimitedLayout(tuple(names), delimiter, header=True)


def _read_delimited(
    connection: ibis.BaseBackend, names: Sequence[str], layout: DelimitedLayout
) -> ir.Table:
    # Files with a header come from programs that quote; MovieLens' own have quotes in their titles.
    quote = '"' if layout.header else ""
    # Nothing is detected: ids such as "007" would lose their zeros as integers.
    return connection.read_csv(
        names,
        auto_detect=False,
        header=layout.header,
        columns=dict.fromkeys(layout.columns, "VARCHAR"),
        delim=layout.delimiter,
        quote=quote,
        escape=quote,
        encoding=layout.encoding,
    )


def _check_columns(path: Path, names: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in names]
    if not missing:
        return
    others = [name for name in names if name not in required]
    hints = []
    for name in missing:
        similar = difflib.get_close_matches(name, others, n=1)
        hints += [f"{other} looks like {name}" for other in similar]
    present = ", ".join(names) or "none"
    hint = f" ({'; '.join(hints)})" if hints else ""
    raise DataError(
        f"{path}: must have the columns {', '.join(required)}; "
        f"{', '.join(missing)} is missing, "
        f"found {present}{hint}. "
        "Rename or add it."
    )


def as_text(table: ir.Table, name: str) -> ir.StringValue:
    """A column as text, whatever its type; null where the table has none of this name."""
    if name not in table.columns:
        return ibis.null("string")
    column = table[name]
    text = column.cast("string")
    column_type = column.type()
    if column_type.is_json():
        # A JSON text without its quotes; numbers and truth values as they are written.
        return column.unwrap_as("string").fill_null(text)
    if column_type.is_floating():
        # Integers that pandas wrote as floats because values are missing between them.
        is_integer = column == column.floor()
        integer_text = column.try_cast("int64").cast("string")
        return ibis.ifelse(is_integer, integer_text, text)
    if column_type.is_timestamp() or column_type.is_date():
        seconds = column.cast("timestamp").epoch_seconds()
        return seconds.cast("string")
    return text
