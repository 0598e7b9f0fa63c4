"""SQL text for DuckDB: values written so that nothing of them is taken for syntax."""

from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa


def literal(value: object) -> str:
    """A value as SQL: text, a path (not a pattern), a truth value, or a struct of texts."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        entries = [f"{literal(key)}: {literal(entry)}" for key, entry in value.items()]
        return "{" + ", ".join(entries) + "}"
    # DuckDB takes names of files for patterns, and "data[1].csv" for the file "data1.csv".
    text = escape(str(value)) if isinstance(value, Path) else str(value)
    doubled = text.replace("'", "''")
    return f"'{doubled}'"


@contextmanager
def registered(connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> Iterator[str]:
    """Lend rows in memory to DuckDB as a relation, by its name."""
    name = "rows_in_memory"
    connection.register(name, rows)
    try:
        yield name
    finally:
        connection.unregister(name)


def first_row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """The first row of a query's result, which is read to its end; empty where there is none."""
    # DuckDB does nothing else before a result is read to its end.
    rows = connection.execute(query).fetchall()
    return rows[0] if rows else ()
