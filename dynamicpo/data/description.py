"""A description of a file of interactions or items, with settings that read it.

The settings are not only guessed: they are tried with the readers of data preparation.
"""

import re
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

import duckdb
import ibis

from dynamicpo.core import storage
from dynamicpo.core.config_inputs import ColumnMap
from dynamicpo.core.errors import DataError
from dynamicpo.core.messages import limited, shown
from dynamicpo.data.column_roles import (
    INTERACTION_ROLES,
    ITEM_ROLES,
    ColumnFacts,
    guessed_roles,
)
from dynamicpo.data.sources.delimited import DelimitedLayout, layout_of
from dynamicpo.data.sources.engine import open_engine
from dynamicpo.data.sources.json_objects import object_names
from dynamicpo.data.sources.options import ReadingOptions
from dynamicpo.data.sources.parquet_columns import parquet_names
from dynamicpo.data.sources.parts import DELIMITERS, Part, find_parts, is_glob
from dynamicpo.data.sources.reading import TextTable, read_text
from dynamicpo.data.sources.sql import first_row, literal
from dynamicpo.data.sources.tables import read_interactions, read_item_table
from dynamicpo.data.sources.text_values import MISSING
from dynamicpo.data.sources.timestamps import AUTO

_MAX_COLUMNS = 100
_EXAMPLE_ROWS = 1000
_NUM_EXAMPLES = 3
_VALUE = r"^-?[0-9]+([.,][0-9]+)?$|^[0-9]{4}-[0-9]{2}-[0-9]{2}"
_FIRST = 788_918_400  # 1995-01-01
# Of times that are neither numbers nor ISO.
_TIME_FORMATS = (
    *("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%d/%m/%Y %H:%M", "%d/%m/%Y"),
    *("%m/%d/%Y %H:%M", "%m/%d/%Y", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%d-%m-%Y"),
    *("%a %b %d %H:%M:%S %z %Y", "%d %b %Y", "%b %d, %Y", "%B %d, %Y"),
)


class ColumnDescription(TypedDict):
    """A column.

    Attributes:
        name: Its name, or its position where there are no names.
        type: The kind of its values.
        missing: Values that are empty or a mark for none.
        distinct: Different values.
        examples: Some values; none of users.
    """

    name: str
    type: str
    missing: int
    distinct: int
    examples: list[str]


class DataDescription(TypedDict):
    """The content of an input.

    Attributes:
        input: Where it is.
        files: Number of its files.
        format: The format.
        delimiter: The text between columns; "" where there is none.
        encoding: The encoding of text; "" of Parquet.
        header: Whether a first line holds names.
        rows: Number of rows.
        columns: The columns.
        holds: "interactions", "items", or "" where that is not clear.
        counts: Users, items and repeats of interactions, or items.
        times: The first and the last time (UTC), and how times are written.
        problems: What data preparation would refuse, or change.
        settings: The settings that read it.
    """

    input: str
    files: int
    format: str
    delimiter: str
    encoding: str
    header: bool
    rows: int
    columns: list[ColumnDescription]
    holds: str
    counts: dict[str, int]
    times: list[str]
    problems: list[str]
    settings: dict[str, str]


def describe_data(uri: str) -> DataDescription:
    """Describe a file, a folder of parts or a glob.

    Raises:
        DataError: It can't be read as a table.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        path = Path(uri) if is_glob(uri) else storage.fetch(uri, work / "input")
        connection = open_engine(spill=work / "spill")
        try:
            return _described(connection, path, uri)
        except (DataError, OSError) as error:
            message = str(error).replace(str(work / "input"), uri.rpartition("/")[0] or ".")
            raise DataError(message) from error


def _described(connection: ibis.BaseBackend, path: Path, uri: str) -> DataDescription:
    parts = find_parts(path)
    layout, names = _layout_and_names(connection.con, parts[0])
    named = [name for name in names if name][:_MAX_COLUMNS]
    if not named:
        raise DataError(f"{path}: must have columns with names, but has none. Check the export.")
    ours = {f"c{number}": (name,) for number, name in enumerate(named)}
    first, *others = ours
    text = read_text(connection, path, [first], others, columns=ours)
    facts = [_facts(connection.con, text, key, name) for key, (name,) in ours.items()]
    roles = guessed_roles(facts)
    columns = [
        _column(connection.con, text, key, fact, is_user=fact.name == roles.get("user_id"))
        for key, fact in zip(ours, facts, strict=True)
    ]
    description: DataDescription = {
        "input": uri,
        "files": len(parts),
        "format": parts[0].suffix[1:].upper() + (" (gzip)" if parts[0].is_compressed else ""),
        "delimiter": layout.delimiter if layout else "",
        "encoding": "" if parts[0].suffix == ".parquet" else "UTF-8",
        "header": layout is None or layout.header,
        "rows": int(text.rows.count().execute()),
        "columns": columns,
        "holds": "",
        "counts": {},
        "times": [],
        "problems": [],
        "settings": {},
    }
    _try_roles(connection, path, text, roles, ours, description)
    description["problems"] = [limited(problem) for problem in description["problems"]]
    return description


def _layout_and_names(
    engine: duckdb.DuckDBPyConnection, part: Part
) -> tuple[DelimitedLayout | None, list[str]]:
    if part.suffix in DELIMITERS:
        layout = layout_of(part, ())
        # No column is called 17 or 2024-06-30: such a first line is a row.
        is_row = any(_is_value(name) for name in layout.columns)
        layout = layout_of(part, (), has_header=not is_row) if is_row else layout
        return layout, list(layout.columns)
    if part.suffix == ".parquet":
        return None, parquet_names(part)
    return None, object_names(engine, part)


def _is_value(name: str) -> bool:
    return bool(re.search(_VALUE, name))


def _facts(engine: duckdb.DuckDBPyConnection, text: TextTable, key: str, name: str) -> ColumnFacts:
    markers = _markers()
    present = f"FILTER ({key} NOT IN ({markers}))"
    number = f"try_cast({key} AS DOUBLE)"
    end = datetime.now(tz=UTC).timestamp() + 86_400
    times = [
        f"count(*) FILTER ({number} / {10**power} BETWEEN {_FIRST} AND {end})"
        for power in (0, 3, 6, 9)
    ]
    iso = f"count(*) FILTER (regexp_matches({key}, '^(19|20)[0-9]{{2}}-[0-9]{{2}}-[0-9]{{2}}'))"
    table = text.rows.get_name()
    all_times = ", ".join([*times, iso])
    query = (
        f"SELECT count(*) {present}, count({number}) {present}, count(DISTINCT {key}), "
        f"greatest({all_times}) FROM {table}"
    )
    num_present, num_numbers, num_distinct, num_times = first_row(engine, query)
    return ColumnFacts(
        name=name,
        is_number=0 < num_present == num_numbers,
        is_time=0 < num_present == num_times,
        distinct=num_distinct,
    )


def _markers() -> str:
    return ", ".join(literal(marker) for marker in MISSING)


def _column(
    engine: duckdb.DuckDBPyConnection, text: TextTable, key: str, fact: ColumnFacts, is_user: bool
) -> ColumnDescription:
    table = text.rows.get_name()
    query = (
        f"SELECT count(*) FILTER ({key} IS NULL OR {key} IN ({_markers()})), "
        f"count(*) FILTER ({key}_flaw = 'nested'), "
        f"count(*) FILTER (regexp_full_match({key}, '-?[0-9]+')), count(*) FROM {table}"
    )
    missing, nested, whole, total = first_row(engine, query)
    present = total - missing
    rows = engine.execute(
        f"SELECT DISTINCT {key} FROM (SELECT * FROM {table} ORDER BY part, row "
        f"LIMIT {_EXAMPLE_ROWS}) WHERE {key} IS NOT NULL ORDER BY 1 LIMIT {_NUM_EXAMPLES}"
    ).fetchall()
    kind = "numbers" if fact.is_number else "text"
    if nested:
        kind = "lists or objects"
    elif not present:
        kind = "empty"
    elif whole == present:
        kind = "whole numbers"
    elif fact.is_time:
        kind = "dates"
    # Ids of users are nobody's business but the file's.
    examples = [] if is_user else [shown(value) for (value,) in rows]
    return {
        "name": fact.name,
        "type": kind,
        "missing": missing,
        "distinct": fact.distinct,
        "examples": examples,
    }


def _try_roles(
    connection: ibis.BaseBackend,
    path: Path,
    text: TextTable,
    roles: dict[str, str],
    ours: ColumnMap,
    description: DataDescription,
) -> None:
    """Read the input with the guessed settings, and describe what comes out."""
    problems = description["problems"]
    odd = [name for name in roles.values() if "," in name]
    problems += [f"{shown(name)}: a name with a comma can't be mapped. Rename it." for name in odd]
    found = {*roles}
    has_titles = found >= {*ITEM_ROLES}
    has_interactions = found >= {*INTERACTION_ROLES}
    is_items = has_titles and not has_interactions
    needed = ITEM_ROLES if is_items else INTERACTION_ROLES
    missing = [name for name in needed if name not in roles]
    description["settings"] = _settings(roles)
    if missing:
        listed = " or ".join(missing)
        first = missing[0]
        problems.append(f"no column looks like {listed}. Say which it is: --columns {first}=NAME.")
    if missing or odd:
        return
    description["holds"] = "items" if is_items else "interactions"
    columns = {name: (theirs,) for name, theirs in roles.items()}
    try:
        if is_items:
            options = ReadingOptions(columns=columns)
            items = read_item_table(connection, path, options)
            num_items = len(items.items)
            description["counts"] = {"items": num_items}
            problems += items.notes
            return
        engine = connection.con
        time_column = roles["timestamp"]
        time_format = _time_format(engine, text, time_column, ours)
        if time_format != AUTO:
            description["settings"]["time_format"] = time_format
        options = ReadingOptions(columns=columns, time_format=time_format)
        _describe_interactions(connection, path, options, description)
    except DataError as error:
        problems += str(error).splitlines()


def _settings(roles: dict[str, str]) -> dict[str, str]:
    renamed = [f"{ours}={theirs}" for ours, theirs in roles.items() if ours != theirs]
    # Positions are given for all: that there is no header shows in them.
    return {"columns": ",".join(renamed)} if renamed else {}


def _time_format(
    engine: duckdb.DuckDBPyConnection, text: TextTable, name: str, ours: ColumnMap
) -> str:
    """The format of times, where one and no other reads them all; "auto" otherwise."""
    (key,) = [key for key, (theirs,) in ours.items() if theirs == name]
    table = text.rows.get_name()
    reading = [f"count(try_strptime({key}, {literal(form)}))" for form in _TIME_FORMATS]
    total, *counts = first_row(engine, f"SELECT count({key}), {', '.join(reading)} FROM {table}")
    matching = [form for form, count in zip(_TIME_FORMATS, counts, strict=True) if count == total]
    if len(matching) > 1:
        raise DataError(
            f"{text.files[0]}: times can be read as {' or as '.join(matching)}. "
            "Say which with --time-format."
        )
    return matching[0] if matching and total else AUTO


def _describe_interactions(
    connection: ibis.BaseBackend,
    path: Path,
    options: ReadingOptions,
    description: DataDescription,
) -> None:
    interactions = read_interactions(connection, path, options)
    table = interactions.table
    pairs = table.select("user_id", "item_id")
    first, last = table.timestamp.min().execute(), table.timestamp.max().execute()
    num_rows = int(table.count().execute())
    description["counts"] = {
        "users": int(table.user_id.nunique().execute()),
        "items": int(table.item_id.nunique().execute()),
        "repeats": num_rows - int(pairs.distinct().count().execute()),
    }
    description["times"] = [_iso(first), _iso(last), _unit(interactions.notes)]
    description["problems"] += interactions.notes


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat().replace("+00:00", "Z")


def _unit(notes: Sequence[str]) -> str:
    """The unit of times, from what the reader says that it converted."""
    for note in notes:
        _, is_time, unit = note.partition("values converted from ")
        if is_time:
            return unit.removesuffix(" to seconds")
    return "seconds"
