"""Files of several formats as tables of text, each part of a folder by the names of its columns."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir

from dynamicpo.core.config_inputs import ColumnMap
from dynamicpo.core.errors import DataError
from dynamicpo.core.messages import quoted, shown
from dynamicpo.data.sources.delimited import DelimitedLayout, insert_delimited, layout_of
from dynamicpo.data.sources.json_objects import (
    insert_objects,
    is_one_of_nested,
    object_names,
    pointer,
)
from dynamicpo.data.sources.parquet_columns import parquet_names, parquet_relation
from dynamicpo.data.sources.parts import DELIMITERS, Part, find_parts, no_rows
from dynamicpo.data.sources.value_text import ABSENT, TextSql, of_column, of_json

_TIME = "timestamp"
_NAMES_SHOWN = 30


@dataclass(frozen=True)
class TextTable:
    """Columns of an input as text.

    Attributes:
        rows: `part` (from 0), `row` (from 1 in each part, without the header), each column by its
            name, and its flaw, if any, as `NAME_flaw`.
        files: The file of each part.
        notes: What was read in another way than its format says.
    """

    rows: ir.Table
    files: list[Path]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Wanted:
    """The columns to read.

    Attributes:
        required: Our names of those that must be there.
        optional: Our names of those that are null where they are absent.
        sources: The files' names, by ours, where they differ; several where files do.
    """

    required: Sequence[str]
    optional: Sequence[str] = ()
    sources: ColumnMap = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Our names, in order."""
        return [*self.required, *self.optional]

    def source(self, name: str, found: Sequence[str] = ()) -> str:
        """The file's name of a column; ours where the file has that one alone.

        One map serves interactions and items, which may name a column differently.
        """
        theirs = self.sources.get(name, (name,))
        present = [source for source in (*theirs, name) if source in found]
        return present[0] if present else theirs[0]

    @property
    def required_sources(self) -> list[str]:
        """The file's names of the columns that must be there."""
        return [self.source(name) for name in self.required]

    @property
    def possible_sources(self) -> list[str]:
        """All names by which the columns that must be there may go."""
        return [source for name in self.required for source in (*self.sources.get(name, ()), name)]


def read_text(
    connection: ibis.BaseBackend,
    path: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    layout: DelimitedLayout | None = None,
    columns: ColumnMap | None = None,
) -> TextTable:
    """Read the named columns of a file, or of all parts of a folder or glob, as text.

    Numbers keep the text they were written with; integers in a Parquet column of floats lose their
    ".0", and times in its column `timestamp` become epoch seconds. Optional columns that are absent
    are null.

    Args:
        connection: An ibis connection to DuckDB.
        path: A file, a folder or a glob.
        required: Columns that every part must have.
        optional: Columns that every part has, or none.
        layout: The file's layout, where it has no usual header.
        columns: The files' names of columns, by ours, where they differ; positions from "1" on
            where a delimited file has no header.

    Raises:
        DataError: An unknown format, missing columns, an empty or broken file, or invalid UTF-8.
    """
    wanted = _Wanted(required, optional, columns or {})
    parts = _explained(path, layout)
    table = ibis.util.gen_name("text")
    engine: duckdb.DuckDBPyConnection = connection.con
    engine.execute(f"CREATE TABLE {table} ({_schema(wanted.names)})")
    notes: list[str] = []
    optional_names = None
    num_columns = 0
    for index, part in enumerate(parts):
        reader = _PartReader(engine, table, index, part, wanted)
        try:
            found = reader.read(layout, parts[0])
        except OSError as error:
            raise DataError(
                f"{part.path}: must be readable, but {error}. Check the file."
            ) from error
        notes += reader.notes
        if optional_names is None:
            optional_names = found
            num_columns = reader.num_columns
        _check_alike(found, optional_names, part, parts[0])
        _check_width(reader.num_columns, num_columns, part, parts[0])
    rows = connection.table(table)
    if not rows.count().execute():
        raise no_rows(path)
    return TextTable(rows, [part.path for part in parts], tuple(notes))


def _explained(path: Path, layout: DelimitedLayout | None) -> list[Part]:
    try:
        return find_parts(path, any_format=layout is not None)
    except OSError as error:
        raise DataError(f"{path}: must be readable, but {error}. Check the path.") from error


def _schema(names: Sequence[str]) -> str:
    columns = ["part INTEGER", "row BIGINT"]
    for name in names:
        columns += [f'"{name}" VARCHAR', f'"{name}_flaw" VARCHAR']
    return ", ".join(columns)


class _PartReader:
    """Reads one part into the table of all."""

    def __init__(
        self,
        engine: duckdb.DuckDBPyConnection,
        table: str,
        index: int,
        part: Part,
        wanted: _Wanted,
    ) -> None:
        self.notes: list[str] = []
        self.num_columns = 0  # where columns are known by their positions alone
        self._engine = engine
        self._table = table
        self._index = index
        self._part = part
        self._wanted = wanted

    def read(self, layout: DelimitedLayout | None, first: Part) -> set[str]:
        """Insert the rows; returns our names of the optional columns that are there."""
        suffix = self._part.suffix
        if layout is not None or suffix in DELIMITERS:
            return self._read_delimited(layout, first)
        if suffix == ".parquet":
            return self._read_parquet(first)
        return self._read_objects(first)

    def _read_delimited(self, layout: DelimitedLayout | None, first: Part) -> set[str]:
        if layout is None:
            names = self._wanted.possible_sources
            layout = layout_of(self._part, names, self._has_header())
            if layout.delimiter != DELIMITERS[self._part.suffix]:
                self.notes.append(
                    f"{self._part.path.name}: read with the delimiter {quoted(layout.delimiter)}"
                )
        found = self._check_columns(layout.columns, first)
        if not layout.header:
            self.num_columns = len(layout.columns)
        positions = {
            name: layout.columns.index(self._wanted.source(name, layout.columns)) for name in found
        }
        texts = {name: TextSql(f"c{position}") for name, position in positions.items()}
        insert_delimited(
            self._engine,
            self._part,
            layout,
            sorted({*positions.values()}),
            lambda relation: self._insert(texts, relation),
        )
        return found

    def _has_header(self) -> bool:
        """True where columns are asked for by name: positions mean that there are no names."""
        return not all(name.isdecimal() for name in self._wanted.required_sources)

    def _read_parquet(self, first: Part) -> set[str]:
        names = parquet_names(self._part)
        found = self._check_columns(names, first)
        relation = parquet_relation(self._part, len(names))
        try:
            described = self._engine.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
            # The first is the number of the row.
            kinds = [kind for _, kind, *_ in described[1:]]
            texts = {}
            for name in found:
                position = names.index(self._wanted.source(name, names))
                texts[name] = of_column(f"c{position}", kinds[position], is_time=name == _TIME)
            self._insert(texts, relation)
        except duckdb.Error as error:
            raise DataError(
                f"{self._part.path}: must be whole and well-formed, but DuckDB can't read it "
                f"({shown(str(error).splitlines()[0])}). Copy or export it again."
            ) from error
        return found

    def _read_objects(self, first: Part) -> set[str]:
        names = object_names(self._engine, self._part)
        if is_one_of_nested(self._engine, self._part):
            raise wrong_orient(self._part, len(names))
        if names:
            found = self._check_columns(names, first)
        else:
            # What is wrong with it is said when it is read.
            found = {*self._wanted.names}
        paths = {name: pointer(self._wanted.source(name, names)) for name in found}
        texts = {name: of_json("json", path) for name, path in paths.items()}
        is_python = insert_objects(
            self._engine, self._part, lambda relation: self._insert(texts, relation)
        )
        if is_python:
            self.notes.append(f"{self._part.path.name}: read as one Python literal a line")
        return found

    def _insert(self, texts: Mapping[str, TextSql], relation: str) -> None:
        selected = [str(self._index), "row"]
        for name in self._wanted.names:
            value = texts.get(name, ABSENT)
            selected += [value.text, value.flaw]
        self._engine.execute(
            f"INSERT INTO {self._table} SELECT {', '.join(selected)} FROM {relation}"
        )

    def _check_columns(self, names: Sequence[str], first: Part) -> set[str]:
        """Check that the required columns are there; returns our names of all that are."""
        sources = [self._wanted.source(name, names) for name in self._wanted.required]
        missing = [name for name in sources if name not in names]
        if missing:
            raise _missing_columns(self._part, first, names, missing, self._wanted)
        return {name for name in self._wanted.names if self._wanted.source(name, names) in names}


def check_required(part: Part, names: Sequence[str], required: Sequence[str]) -> None:
    """Refuse a file that lacks required columns, with what it has instead.

    Raises:
        DataError: It lacks some.
    """
    missing = [name for name in required if name not in names]
    if missing:
        raise _missing_columns(part, part, names, missing, _Wanted(required))


def _missing_columns(
    part: Part, first: Part, names: Sequence[str], missing: Sequence[str], wanted: _Wanted
) -> DataError:
    listed = ", ".join(shown(name) for name in names[:_NAMES_SHOWN]) or "none"
    if any(name.isdecimal() for name in names):
        # They may be ids, which do not belong into a message.
        listed = f"{len(names)} values of a row"
    required = wanted.required_sources
    if part is not first:
        return DataError(
            f"{part.path}: must have the columns {', '.join(required)}, as {first.path.name} has; "
            f"{', '.join(missing)} is missing, found {listed}. "
            "Give every part the same header, or join the parts to one file."
        )
    if part.suffix not in DELIMITERS and any(name.isdecimal() for name in names):
        return wrong_orient(part, len(names))
    others = {name.lower(): name for name in reversed(names) if name not in required}
    hints = []
    renamed = []
    for name in missing:
        similar = [others[lower] for lower in difflib.get_close_matches(name, others, n=1)]
        hints += [f"{shown(other)} looks like {name}" for other in similar]
        # A name that is cut, escaped or hidden here can't be pasted.
        renamed += [f"{name}={other}" for other in similar if shown(other) == other]
    hint = f" ({'; '.join(hints)})" if hints else ""
    example = ",".join(renamed) or f"{missing[0]}=NAME"
    advice = f"Rename or add it, or say which column it is: --columns {example}."
    if len(names) == 1 and part.suffix in DELIMITERS:
        advice = (
            "The first line must hold the names of the columns, with commas, semicolons, tabs or "
            "bars between them: remove what stands before it, or write the file with these."
        )
    if any(name.isdecimal() for name in names):
        advice += " Without a header give positions: --columns user_id=1,item_id=2,timestamp=3."
    return DataError(
        f"{part.path}: must have the columns {', '.join(required)}; "
        f"{', '.join(missing)} is missing, found {listed}{hint}. {advice}"
    )


def wrong_orient(part: Part, num_names: int) -> DataError:
    """Make the error for a file of columns, or of rows by their index, as pandas writes."""
    return DataError(
        f"{part.path}: must hold one object for each row, but holds one of {num_names} names with "
        "all rows. Write it with pandas' to_json(path, orient='records', lines=True)."
    )


def _check_alike(found: set[str], expected: set[str], part: Part, first: Part) -> None:
    """Refuse a part that lacks an optional column which the first has, or the reverse."""
    different = sorted(found ^ expected)
    if different:
        name = different[0]
        has_it, lacks_it = (part, first) if name in found else (first, part)
        raise DataError(
            f"{lacks_it.path}: must have the column {name}, as {has_it.path.name} has. "
            "Give all parts the same columns."
        )


def _check_width(found: int, expected: int, part: Part, first: Part) -> None:
    """Refuse a part with another number of columns than the first, where they have no names."""
    if found != expected:
        raise DataError(
            f"{part.path}: must have {expected} columns, as {first.path.name} has, since they are "
            f"known by their positions, got {found}. Give all parts the same columns, or a header."
        )


def is_blank(column: ir.StringValue) -> ir.BooleanValue:
    """True where a text is null or of spaces alone."""
    return column.strip().fill_null("") == ""
