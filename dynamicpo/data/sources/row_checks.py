"""Checks of every row of a table, all of whose failures one error reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis.expr.types as ir

from dynamicpo.core.errors import DataError
from dynamicpo.core.messages import quoted

_ROWS_A_PART = 2**40  # more than any file has


@dataclass(frozen=True)
class RowCheck:
    """A condition that must hold in every row.

    Attributes:
        fails: True where the condition does not hold; null counts as true.
        shown_column: The column whose value in the first failing row the message shows; what is
            behind a dot, as in "user_id.raw", is ours and not shown.
        must: The condition, as in "user_id must be given".
        remedy: What to do.
    """

    fails: ir.BooleanValue
    shown_column: str
    must: str
    remedy: str


def run_row_checks(table: ir.Table, files: Sequence[Path], checks: Sequence[RowCheck]) -> None:
    """Raise one error that lists every check which some rows fail, with the first such row.

    Args:
        table: The rows, numbered by their columns `part` (from 0) and `row` (from 1).
        files: The file of each part, for messages.
        checks: What must hold.

    Raises:
        DataError: A check fails.
    """
    # One query for all checks, so that the table is read once.
    aggregates: dict[str, ir.Scalar] = {"rows": table.count()}
    place = table.part.cast("int64") * _ROWS_A_PART + table.row
    for number, check in enumerate(checks):
        # Null is the result of a comparison with a missing value, which proves nothing.
        fails = check.fails.fill_null(True)
        shown = table[check.shown_column]
        aggregates[f"count{number}"] = fails.sum()
        aggregates[f"place{number}"] = place.min(where=fails)
        # As an aggregate, this would pass over a null and show another row's value.
        text = shown.cast("string").fill_null("")
        aggregates[f"value{number}"] = text.argmin(place, where=fails)
    # By Arrow, not pandas, which would turn integers beside nulls into floats.
    (results,) = table.aggregate(**aggregates).to_pyarrow().to_pylist()
    problems = []
    for number, check in enumerate(checks):
        count = results[f"count{number}"]
        if count:
            part, row = divmod(results[f"place{number}"], _ROWS_A_PART)
            name, _, _ = check.shown_column.partition(".")
            value = quoted(results[f"value{number}"])
            problems.append(
                f"{files[part]}: {check.must}, not so in {count} of {results['rows']} rows, "
                f"first in data row {row} ({name} {value}). {check.remedy}"
            )
    if problems:
        raise DataError("\n".join(problems))
