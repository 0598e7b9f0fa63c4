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

_LEVEL = 0.05
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
    rows = [_comparison_row(comparison) for comparison in comparisons]
    text_columns = [_HEADS.index(head) for head in _TEXT_HEADS]
    return ReportTable(list(_HEADS), rows, text_columns)


def _comparison_row(comparison: PairedComparison) -> list[TableCell]:
    return [
        TableCell(shorten(comparison["a"], 40)),
        TableCell(shorten(comparison["b"], 40)),
        TableCell(metric_label(comparison["metric"])),
        _difference_cell(comparison),
        TableCell(format_p_value(value_or_nan(comparison.get("p")))),
        TableCell(format_p_value(value_or_nan(comparison.get("p_holm")))),
        TableCell(format_count(value_or_nan(comparison.get("won")))),
        TableCell(format_count(value_or_nan(comparison.get("lost")))),
        TableCell(conclusion(comparison)),
    ]


def _difference_cell(comparison: PairedComparison) -> TableCell:
    low, high = interval_of(comparison)
    text = format_signed(value_or_nan(comparison["difference"]))
    return TableCell(text, format_interval(low, high), is_clear_difference(comparison))


def interval_of(comparison: PairedComparison) -> tuple[float, float]:
    """Bounds of the difference; NaN where there is no interval."""
    return value_or_nan(comparison["low"]), value_or_nan(comparison["high"])


def is_clear_difference(comparison: PairedComparison) -> bool:
    """True where a difference is not noise.

    Its interval excludes 0, and p after Holm, where it is known, is under .05.
    """
    low, high = interval_of(comparison)
    excludes_zero = low > 0 or high < 0
    # An unknown p is NaN, which no comparison finds to be at the level or above.
    is_probably_chance = value_or_nan(comparison.get("p_holm")) >= _LEVEL
    return excludes_zero and not is_probably_chance


def conclusion(comparison: PairedComparison) -> str:
    """The better of the two, in words."""
    low, _ = interval_of(comparison)
    if math.isnan(low):
        return "interval not available"
    if not is_clear_difference(comparison):
        return "no clear difference"
    return "a is better" if comparison["difference"] > 0 else "b is better"
