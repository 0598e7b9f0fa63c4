"""Files of JSON objects, one a row: each object as it is written, its values by their exact names.

DuckDB's own tables of JSON guess types (a title such as "2012-11-01" becomes a date) and take
`Title` for `title`; so it only parses here. Objects written as Python literals, as the McAuley lab
publishes them, are read in Python.
"""

import ast
import itertools
import json
from collections.abc import Callable, Iterator

import duckdb
import pyarrow as pa

from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.line_scan import scan_lines
from dynamicpo.data.sources.parts import Part
from dynamicpo.data.sources.python_rows import text_lines
from dynamicpo.data.sources.sql import first_row, literal, registered

_BATCH_ROWS = 20_000
_MAX_OBJECT = 1 << 24  # bytes
_NAMES_FROM = 1000  # objects whose names are shown where one is missing


def insert_objects(
    connection: duckdb.DuckDBPyConnection, part: Part, insert: Callable[[str], None]
) -> bool:
    """Insert a file's objects, `row` and `json`.

    Args:
        connection: DuckDB.
        part: The file.
        insert: Inserts what a relation holds.

    Returns:
        Whether the objects are Python literals.

    Raises:
        DataError: Something that is no JSON object; the message names the line where it can.
    """
    scan_lines(part)
    relation = f"(SELECT row_number() OVER () AS row, json FROM {_reader(part)})"
    try:
        _check_objects(connection, part)
        insert(relation)
    except duckdb.Error as error:
        _insert_literals(connection, part, error, insert)
        return True
    return False


def object_names(connection: duckdb.DuckDBPyConnection, part: Part) -> list[str]:
    """The names in the first objects, in the order in which they come."""
    try:
        rows = connection.execute(
            f"SELECT json_keys(json) FROM (SELECT json FROM {_reader(part)} LIMIT {_NAMES_FROM})"
        ).fetchall()
    except duckdb.Error as error:
        literals = itertools.islice(_literal_objects(part, error), _NAMES_FROM)
        rows = [(list(json.loads(text)),) for text in literals]
    # What is no object has no names.
    return list(dict.fromkeys(name for (names,) in rows for name in names or ()))


def is_one_of_nested(connection: duckdb.DuckDBPyConnection, part: Part) -> bool:
    """True for a file of one object that has lists and objects alone: a table by its columns."""
    try:
        rows = connection.execute(
            f"SELECT json_type(json, '$.*') FROM (SELECT json FROM {_reader(part)} LIMIT 2)"
        ).fetchall()
    except duckdb.Error:
        # What is wrong with it is said when it is read.
        return False
    kinds: list[str] = (rows[0][0] or []) if len(rows) == 1 else []
    return bool(kinds) and {*kinds} <= {"OBJECT", "ARRAY"}


def _reader(part: Part) -> str:
    compression = "gzip" if part.is_compressed else "none"
    return (
        f"read_json_objects({literal(part.path)}, format = 'auto', compression = '{compression}', "
        f"maximum_object_size = {_MAX_OBJECT}, hive_partitioning = false)"
    )


def pointer(name: str) -> str:
    """The JSON pointer of a name, as SQL: no character of a name has a meaning in it."""
    escaped = name.replace("~", "~0").replace("/", "~1")
    return literal(f"/{escaped}")


def _check_objects(connection: duckdb.DuckDBPyConnection, part: Part) -> None:
    # A name that stands in an object twice: some programs take its first value, some its last.
    twice = "len(json_keys(json)) > len(list_distinct(json_keys(json)))"
    bad = first_row(
        connection,
        "SELECT row, kind FROM (SELECT row_number() OVER () AS row, json_type(json) AS kind, "
        f"{twice} AS has_twice FROM {_reader(part)}) WHERE kind <> 'OBJECT' OR has_twice LIMIT 1",
    )
    if bad:
        row, kind = bad
        if kind == "OBJECT":
            raise DataError(
                f"{part.path}: every name of an object must be there once, but data row {row} has "
                "one twice. Leave one of its values."
            )
        raise DataError(
            f"{part.path}: must hold JSON objects, one for each row, but data row {row} is of type "
            f"{kind}. Export it as records."
        )


def _insert_literals(
    connection: duckdb.DuckDBPyConnection,
    part: Part,
    error: duckdb.Error,
    insert: Callable[[str], None],
) -> None:
    """Read one Python literal a line, or say what the file is instead."""
    objects = _literal_objects(part, error)
    start = 1
    while batch := list(itertools.islice(objects, _BATCH_ROWS)):
        numbers = list(range(start, start + len(batch)))
        with registered(connection, pa.table({"row": numbers, "json": batch})) as name:
            insert(f"(SELECT row, json::JSON AS json FROM {name})")
        start += len(batch)


def _literal_objects(part: Part, error: duckdb.Error) -> Iterator[str]:
    is_first = True
    for number, line in enumerate(text_lines(part, "utf-8", limit=_MAX_OBJECT), start=1):
        text = line.strip()
        if not text:
            continue
        value = _literal(text)
        if value is None:
            # The first line that is neither tells which of the two the file is meant to be.
            is_json = is_first or _is_json(text)
            must = (
                "well-formed JSON objects" if is_json else "one well-formed Python literal a line"
            )
            raise DataError(f"{part.path}: {_problem(part, number, must)}") from error
        is_first = _is_json(text) and is_first
        yield value


def _literal(text: str) -> str | None:
    """A line's object as JSON; None if it is neither JSON nor a Python literal."""
    try:
        # Literals only, no names and no calls, so that nothing of a file is ever run.
        value = json.loads(text) if _is_json(text) else ast.literal_eval(text)
        return _as_json(value) if isinstance(value, dict) else None
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _as_json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    text.encode()  # half of a surrogate pair is no text
    return text


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _problem(part: Part, number: int, must: str) -> str:
    where = _json_position(part)
    if where:
        return f"must hold {must}, but {where}. Mend or remove it, or export it again."
    return (
        f"must hold {must}, but line {number} is not. "
        "Mend or remove the line, or export the file again."
    )


def _json_position(part: Part) -> str:
    """The place where a file of one JSON value breaks off; empty for a file of lines."""
    with part.open() as stream:
        beginning = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
        if not beginning.startswith(b"["):
            return ""
    with part.open() as stream:
        content = stream.read()
    try:
        json.loads(content)
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} is no UTF-8"
    except json.JSONDecodeError as error:
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    except RecursionError:
        return "it is nested too deeply"
    return ""
