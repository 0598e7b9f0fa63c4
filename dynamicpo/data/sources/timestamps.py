"""Times as epoch seconds, from what files hold: seconds, milliseconds and finer, days, ISO dates.

A unit is certain where all values are possible times in it and none is one as seconds. What is
certain is converted and said; a mixture is refused: a part would be wrong a thousandfold.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import ibis.expr.types as ir

from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.messages import quoted
from dynamicpo.data.sources.sql import first_row, literal

AUTO = "auto"
_FIRST = 788_918_400  # 1995-01-01, before which no log of interactions on the web begins
_DAY = 86_400
_MUCH_TIED = 0.9  # of the interactions; half of MovieLens-100k's are
_ORDER_REMEDY = "Give the column that holds the times: --columns timestamp=NAME."
# How many of a unit are a second.
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_UNIT_NAMES = {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_DAYS = "yyyymmdd"
_ISO = "iso"
_ISO_ZONE = r"(Z|UTC|[+-]\d{2}(:?\d{2})?)"
_ISO_FORM = rf"\d{{4}}-\d{{2}}-\d{{2}}([T ]\d{{2}}:\d{{2}}(:\d{{2}}([.]\d+)?)?( ?{_ISO_ZONE})?)?"
# Behind a time: the end of a date looks like an offset, too.
_HAS_ZONE = rf":\d{{2}}([.]\d+)? ?{_ISO_ZONE}$"
# Six digits behind the point, at most, tell the order of days alone.
_SHORTENED = r"[0-9]([.][0-9]{1,6})?[eE][+]?[0-9]+"
_WITH_EXPONENT = r"[0-9]([.][0-9]+)?[eE][+]?[0-9]+"
_NAMES = {**_UNIT_NAMES, _DAYS: "days (YYYYMMDD)", _ISO: "ISO dates"}
TIME_FORMATS = (AUTO, *_UNITS, _DAYS, _ISO)


class Times(NamedTuple):
    """A table with the column `seconds`, null where a value is no time.

    Attributes:
        table: Its name.
        format: How its times were written.
        converted: How many were converted.
        is_series: Whether they are taken as seconds, although all would lie before 1995.
    """

    table: str
    format: str
    converted: int
    is_series: bool = False

    @property
    def note(self) -> str:
        """A sentence on what was converted or is taken for an order alone; empty for nothing."""
        if self.is_series:
            return (
                "timestamp: as seconds all values are before 1995; they are taken as numbers of a "
                "series, and dates made of them mean nothing"
            )
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
    _check_digits(engine, parsed, files)
    is_series = False
    if time_format == AUTO:
        end = (time.time() if now is None else now) + _DAY
        time_format = _certain_format(engine, parsed, files, end)
        is_series = time_format == "s" and _is_early(engine, parsed)
    seconds = f"r_{time_format}" if time_format in readings else _by_format(time_format)
    left_out = ", ".join(f"r_{name}" for name in readings)
    result = f"{table}_seconds"
    selected = f"* EXCLUDE ({left_out}), {seconds} AS seconds"
    engine.execute(f"CREATE TABLE {result} AS SELECT {selected} FROM {parsed}")
    count = _first_value(engine, f"SELECT count(seconds) FROM {result}")
    converted = count if time_format != "s" else 0
    return Times(result, time_format, converted, is_series)


def _check_digits(engine: duckdb.DuckDBPyConnection, parsed: str, files: Sequence[Path]) -> None:
    """Refuse times that a spreadsheet has shortened, as 1.6E+12: what is left is no order."""
    shortened = f"regexp_full_match(timestamp, {literal(_SHORTENED)})"
    conditions = {
        "shortened": shortened,
        "all": f"regexp_full_match(timestamp, {literal(_WITH_EXPONENT)})",
    }
    counts = _counts(engine, parsed, conditions)
    # A number such as 1.6E12 may be exact; that all are as round is no chance.
    if not counts["shortened"] or counts["shortened"] < counts["all"]:
        return
    path, row, value = _first_place(engine, parsed, files, shortened)
    raise DataError(
        f"{path}: every timestamp must have all its digits, not be shortened by a spreadsheet, but "
        f"{counts['shortened']} are, first in data row {row} ({quoted(value)}). Export the column "
        "as text or whole numbers."
    )


def _is_early(engine: duckdb.DuckDBPyConnection, parsed: str) -> bool:
    query = f"SELECT count(*) FROM {parsed} WHERE r_s >= {_FIRST}"
    return not _first_value(engine, query)


def _readings() -> dict[str, str]:
    """Seconds by every way to read a text, as SQL; null where it can't be read so."""
    number = "try_cast(timestamp AS DOUBLE)"
    scales = _UNITS.items()
    readings = {name: f"{number} / {scale}" for name, scale in scales}
    readings["s"] = number
    # Digits alone, or with the point that pandas writes where values are missing.
    digits = "regexp_extract(timestamp, '^((19|20)[0-9]{6})([.]0+)?$', 1)"
    day = f"try_strptime({digits}, '%Y%m%d')"
    readings[_DAYS] = f"epoch({day})::DOUBLE"
    readings[_ISO] = _iso_seconds()
    return readings


def _iso_seconds() -> str:
    """Seconds of an ISO date or time, by its offset; UTC where it has none."""
    iso_form = literal(_ISO_FORM)
    zone_form = literal(_HAS_ZONE)
    is_iso = f"regexp_full_match(timestamp, {iso_form})"
    has_zone = f"regexp_matches(timestamp, {zone_form})"
    zoned = "regexp_replace(regexp_replace(timestamp, ' ?UTC$', 'Z'), ' ([Z+-])', '\\1')"
    # As a TIMESTAMP, DuckDB would drop the offset without a word.
    moment = f"epoch_us(try_cast({zoned} AS TIMESTAMPTZ))"
    local = "epoch_us(try_cast(timestamp AS TIMESTAMP))"
    microseconds = f"CASE WHEN {has_zone} THEN {moment} ELSE {local} END"
    return f"CASE WHEN {is_iso} THEN {microseconds} / 1e6 END"


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
        _check_zones(engine, parsed, files)
        return _ISO
    for name in others:
        if counts[name] == total and not counts["s"]:
            return name
    # Numbers of a series, such as 1, 2, 3, may look like days: nothing else is among them.
    is_series = others == [_DAYS] and not counts["s"]
    if others and not is_series:
        raise _mixed(engine, parsed, files, possible, others[0])
    return "s"


def _check_zones(engine: duckdb.DuckDBPyConnection, parsed: str, files: Sequence[Path]) -> None:
    """Refuse times of which some have a zone and others none: hours may lie between them."""
    has_zone = f"regexp_matches(timestamp, {literal(_HAS_ZONE)})"
    is_time = f"r_{_ISO} IS NOT NULL"
    conditions = {"zone": f"{is_time} AND {has_zone}", "none": f"{is_time} AND NOT {has_zone}"}
    if not all(_counts(engine, parsed, conditions).values()):
        return
    first = _first_place(engine, parsed, files, conditions["zone"])
    other = _first_place(engine, parsed, files, conditions["none"])
    raise DataError(
        f"{first[0]}: every timestamp must have a zone, or none, but data row {first[1]} has "
        f"{quoted(first[2])} and data row {other[1]} of {other[0].name} has {quoted(other[2])}. "
        "Write all with their offset; if those without one are in UTC, set --time-format iso."
    )


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


def check_order(table: ir.Table, path: Path) -> str:
    """Refuse interactions of which no user has two at different times: nothing comes next.

    Args:
        table: `user_id` and `timestamp`, as epoch seconds, of the interactions that count.
        path: Where they come from, for messages.

    Returns:
        A sentence where the order of most is not known; empty otherwise.

    Raises:
        DataError: There is none, or they tell no order.
    """
    moments = table.group_by(["user_id", "timestamp"]).aggregate(rows=table.count())
    users = moments.group_by("user_id").aggregate(times=moments.count(), rows=moments.rows.sum())
    is_tied = moments.rows > 1
    of_moments = moments.aggregate(rows=moments.rows.sum(), tied=moments.rows.sum(where=is_tied))
    of_users = users.aggregate(most_times=users.times.max(), most_rows=users.rows.max())
    found = of_moments.cross_join(of_users)
    (counts,) = found.to_pyarrow().to_pylist()
    total = counts["rows"] or 0
    tied = counts["tied"] or 0
    if not total:
        raise DataError(
            f"{path}: must hold interactions that count, but all are left out. "
            "Check forget and keep_events."
        )
    if counts["most_rows"] > 1 and counts["most_times"] == 1:
        raise DataError(
            f"{path}: timestamps must tell the order of interactions, but each user's are all at "
            f"one time. {_ORDER_REMEDY}"
        )
    if tied <= total * _MUCH_TIED:
        return ""
    return (
        f"timestamp: {tied} of {total} interactions are at the time of another of the same user; "
        "a hash decides which of these comes first"
    )
