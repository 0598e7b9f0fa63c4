"""The charts themselves."""

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynamicpo.reports.charts.drawing import GREY, INK, RIGHT, WIDTH, Frame, draw, shrink
from dynamicpo.reports.charts.numbers import columns, interval, number, short_names

# Okabe and Ito's colours and a pale tint of each; their yellow is too pale on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
_TINTS = ("#a6cfe6", "#f3c6a6", "#a6dccf", "#ecd0e0", "#bfbfbf", "#f7dda6", "#c8e5f7")
_DASHES = (
    "-",
    (0, (5, 1.6)),
    (0, (1.2, 1.4)),
    (0, (7, 1.6, 1.2, 1.6)),
    (0, (9, 3)),
    (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)),
)
_MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*")
_HATCHES = ("", "//", "\\\\", "xx", "--", "||", "//", "++")
_REFERENCES = ((GREY, (0, (1, 2))), ("#8c959f", (0, (4, 2, 1, 2))), (INK, (0, (8, 4))))
_PLAIN = {"facecolor": "#d0d7de", "edgecolor": GREY, "linewidth": 1}
_LARGEST = 1e30

Array = NDArray[np.floating[Any]]
Values = Sequence[float] | Array


class Estimate(NamedTuple):
    """A number and its interval; NaN bounds where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


def curves(
    series: Mapping[str, tuple[Values, Values]],
    title: str,
    y_label: str = "",
    x_label: str = "step",
    y_range: tuple[float | None, float | None] = (None, None),
    references: Mapping[str, float] | None = None,
) -> str:
    """Lines over steps; several runs are overlaid.

    A long run is drawn as means of groups of neighbouring steps (120 groups with a band from the lowest to
    the highest value for one or two lines, else 60). Values that are NaN or infinite are left out, and counted below.

    Args:
        series: x and y of each line. An empty one is not drawn but keeps its place among the colours.
        title: What is drawn.
        y_label: The unit, written under the title.
        x_label: What runs along x.
        y_range: Limits of y, None for the data's own.
        references: Horizontal lines to compare with.
    """
    points = {name: (np.asarray(x, dtype=float), _finite(y)) for name, (x, y) in series.items()}
    drawn = [y for _, y in points.values() if not np.isnan(y).all()]
    lost = sum(int(np.isnan(y).sum()) for _, y in points.values())
    notes = (
        [f"{lost} {'value is' if lost == 1 else 'values are'} NaN or infinite and not drawn."]
        if lost
        else []
    )

    def paint(axes: Any) -> None:
        names = short_names(list(points)) if len(points) > 1 else [""] * len(points)
        for place, (name, (x, y)) in enumerate(zip(names, points.values(), strict=True)):
            if not np.isnan(y).all():
                _line_of_means(axes, x, y, _look(place, name), few=len(drawn) <= 2)
        if drawn:
            _references(axes, references or {})
            axes.set_ylim(*y_range)

    return draw(paint, Frame(title, y_label, x_label, notes=notes))


def bars_with_intervals(
    values: Mapping[str, Estimate], title: str, x_label: str = "", coloured: bool = True
) -> str:
    """One horizontal bar for each name, with its interval; the numbers stand beside the names.

    Args:
        values: Estimate of each name. NaN is written as missing.
        title: What is measured.
        x_label: The unit.
        coloured: Whether names have the colours of their places; else all bars are grey.
    """

    def paint(axes: Any) -> None:
        for place, (name, estimate) in enumerate(
            zip(short_names(list(values)), values.values(), strict=True)
        ):
            _bar(axes, place, name, Estimate(*estimate), _fill(place) if coloured else _PLAIN)
        if values:
            axes.set_ylim(len(values) - 0.62, -0.7)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.grid(visible=False)

    return draw(paint, Frame(title, "", x_label, height=max(40 * len(values), 44)))


def histogram(
    counts: Values,
    labels: Sequence[str],
    title: str,
    x_label: str = "",
    place: int = 0,
    y_max: float | None = None,
    references: Mapping[str, float] | None = None,
) -> str:
    """Vertical bars of shares.

    Args:
        counts: How many fall into each class. Drawn as shares of their sum.
        labels: The classes' names, as many as counts.
        title: What is counted.
        x_label: What the classes are.
        place: Which of the series' colours.
        y_max: Upper limit of y, to compare charts; None for the data's own.
        references: Horizontal lines to compare with.
    """
    heights = np.nan_to_num(_finite(counts))

    def paint(axes: Any) -> None:
        if heights.sum() > 0:
            axes.bar(range(len(heights)), heights / heights.sum(), width=0.78, **_fill(place))
            axes.set_xlim(-0.7, len(heights) - 0.3)
            axes.set_ylim(0, y_max)
            _references(
                axes,
                {f"{name} {number(value)}": value for name, value in (references or {}).items()},
            )
            short = short_names(labels, 16)
            every = -(-len(short) * (max(map(columns, short)) + 1) // 48)
            axes.set_xticks(range(0, len(short), every), short[::every])
            axes.grid(visible=False, axis="x")

    return draw(paint, Frame(title, "share of rows", x_label, height=130))


def rank_histogram(counts: Values, title: str, place: int = 0, y_max: float | None = None) -> str:
    """Where the right items stand: share of rows at each rank; long lists are grouped.

    Args:
        counts: Number of rows at rank 1, 2, ... May be fractional where ties are shared.
        title: Whose ranks.
        place: Which of the series' colours.
        y_max: Upper limit of y, to compare charts.
    """
    labels, grouped = rank_groups(counts)
    chance = {"chance": 1 / len(counts)} if 0 < len(counts) == len(grouped) else {}
    return histogram(grouped, labels, title, "rank of the right item", place, y_max, chance)


def rank_groups(counts: Values) -> tuple[list[str], list[float]]:
    """Ranks as they are up to 24, else 1 to 5 and then groups that end at 10, 20, 50, 100, 200, 500, ..."""
    heights = [float(count) for count in np.nan_to_num(_finite(counts))]
    if len(heights) <= 24:
        return [str(rank) for rank in range(1, len(heights) + 1)], heights
    ends = [1, 2, 3, 4, 5, *(step * 10**power for power in range(1, 12) for step in (1, 2, 5))]
    ends = [*(end for end in ends if end < len(heights)), len(heights)]
    bounds = list(zip([0, *ends], ends, strict=False))
    labels = [str(end) if end - start == 1 else f"≤{end}" for start, end in bounds]
    return labels, [sum(heights[start:end]) for start, end in bounds]


def rank_curves(ranks: Mapping[str, Values], title: str) -> str:
    """Share of rows whose right item is among the first k, for every k: one line for each name."""
    series: dict[str, tuple[Values, Values]] = {}
    for name, counts in ranks.items():
        sums = list(accumulate(np.nan_to_num(_finite(counts))))
        share = [value / sums[-1] for value in sums] if sums and sums[-1] > 0 else []
        series[name] = (np.arange(1.0, len(share) + 1), share)
    return curves(
        series, title, "share of rows with the right item among the first k", "k", y_range=(0, 1.02)
    )


def scaling(
    series: Mapping[str, Sequence[tuple[float, float, float, float]]],
    title: str,
    y_label: str = "",
    x_label: str = "number of negatives K",
    references: Mapping[str, float] | None = None,
    y_range: tuple[float | None, float | None] = (None, None),
) -> str:
    """A measure against K: one line for each name, with intervals.

    Args:
        series: Points (K, value, low, high) of each line; NaN bounds for no interval.
        title: What is measured.
        y_label: The unit.
        x_label: What runs along x.
        references: Horizontal lines to compare with, such as the model before training.
        y_range: Limits of y, None for the data's own.
    """
    tables = [np.asarray(points, dtype=float).reshape(-1, 4) for points in series.values()]
    ks = sorted({float(k) for table in tables for k in table[np.isfinite(_finite(table[:, 1])), 0]})

    def paint(axes: Any) -> None:
        for place, (name, table) in enumerate(zip(short_names(list(series)), tables, strict=True)):
            table = table[np.isfinite(_finite(table[:, 1]))]
            if len(table):
                shift = (
                    0.006 * (ks[-1] - ks[0]) * (place - (len(tables) - 1) / 2)
                )  # intervals side by side
                bounds = np.nan_to_num(np.abs(table[:, 2:].T - table[:, 1]))
                axes.errorbar(
                    table[:, 0] + shift,
                    table[:, 1],
                    bounds,
                    **_look(place, name),
                    capsize=2.5,
                    elinewidth=1,
                )
        if ks:
            _references(
                axes,
                {f"{name} {number(value)}": value for name, value in (references or {}).items()},
            )
            axes.set_xticks(ks, [f"{k:g}" for k in ks])
            axes.set_ylim(*y_range)

    return draw(paint, Frame(title, y_label, x_label))


def _finite(values: Values) -> Array:
    array = np.asarray(values, dtype=float)
    return np.where(np.abs(array) < _LARGEST, array, np.nan)


def _look(place: int, name: str) -> dict[str, Any]:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": _DASHES[place % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "label": name,
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
    }


def _fill(place: int) -> dict[str, Any]:
    return {
        "facecolor": _TINTS[place % len(_TINTS)],
        "edgecolor": COLOURS[place % len(COLOURS)],
        "hatch": _HATCHES[place % len(_HATCHES)],
        "linewidth": 1,
    }


def _line_of_means(axes: Any, x: Array, y: Array, look: dict[str, Any], few: bool) -> None:
    groups = np.array_split(np.arange(len(y)), min(len(y), 120 if few else 60))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a group of NaN alone is a gap
        middle, mean, low, high = (
            np.array([summary(values[group]) for group in groups])
            for summary, values in ((np.mean, x), (np.nanmean, y), (np.nanmin, y), (np.nanmax, y))
        )
    if few and len(y) > len(groups):
        axes.fill_between(middle, low, high, color=look["color"], alpha=0.16, linewidth=0)
    start = 0.04 * (_MARKERS.index(look["marker"]) % 4)
    axes.plot(middle, mean, **look, markevery=(start, 0.2) if len(groups) > 12 else None)


def _bar(axes: Any, place: int, name: str, estimate: Estimate, fill: dict[str, Any]) -> None:
    value, low, high = (float(v) for v in _finite(estimate))
    axes.barh(place, np.nan_to_num(value), 0.34, **fill)
    axes.plot([0, 0], [place - 0.25, place + 0.25], color=GREY, linewidth=1)
    if not math.isnan(low + high + value):
        error = [[max(value - low, 0)], [max(high - value, 0)]]
        axes.errorbar(value, place, xerr=error, color=INK, capsize=3, elinewidth=1.3)
    at = {"transform": axes.get_yaxis_transform(), "va": "bottom"}
    text = axes.text(
        1,
        place - 0.27,
        f"{number(value)} {interval(low, high)}".strip(),
        ha="right",
        color=GREY,
        **at,
    )
    room = WIDTH - RIGHT - 20 - text.get_window_extent().width
    shrink(axes.text(0, place - 0.27, name, ha="left", **at), room)


def _references(axes: Any, references: Mapping[str, float]) -> None:
    for place, (name, value) in enumerate(
        zip(short_names(list(references)), references.values(), strict=True)
    ):
        if math.isfinite(value):
            colour, dashes = _REFERENCES[place % len(_REFERENCES)]
            line = axes.axhline(
                value, color=colour, linestyle=dashes, linewidth=1.2, zorder=1, gid="reference"
            )
            line.set_label(name)
