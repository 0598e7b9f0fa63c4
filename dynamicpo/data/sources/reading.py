"""Files of several formats as tables of text, and the checks that report all problems of a file at once."""

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import ibis

from dynamicpo.core.errors import DataError

Table = Any  # an ibis table; ibis has no types that mypy could check

DELIMITERS = {".csv": ",", ".tsv": "\t"}
FORMATS = (*DELIMITERS, ".jsonl", ".json", ".parquet")
MISSING = ("", "nan", "NaN", "None", "null", "NULL", "<NA>")


@dataclass(frozen=True)
class Layout:
    """How a text file without the usual header is written.

    Attributes:
        columns: The names of its columns, in order.
        delimiter: What stands between two.
        header: Whether a first line is to be skipped.
        encoding: How its bytes are read.
    """

    columns: tuple[str, ...]
    delimiter: str
    header: bool = False
    encoding: str = "utf-8"


@dataclass(frozen=True)
class Check:
    """One thing that must hold in every row.

    Attributes:
        broken: An ibis expression, true where it does not hold.
        shown: The column to show of the first such row.
        must: What must hold, as in "user_id must be given".
        remedy: What to do.
    """

    broken: Any
    shown: str
    must: str
    remedy: str


def read_text(
    connection: Any,
    path: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    layout: Layout | None = None,
) -> Table:
    """The named columns of a file as text, with its 1-based `row` number (the header does not count).

    Numbers keep the text they were written with; whole numbers in a Parquet column of floats lose their ".0",
    and its dates become epoch seconds. Optional columns that are absent are null.

    Raises:
        DataError: An unknown format, missing columns, an empty or broken file, or invalid UTF-8.
    """
    with readable(path):
        table = open_table(connection, path, required, layout)
        columns = {name: as_text(table, name) for name in (*required, *optional)}
        table = connection.create_table(
            ibis.util.gen_name("text"), table.select(row=ibis.row_number() + 1, **columns)
        )
        rows = table.count().execute()
    if not rows:
        raise DataError(
            f"{path}: must hold at least one row, but it is empty. Check how it was exported."
        )
    return table


def check_rows(table: Table, path: Path, checks: Sequence[Check]) -> None:
    """Raise one error that lists every check which some rows fail, with the first such row.

    Raises:
        DataError: A check fails.
    """
    facts: dict[str, Any] = {"rows": table.count()}
    for number, check in enumerate(checks):
        broken = check.broken.fill_null(True)
        facts[f"count{number}"] = broken.sum()
        facts[f"row{number}"] = table.row.min(where=broken)
        facts[f"value{number}"] = table[check.shown].argmin(table.row, where=broken)
    found: Mapping[str, Any] = table.aggregate(**facts).to_pyarrow().to_pylist()[0]
    problems = [
        f"{path}: {check.must}, not so in {found[f'count{number}']} of {found['rows']} rows, first in data row "
        f"{found[f'row{number}']} ({check.shown} {found[f'value{number}']!r}). {check.remedy}"
        for number, check in enumerate(checks)
        if found[f"count{number}"]
    ]
    if problems:
        raise DataError("\n".join(problems))


def present(column: Any) -> Any:
    """A text column's value without outer spaces; null where it means that nothing is there."""
    text = column.strip()
    return ibis.ifelse(text.isin(MISSING), None, text)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Explain what makes a file unreadable."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: must be UTF-8, but {error}. Convert it with iconv -t UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: must be readable, but {error}. Check the path.") from error
    except duckdb.Error as error:
        raise DataError(
            f"{path}: must be whole and well-formed, but {_reason(error)}. Export it again, in UTF-8."
        ) from error


def _reason(error: Exception) -> str:
    lines = str(error).partition("\n\n")[0].splitlines()
    kept = [
        line.strip()
        for line in lines
        if line.strip() and not line.startswith(("Possible", "*", "LINE"))
    ]
    return " ".join(kept).rstrip(".").removeprefix("Invalid Input Error: ")


def open_table(
    connection: Any, path: Path, required: Sequence[str], layout: Layout | None = None
) -> Table:
    """A file as an ibis table that has the required columns, in the types of its format; values are not checked."""
    table = _open(connection, path, layout)
    _check_columns(path, table.columns, required)
    return table


def _open(connection: Any, path: Path, layout: Layout | None) -> Table:
    parts, suffix = _parts(path, any_format=layout is not None)
    if layout is not None or suffix in DELIMITERS:
        return _read_delimited(
            connection, parts, layout or _header_layout(parts[0], DELIMITERS[suffix])
        )
    names = [str(part) for part in parts]
    if suffix == ".parquet":
        return connection.read_parquet(names)
    table = connection.read_json(names, maximum_depth=1, sample_size=-1)
    if table.columns == ("json",):
        raise DataError(
            f"{path}: must hold JSON objects, one for each row, but there are none. Export it as records."
        )
    return table


def _parts(path: Path, any_format: bool) -> tuple[list[Path], str]:
    """The files to read and their format: the file itself, or all of a folder that are of its one format."""
    files = [path]
    if path.is_dir():
        files = sorted(part for part in path.iterdir() if part.suffix in FORMATS)
    suffixes = {part.suffix for part in files}
    if not any_format and (len(suffixes) != 1 or not suffixes <= {*FORMATS}):
        found = ", ".join(sorted(suffixes)) or "none of these"
        raise DataError(
            f"{path}: must be a {', '.join(FORMATS)} file (or a folder of one kind), got {found}. Convert it."
        )
    if not sum(part.stat().st_size for part in files):
        raise DataError(
            f"{path}: must hold at least one row, but it is empty. Check how it was exported."
        )
    return files, files[0].suffix


def _header_layout(path: Path, delimiter: str) -> Layout:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        names = next(csv.reader(stream, delimiter=delimiter), [])
    names = [name.strip() for name in names]
    if len({*names}) != len(names):
        raise DataError(f"{path}: column names must differ, got {', '.join(names)}. Rename them.")
    return Layout(tuple(names), delimiter, header=True)


def _read_delimited(connection: Any, parts: Sequence[Path], layout: Layout) -> Table:
    return connection.read_csv(
        [str(part) for part in parts],
        auto_detect=False,
        header=layout.header,
        columns=dict.fromkeys(layout.columns, "VARCHAR"),
        delim=layout.delimiter,
        quote='"' if layout.header else "",
        escape='"' if layout.header else "",
        encoding=layout.encoding,
    )


def _check_columns(path: Path, found: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in found]
    if not missing:
        return
    others = [name for name in found if name not in required]
    hints = [
        f"{near[0]} looks like {name}"
        for name in missing
        if (near := difflib.get_close_matches(name, others, n=1))
    ]
    raise DataError(
        f"{path}: must have the columns {', '.join(required)}; {', '.join(missing)} is missing, "
        f"found {', '.join(found) or 'none'}{' (' + '; '.join(hints) + ')' if hints else ''}. Rename or add it."
    )


def as_text(table: Table, name: str) -> Any:
    """A column as text, whatever its type; null where the table has none of this name."""
    if name not in table.columns:
        return ibis.null("string")
    column = table[name]
    kind = column.type()
    if kind.is_json():
        return column.unwrap_as("string").fill_null(column.cast("string"))
    if kind.is_floating():
        return ibis.ifelse(
            column == column.floor(), column.try_cast("int64").cast("string"), column.cast("string")
        )
    if kind.is_timestamp() or kind.is_date():
        return column.cast("timestamp").epoch_seconds().cast("string")
    return column.cast("string")
