"""Paired comparisons of two models on the same rows, and the table of them."""

import math
from collections.abc import Sequence
from typing import NotRequired, TypedDict

from dynamicpo.reports.labels import shorten
from dynamicpo.reports.number_format import (
    format_count,
    format_interval,
    format_p_value,
    format_signed,
)
from dynamicpo.reports.pages.metric_names import metric_label, value_or_nan
from dynamicpo.reports.pages.tables import ReportTable, TableCell

# After Holm's correction also the probability of any false finding in a page.
_LEVEL = 0.05
_MAX_NAME_WIDTH = 40
_HEADS = (
    "a",
    "b",
    "measure",
    "a − b",
    "p",
    "p (Holm)",
    "rows won by a",
    "rows lost",
    "conclusion",
)
_TEXT_HEADS = ("a", "b", "measure", "conclusion")


class PairedComparison(TypedDict):
    """A difference between two models on the same rows, as JSON holds it.

    Attributes:
        a: The first model.
        b: The second one.
        metric: The measure that is compared.
        difference: a − b.
        low: Lower bound of the difference's interval; None where there is no interval.
        high: Upper bound.
        p: Probability of such a difference if there were none.
        p_holm: The same, corrected by Holm for all comparisons.
        won: Rows in which a ranks the right item better than b.
        lost: Rows in which b does.
    """

    a: str
    b: str
    metric: str
    difference: float
    low: float | None
    high: float | None
    p: NotRequired[float | None]
    p_holm: NotRequired[float | None]
    won: NotRequired[int]
    lost: NotRequired[int]


def differences_table(comparisons: Sequence[PairedComparison]) -> ReportTable:
    """Paired differences: the models, a − b with its interval, p after Holm, rows won and lost."""
    return ReportTable(
        columns=list(_HEADS),
        rows=[_comparison_row(comparison) for comparison in comparisons],
        text_columns=[_HEADS.index(head) for head in _TEXT_HEADS],
    )


def _comparison_row(comparison: PairedComparison) -> list[TableCell]:
    names = [
        shorten(comparison["a"], _MAX_NAME_WIDTH),
        shorten(comparison["b"], _MAX_NAME_WIDTH),
        metric_label(comparison["metric"]),
    ]
    p = value_or_nan(comparison.get("p"))
    p_holm = value_or_nan(comparison.get("p_holm"))
    num_won = value_or_nan(comparison.get("won"))
    num_lost = value_or_nan(comparison.get("lost"))
    evidence = [
        format_p_value(p),
        format_p_value(p_holm),
        format_count(num_won),
        format_count(num_lost),
        conclusion(comparison),
    ]
    return [
        *map(TableCell, names),
        _difference_cell(comparison),
        *map(TableCell, evidence),
    ]


def _difference_cell(comparison: PairedComparison) -> TableCell:
    difference = value_or_nan(comparison["difference"])
    low, high = interval_of(comparison)
    return TableCell(
        text=format_signed(difference),
        detail=format_interval(low, high),
        strong=is_clear_difference(comparison),
    )


def interval_of(comparison: PairedComparison) -> tuple[float, float]:
    """Bounds of the difference; NaN where there is no interval."""
    return value_or_nan(comparison["low"]), value_or_nan(comparison["high"])


def is_clear_difference(comparison: PairedComparison) -> bool:
    """True where a difference is not noise.

    Its interval excludes 0, and p after Holm, where it is known, is under .05.
    """
    low, high = interval_of(comparison)
    excludes_zero = low > 0 or high < 0
    p_holm = comparison.get("p_holm")
    if p_holm is not None and p_holm >= _LEVEL:
        return False
    return excludes_zero


def conclusion(comparison: PairedComparison) -> str:
    """The better of the two, in words."""
    low, _ = interval_of(comparison)
    if math.isnan(low):
        return "interval not available"
    if not is_clear_difference(comparison):
        return "no clear difference"
    return "a is better" if comparison["difference"] > 0 else "b is better"
