"""Times as epoch seconds, from what files hold: seconds, milliseconds and finer, days, ISO dates.

A unit is certain where all values are possible times in it and none is one as seconds. What is
certain is converted and said; a mixture is refused: a part would be wrong a thousandfold.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb

from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.messages import quoted
from dynamicpo.data.sources.sql import first_row, literal

AUTO = "auto"
_FIRST = 788_918_400  # 1995-01-01, before which no log of interactions on the web begins
_DAY = 86_400
# How many of a unit are a second.
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_UNIT_NAMES = {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_DAYS = "yyyymmdd"
_ISO = "iso"
_ISO_FORM = r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.]\d+)?)?( ?(Z|UTC|[+-]\d{2}(:?\d{2})?))?)?"
_NAMES = {**_UNIT_NAMES, _DAYS: "days (YYYYMMDD)", _ISO: "ISO dates"}
TIME_FORMATS = (AUTO, *_UNITS, _DAYS, _ISO)


class Times(NamedTuple):
    """A table with the column `seconds`, null where a value is no time.

    Attributes:
        table: Its name.
        format: How its times were written.
        converted: How many were converted.
    """

    table: str
    format: str
    converted: int

    @property
    def note(self) -> str:
        """A sentence on what was converted; empty for nothing."""
        if self.format == "s":
            return ""
        name = _NAMES.get(self.format, self.format)
        return f"timestamp: {self.converted} values converted from {name} to seconds"


def check_time_format(name: str) -> None:
    """Refuse a name that is neither a unit nor a format with percent signs.

    Raises:
        ConfigError: It is neither.
    """
    if name not in TIME_FORMATS and "%" not in name:
        raise ConfigError(
            f"time_format: must be one of {', '.join(TIME_FORMATS)}, or a format such as "
            f"'%d.%m.%Y %H:%M', got {name!r}."
        )


def with_seconds(
    engine: duckdb.DuckDBPyConnection,
    table: str,
    files: Sequence[Path],
    time_format: str = AUTO,
    now: float | None = None,
) -> Times:
    """Add `seconds` to a table with `timestamp` as text.

    Args:
        engine: DuckDB.
        table: The table's name; it has `part` and `row`, too.
        files: The file of each part, for messages.
        time_format: The unit or format; "auto" for what is certain.
        now: Epoch seconds; no known time is later than a day after them.

    Raises:
        DataError: Times of several kinds.
    """
    check_time_format(time_format)
    readings = _readings()
    known = {name: f"({reading}) AS r_{name}" for name, reading in readings.items()}
    parsed = f"{table}_times"
    engine.execute(f"CREATE VIEW {parsed} AS SELECT *, {', '.join(known.values())} FROM {table}")
    if time_format == AUTO:
        end = (time.time() if now is None else now) + _DAY
        time_format = _certain_format(engine, parsed, files, end)
    seconds = f"r_{time_format}" if time_format in readings else _by_format(time_format)
    left_out = ", ".join(f"r_{name}" for name in readings)
    result = f"{table}_seconds"
    selected = f"* EXCLUDE ({left_out}), {seconds} AS seconds"
    engine.execute(f"CREATE TABLE {result} AS SELECT {selected} FROM {parsed}")
    count = _first_value(engine, f"SELECT count(seconds) FROM {result}")
    return Times(result, time_format, count)


def _readings() -> dict[str, str]:
    """Seconds by every way to read a text, as SQL; null where it can't be read so."""
    number = "try_cast(timestamp AS DOUBLE)"
    readings = {name: f"{number} / {scale}" for name, scale in _UNITS.items()}
    readings["s"] = number
    # Digits alone, or with the point that pandas writes where values are missing.
    digits = "regexp_extract(timestamp, '^((19|20)[0-9]{6})([.]0+)?$', 1)"
    readings[_DAYS] = f"epoch(try_strptime({digits}, '%Y%m%d'))::DOUBLE"
    is_iso = f"regexp_full_match(timestamp, {literal(_ISO_FORM)})"
    moment = "try_cast(regexp_replace(timestamp, ' ?UTC$', 'Z') AS TIMESTAMP)"
    readings[_ISO] = f"CASE WHEN {is_iso} THEN epoch_us({moment}) / 1e6 END"
    return readings


def _by_format(time_format: str) -> str:
    moment = f"try_strptime(timestamp, {literal(time_format)})::TIMESTAMP"
    return f"epoch_us({moment}) / 1e6"


def _certain_format(
    engine: duckdb.DuckDBPyConnection, parsed: str, files: Sequence[Path], end: float
) -> str:
    """The format in which all values are times; seconds where nothing is certain."""
    total = _first_value(engine, f"SELECT count(*) FROM {parsed}")
    possible = {name: f"r_{name} BETWEEN {_FIRST} AND {end}" for name in (*_UNITS, _DAYS)}
    possible[_ISO] = f"r_{_ISO} IS NOT NULL"
    counts = _counts(engine, parsed, possible)
    # What is no number at all has a message of its own.
    numbers = _first_value(engine, f"SELECT count(*) FROM {parsed} WHERE isfinite(r_s)")
    others = [name for name in possible if name != "s" and counts[name]]
    if counts[_ISO] and not numbers:
        return _ISO
    for name in others:
        if counts[name] == total and not counts["s"]:
            return name
    # Numbers of a series, such as 1, 2, 3, may look like days: nothing else is among them.
    is_series = others == [_DAYS] and not counts["s"]
    if others and not is_series:
        raise _mixed(engine, parsed, files, possible, others[0])
    return "s"


def _counts(
    engine: duckdb.DuckDBPyConnection, parsed: str, conditions: Mapping[str, str]
) -> dict[str, int]:
    sums = ", ".join(f"count(*) FILTER ({condition})" for condition in conditions.values())
    row = first_row(engine, f"SELECT {sums} FROM {parsed}")
    return dict(zip(conditions, row, strict=True))


def _mixed(
    engine: duckdb.DuckDBPyConnection,
    parsed: str,
    files: Sequence[Path],
    possible: Mapping[str, str],
    name: str,
) -> DataError:
    first = _first_place(engine, parsed, files, possible[name])
    other = _first_place(engine, parsed, files, f"({possible[name]}) IS NOT TRUE")
    return DataError(
        f"{first[0]}: every timestamp must be in one unit, but data row {first[1]} has "
        f"{quoted(first[2])}, which looks like {_NAMES[name]}, and data row {other[1]} of "
        f"{other[0].name} has {quoted(other[2])}. Convert them to one, or say which it is with "
        "--time-format."
    )


def _first_place(
    engine: duckdb.DuckDBPyConnection, parsed: str, files: Sequence[Path], condition: str
) -> tuple[Path, int, str]:
    query = (
        f"SELECT part, row, coalesce(timestamp, '') FROM {parsed} WHERE {condition} "
        "ORDER BY part, row LIMIT 1"
    )
    part, row, value = first_row(engine, query) or (0, 0, "")
    return files[part], row, value


def _first_value(engine: duckdb.DuckDBPyConnection, query: str) -> int:
    (value,) = first_row(engine, query) or (0,)
    return int(value)


def check_order(engine: duckdb.DuckDBPyConnection, table: str, path: Path) -> None:
    """Refuse interactions that all have one time: there is no order, and nothing comes next.

    Raises:
        DataError: They do.
    """
    query = f"SELECT count(*), min(seconds), max(seconds) FROM {table}"
    count, first, last = first_row(engine, query) or (0, 0, 0)
    has_one_time = first == last
    if count > 1 and has_one_time:
        raise DataError(
            f"{path}: timestamps must tell the order of interactions, but all {count} are "
            f"{first:g}. Give the column that holds the times: --columns timestamp=NAME."
        )
