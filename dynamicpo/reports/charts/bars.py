"""Bars: an estimate for each name with its interval, and shares of classes."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from dynamicpo.reports.charts.drawing import draw_chart
from dynamicpo.reports.charts.layout import Frame, shrink_to_fit
from dynamicpo.reports.charts.series import (
    PLAIN_FILL,
    FillStyle,
    Numbers,
    fill_style,
    finite_or_nan,
    paint_references,
    with_values_in_names,
)
from dynamicpo.reports.charts.style import CHART_WIDTH, GREY, INK, RIGHT_MARGIN
from dynamicpo.reports.labels import display_width, short_names
from dynamicpo.reports.number_format import format_interval, format_number

_BAR_ROW_HEIGHT = 40
# Letters that fit beside each other under a histogram.
_LABEL_ROOM = 48


class Estimate(NamedTuple):
    """A number and its interval; NaN bounds where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


def bars_with_intervals(
    values: Mapping[str, Estimate], title: str, x_label: str = "", coloured: bool = True
) -> str:
    """One horizontal bar for each name, with its interval; the numbers stand beside the names.

    Args:
        values: Estimate of each name. NaN is written as missing.
        title: Title of the chart.
        x_label: The unit.
        coloured: Bars have the colours of their series; else all are grey.
    """
    names = short_names(list(values))

    def paint(axes: Axes) -> None:
        for index, estimate in enumerate(values.values()):
            fill = fill_style(index) if coloured else PLAIN_FILL
            _paint_bar(axes, index, names[index], estimate, fill)
        if values:
            axes.set_ylim(len(values) - 0.62, -0.7)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.grid(visible=False)

    height = max(_BAR_ROW_HEIGHT * len(values), 44)
    return draw_chart(paint, Frame(title, "", x_label, height=height))


def _paint_bar(axes: Axes, row: int, name: str, estimate: Estimate, fill: FillStyle) -> None:
    value, low, high = (float(number) for number in finite_or_nan(estimate))
    axes.barh(row, np.nan_to_num(value), 0.34, **fill)
    # Zero has a line of its own, for bars may go to either side of it.
    axes.plot([0, 0], [row - 0.25, row + 0.25], color=GREY, linewidth=1)
    if not math.isnan(low + high + value):
        distances = [[max(value - low, 0)], [max(high - value, 0)]]
        axes.errorbar(value, row, xerr=distances, color=INK, capsize=3, elinewidth=1.3)
    numbers = f"{format_number(value)} {format_interval(low, high)}".strip()
    _write_above_bar(axes, row, name, numbers)


def _write_above_bar(axes: Axes, row: int, name: str, numbers: str) -> None:
    # x is a share of the plot's width, y a row.
    transform = axes.get_yaxis_transform()
    y = row - 0.27
    right_text = axes.text(1, y, numbers, ha="right", color=GREY, transform=transform, va="bottom")
    left_text = axes.text(0, y, name, ha="left", transform=transform, va="bottom")
    numbers_width = right_text.get_window_extent().width
    shrink_to_fit(left_text, CHART_WIDTH - RIGHT_MARGIN - 20 - numbers_width)


def histogram(
    counts: Numbers,
    labels: Sequence[str],
    title: str,
    x_label: str = "",
    series_index: int = 0,
    y_max: float | None = None,
    references: Mapping[str, float] | None = None,
) -> str:
    """Vertical bars of shares.

    Args:
        counts: Number in each class. Drawn as shares of their sum.
        labels: The classes' names, as many as counts.
        title: Title of the chart.
        x_label: The quantity that the classes divide.
        series_index: Index of the series whose colour the bars have.
        y_max: Upper limit of y, to compare charts; None for the data's own.
        references: Horizontal lines to compare with.
    """
    heights = np.nan_to_num(finite_or_nan(counts))
    total = heights.sum()

    def paint(axes: Axes) -> None:
        if total <= 0:
            return
        axes.bar(range(len(heights)), heights / total, width=0.78, **fill_style(series_index))
        axes.set_xlim(-0.7, len(heights) - 0.3)
        axes.set_ylim(0, y_max)
        paint_references(axes, with_values_in_names(references))
        _label_classes(axes, labels)
        axes.grid(visible=False, axis="x")

    return draw_chart(paint, Frame(title, "share of rows", x_label, height=130))


def _label_classes(axes: Axes, labels: Sequence[str]) -> None:
    """Name as many classes as there is room for: each, or every second one, or every third."""
    names = short_names(labels, 16)
    widest = max(map(display_width, names)) + 1
    step = -(-len(names) * widest // _LABEL_ROOM)
    axes.set_xticks(range(0, len(names), step), names[::step])
