"""Values of any type as text, in SQL, with what may be wrong with each: its flaw.

A flaw is no error by itself: a decimal number is a good rating and no id.
"""

from typing import NamedTuple

NESTED = "nested"
BYTES = "bytes"
DECIMAL = "decimal"
ROUNDED = "rounded"
COARSE = "coarse"
TRUTH = "truth"

# What is behind each flaw, for messages.
FLAWS = {
    NESTED: "a list or an object",
    BYTES: "bytes that are no UTF-8",
    DECIMAL: "a decimal number",
    ROUNDED: "a number that floats do not hold exactly (2^53 or more)",
    COARSE: "a time in a 32-bit float",
    TRUTH: "true or false",
}
_EXACT_BITS = {"FLOAT": 24, "DOUBLE": 53}
_NESTED_TYPES = ("STRUCT", "MAP", "UNION", "VARIANT")


class TextSql(NamedTuple):
    """A value's text and flaw as SQL expressions; the flaw is null where there is none."""

    text: str
    flaw: str = "NULL"


ABSENT = TextSql("NULL")


def of_json(json: str, path: str) -> TextSql:
    """The text of a value in an object: a string's content, a number as it is written."""
    kind = f"json_type({json}, {path})"
    written = f"json_extract_string({json}, {path})"
    # Integers that pandas wrote as floats because values are missing between them.
    without_point = f"regexp_replace({written}, '[.]0+$', '')"
    text = f"CASE WHEN {kind} = 'DOUBLE' THEN {without_point} ELSE {written} END"
    number = f"try_cast({written} AS DOUBLE)"
    # DuckDB has this type for integers of more than 64 bits, too, whose digits are all there.
    has_point = f"{kind} = 'DOUBLE' AND regexp_matches({written}, '[.eEn]')"
    flaw = (
        f"CASE WHEN {kind} IN ('OBJECT', 'ARRAY') THEN '{NESTED}' "
        f"WHEN {kind} = 'BOOLEAN' THEN '{TRUTH}' "
        f"WHEN {has_point} AND abs({number}) >= {2**53} THEN '{ROUNDED}' "
        f"WHEN {has_point} AND {number} <> floor({number}) THEN '{DECIMAL}' END"
    )
    return TextSql(text, flaw)


def of_column(column: str, kind: str, is_time: bool) -> TextSql:
    """The text of a column of a type of DuckDB's.

    Args:
        column: The column.
        kind: Its type, as DuckDB names it.
        is_time: Whether a date means a point in time, which becomes epoch seconds.
    """
    text = f"{column}::VARCHAR"
    if kind.endswith("]") or kind.startswith(_NESTED_TYPES):
        return TextSql(text, f"CASE WHEN {column} IS NOT NULL THEN '{NESTED}' END")
    if kind == "BOOLEAN":
        return TextSql(text, f"CASE WHEN {column} IS NOT NULL THEN '{TRUTH}' END")
    if kind == "BLOB":
        decoded = f"try(decode({column}))"
        flaw = f"CASE WHEN {column} IS NOT NULL AND {decoded} IS NULL THEN '{BYTES}' END"
        return TextSql(decoded, flaw)
    if is_time and kind == "FLOAT":
        flaw = f"CASE WHEN abs({column}) >= {2 ** _EXACT_BITS[kind]} THEN '{COARSE}' END"
        return TextSql(_of_float(column, _EXACT_BITS[kind]).text, flaw)
    if kind in _EXACT_BITS:
        return _of_float(column, _EXACT_BITS[kind])
    if kind.startswith("DECIMAL"):
        return _of_decimal(column)
    if is_time and kind.startswith(("TIMESTAMP", "DATE")):
        return TextSql(_seconds(column, kind))
    return TextSql(text)


def _of_float(column: str, exact_bits: int) -> TextSql:
    is_integer = f"{column} = floor({column})"
    text = (
        f"CASE WHEN {is_integer} THEN coalesce(try_cast({column} AS BIGINT)::VARCHAR, "
        f"{column}::VARCHAR) ELSE {column}::VARCHAR END"
    )
    flaw = (
        f"CASE WHEN isnan({column}) THEN NULL WHEN abs({column}) >= {2**exact_bits} "
        f"THEN '{ROUNDED}' WHEN NOT {is_integer} THEN '{DECIMAL}' END"
    )
    return TextSql(text, flaw)


def _of_decimal(column: str) -> TextSql:
    is_integer = f"{column} = floor({column})"
    text = f"regexp_replace({column}::VARCHAR, '[.]0+$', '')"
    return TextSql(text, f"CASE WHEN NOT {is_integer} THEN '{DECIMAL}' END")


def _seconds(column: str, kind: str) -> str:
    """Epoch seconds with their fraction; times without a zone are taken as UTC."""
    if kind == "TIMESTAMP_NS":
        return f"(epoch_ns({column}) / 1e9)::VARCHAR"
    if "TIME ZONE" in kind:
        return f"(epoch_us({column}) / 1e6)::VARCHAR"
    return f"(epoch_us({column}::TIMESTAMP) / 1e6)::VARCHAR"
