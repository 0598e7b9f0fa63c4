"""Ids as they are meant: without what does not show around them, never a text for none."""

from collections.abc import Sequence
from typing import NamedTuple

import ibis
import ibis.expr.types as ir

from dynamicpo.core.errors import DataError
from dynamicpo.core.messages import quoted
from dynamicpo.data.sources.reading import TextTable
from dynamicpo.data.sources.row_checks import RowCheck
from dynamicpo.data.sources.text_values import HIDDEN_RE2, MISSING, null_if_missing, trimmed

# What a float column of whole numbers becomes in a text file.
_WITH_POINT = r"^-?[0-9]+[.]0+$"
_WHOLE = r"^-?[0-9]+$"
# What programs make of a long number: 7.65612E+16, 1e+05; in Java without the sign.
_SHORTENED = r"^-?[0-9]([.,][0-9]+[eE][+]?|[eE][+])[0-9]+$"
# At and above 2^53 floats step by two and more.
_FIRST_INEXACT = 2**53


class CleanIds(NamedTuple):
    """A table whose ids are clean.

    Attributes:
        table: The rows; an id is null where it is missing.
        counts: How many values were changed, by how.
        notes: The same as sentences.
    """

    table: ir.Table
    counts: dict[str, int]
    notes: tuple[str, ...]


def clean_ids(
    text: TextTable, names: Sequence[str], markers: tuple[str, ...] = MISSING
) -> CleanIds:
    """Take spaces and the like from around ids, and the point of whole numbers written as floats.

    Raises:
        DataError: Some ids of a column are written with a point and others without.
    """
    table = text.rows
    counts: dict[str, int] = {}
    notes = []
    # One query for all columns.
    statistics = {}
    for name in names:
        column = table[name].fill_null("")
        clean = trimmed(column)
        statistics[f"{name}_trimmed"] = (clean != column).sum()
        statistics[f"{name}_point"] = clean.re_search(_WITH_POINT).sum()
        statistics[f"{name}_whole"] = clean.re_search(_WHOLE).sum()
    (found,) = table.aggregate(**statistics).to_pyarrow().to_pylist()
    changed = {}
    for name in names:
        column = null_if_missing(table[name], markers)
        num_trimmed, num_point = found[f"{name}_trimmed"], found[f"{name}_point"]
        if num_trimmed:
            counts[f"{name}s_trimmed"] = num_trimmed
            notes.append(f"{name}: {num_trimmed} values had spaces or invisible characters around")
        if num_point and found[f"{name}_whole"]:
            raise _two_ways(text, name)
        if num_point:
            column = ibis.ifelse(
                column.re_search(_WITH_POINT), column.re_replace(r"[.]0+$", ""), column
            )
            counts[f"{name}s_without_point"] = num_point
            notes.append(f"{name}: {num_point} whole numbers were written with a point")
        changed[name] = column
    raw = {f"{name}.raw": table[name] for name in names}
    return CleanIds(table.mutate(**raw, **changed), counts, tuple(notes))


def _two_ways(text: TextTable, name: str) -> DataError:
    """Make the error for ids such as 7 and 7.0 in one column, which may or may not be the same."""
    clean = trimmed(text.rows[name])
    rows = text.rows.filter(clean.re_search(_WITH_POINT))
    first = rows.order_by(["part", "row"]).limit(1)
    (record,) = first.to_pyarrow().to_pylist()
    part, row, value = record["part"], record["row"], record[name]
    return DataError(
        f"{text.files[part]}: every {name} must be written in one way, but data row {row} has "
        f"{quoted(value)} and others are whole numbers without a point. "
        "Write all as text or integers."
    )


def id_checks(table: ir.Table, name: str) -> list[RowCheck]:
    """Conditions of a column of `clean_ids`."""
    raw = f"{name}.raw"
    return [
        RowCheck(
            fails=table[name].isnull() & table[f"{name}_flaw"].isnull(),
            shown_column=raw,
            must=f"every {name} must be given",
            remedy="Fill in or remove these rows; if it is an id, say with --missing-values which "
            "texts are none.",
        ),
        RowCheck(
            fails=table[f"{name}_flaw"].notnull(),
            shown_column=raw,
            must=f"every {name} must be text or a whole number that is written exactly",
            remedy="Write ids as text or as integers, not as floats, lists or bytes.",
        ),
        RowCheck(
            fails=table[name].fill_null("").re_search(HIDDEN_RE2),
            shown_column=name,
            must=f"every {name} must be of characters that show",
            remedy="Remove control and invisible characters.",
        ),
        RowCheck(
            fails=table[name].fill_null("").re_search(_SHORTENED),
            shown_column=name,
            must=f"every {name} must have all its digits, not be shortened by a program",
            remedy="Export the column as text or as integers, not as floats.",
        ),
        RowCheck(
            fails=_is_inexact(table, name),
            shown_column=raw,
            must=f"every {name} must be exact, not a float of 2^53 or more",
            remedy="Export the column as text or as integers from where it is exact.",
        ),
    ]


def _is_inexact(table: ir.Table, name: str) -> ir.BooleanValue:
    """True where a whole number was written with a point and is too large for a float's digits."""
    raw = trimmed(table[f"{name}.raw"].fill_null(""))
    number = raw.try_cast("float64").abs()
    is_large = (number >= _FIRST_INEXACT).fill_null(False)
    return raw.re_search(_WITH_POINT) & is_large
