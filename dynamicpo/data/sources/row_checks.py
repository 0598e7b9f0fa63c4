"""Checks of every row of a table, all of whose failures one error reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis.expr.types as ir

from dynamicpo.core.errors import DataError


@dataclass(frozen=True)
class RowCheck:
    """A condition that must hold in every row.

    Attributes:
        fails: True where the condition does not hold; null counts as true.
        shown_column: The column whose value in the first failing row the message shows.
        must: The condition, as in "user_id must be given".
        remedy: What to do.
    """

    fails: ir.BooleanValue
    shown_column: str
    must: str
    remedy: str


def run_row_checks(table: ir.Table, path: Path, checks: Sequence[RowCheck]) -> None:
    """Raise one error that lists every check which some rows fail, with the first such row.

    Args:
        table: The rows, numbered by their column `row`.
        path: Where they come from, for messages.
        checks: What must hold.

    Raises:
        DataError: A check fails.
    """
    # One query for all checks, so that the table is read once.
    aggregates: dict[str, ir.Scalar] = {"rows": table.count()}
    for number, check in enumerate(checks):
        # Null is the result of a comparison with a missing value, which proves nothing.
        fails = check.fails.fill_null(True)
        shown = table[check.shown_column]
        aggregates[f"count{number}"] = fails.sum()
        aggregates[f"row{number}"] = table.row.min(where=fails)
        aggregates[f"value{number}"] = shown.argmin(table.row, where=fails)
    # By Arrow, not pandas, which would turn integers beside nulls into floats.
    (results,) = table.aggregate(**aggregates).to_pyarrow().to_pylist()
    problems = []
    for number, check in enumerate(checks):
        count = results[f"count{number}"]
        row = results[f"row{number}"]
        value = results[f"value{number}"]
        if count:
            problems.append(
                f"{path}: {check.must}, not so in {count} of {results['rows']} rows, "
                f"first in data row {row} ({check.shown_column} {value!r}). {check.remedy}"
            )
    if problems:
        raise DataError("\n".join(problems))
