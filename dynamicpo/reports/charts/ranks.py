"""Ranks of the right items: a histogram for each model, and cumulative curves of all."""

from collections.abc import Mapping

import numpy as np

from dynamicpo.core.arrays import FloatArray
from dynamicpo.reports.charts.bars import histogram
from dynamicpo.reports.charts.curves import curves
from dynamicpo.reports.charts.series import Numbers, finite_or_nan

_MAX_SINGLE_RANKS = 24


def rank_histogram(
    counts: Numbers, title: str, series_index: int = 0, y_max: float | None = None
) -> str:
    """Share of rows at each rank of the right item; ranks of long lists are grouped.

    Args:
        counts: Number of rows at rank 1, 2, ... May be fractional where ties are shared.
        title: Name of the model.
        series_index: Index of the series whose colour the bars have.
        y_max: Upper limit of y, to compare charts.
    """
    labels, grouped = rank_groups(counts)
    references = {}
    # Chance is a level line only where every class is one rank.
    if 0 < len(counts) == len(grouped):
        references["chance"] = 1 / len(counts)
    return histogram(
        grouped,
        labels,
        title,
        x_label="rank of the right item",
        series_index=series_index,
        y_max=y_max,
        references=references,
    )


def rank_groups(counts: Numbers) -> tuple[list[str], list[float]]:
    """Labels and counts of rank groups.

    Up to 24 ranks each is its own group; else 1 to 5 are, and then groups end at 10, 20, 50, 100,
    200, 500, ...
    """
    heights = [float(count) for count in np.nan_to_num(finite_or_nan(counts))]
    labels: list[str] = []
    grouped: list[float] = []
    start = 0
    for end in _group_ends(len(heights)):
        is_single_rank = end - start == 1
        labels.append(str(end) if is_single_rank else f"≤{end}")
        grouped.append(sum(heights[start:end]))
        start = end
    return labels, grouped


def _group_ends(num_ranks: int) -> list[int]:
    """The last rank of each group."""
    if num_ranks <= _MAX_SINGLE_RANKS:
        return list(range(1, num_ranks + 1))
    ends = [1, 2, 3, 4, 5]
    # Ends of groups are 10, 20, 50, 100, ..., and the last one is that of the list.
    step = 10
    while ends[-1] < num_ranks:
        ends += [step, 2 * step, 5 * step]
        step *= 10
    inner_ends = [end for end in ends if end < num_ranks]
    return [*inner_ends, num_ranks]


def rank_curves(ranks: Mapping[str, Numbers], title: str) -> str:
    """Share of rows whose right item is among the first k, for every k: one line for each name."""
    series: dict[str, tuple[Numbers, Numbers]] = {}
    for name, counts in ranks.items():
        shares = _cumulative_shares(counts)
        ks = np.arange(1.0, len(shares) + 1)
        series[name] = (ks, shares)
    return curves(
        series,
        title,
        y_label="share of rows with the right item among the first k",
        x_label="k",
        y_range=(0, 1.02),
    )


def _cumulative_shares(counts: Numbers) -> FloatArray:
    """Share of rows up to each rank; none without rows."""
    drawable = np.nan_to_num(finite_or_nan(counts))
    sums: FloatArray = np.cumsum(drawable)
    # The last sum and not `sum`, whose rounding differs, so that the curve ends at exactly 1.
    total = float(sums[-1]) if len(sums) else 0.0
    if total <= 0:
        return np.empty(0)
    return sums / total
