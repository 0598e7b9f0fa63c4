"""Ranks of the right items: a histogram for each model, and cumulative curves of all."""

from collections.abc import Mapping
from itertools import accumulate, pairwise

import numpy as np

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
    has_single_ranks = 0 < len(counts) == len(grouped)
    # Chance is a level line only where every class is one rank.
    references = {"chance": 1 / len(counts)} if has_single_ranks else {}
    return histogram(
        grouped, labels, title, "rank of the right item", series_index, y_max, references
    )


def rank_groups(counts: Numbers) -> tuple[list[str], list[float]]:
    """Labels and counts of rank groups.

    Up to 24 ranks each is its own group; else 1 to 5 are, and then groups end at 10, 20, 50, 100,
    200, 500, ...
    """
    heights = [float(count) for count in np.nan_to_num(finite_or_nan(counts))]
    if len(heights) <= _MAX_SINGLE_RANKS:
        labels = [str(rank) for rank in range(1, len(heights) + 1)]
        return labels, heights
    labels = []
    grouped = []
    for start, end in pairwise([0, *_group_ends(len(heights))]):
        is_single_rank = end - start == 1
        labels.append(str(end) if is_single_rank else f"≤{end}")
        grouped.append(sum(heights[start:end]))
    return labels, grouped


def _group_ends(num_ranks: int) -> list[int]:
    ends = [1, 2, 3, 4, 5]
    for power in range(1, 12):
        ends += [10**power, 2 * 10**power, 5 * 10**power]
    return [*(end for end in ends if end < num_ranks), num_ranks]


def rank_curves(ranks: Mapping[str, Numbers], title: str) -> str:
    """Share of rows whose right item is among the first k, for every k: one line for each name."""
    series: dict[str, tuple[Numbers, Numbers]] = {}
    for name, counts in ranks.items():
        shares = _cumulative_shares(counts)
        first_k = np.arange(1.0, len(shares) + 1)
        series[name] = (first_k, shares)
    y_label = "share of rows with the right item among the first k"
    return curves(series, title, y_label, "k", y_range=(0, 1.02))


def _cumulative_shares(counts: Numbers) -> list[float]:
    sums = list(accumulate(np.nan_to_num(finite_or_nan(counts))))
    if not sums or sums[-1] <= 0:
        return []
    return [value / sums[-1] for value in sums]
