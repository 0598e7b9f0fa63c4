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
# A bar's name and its numbers share a line, with a gap between them.
_BAR_TEXT_WIDTH = CHART_WIDTH - RIGHT_MARGIN - 20
# Letters that fit beside each other under a histogram.
_LABEL_ROOM = 48
SHARES_HEIGHT = 130


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
    estimates = list(values.values())

    def paint(axes: Axes) -> None:
        for index, name in enumerate(names):
            fill = fill_style(index) if coloured else PLAIN_FILL
            _paint_bar(axes, index, name, estimates[index], fill)
        if names:
            _keep_only_x_axis(axes, len(names))

    height = max(_BAR_ROW_HEIGHT * len(names), 44)
    frame = Frame(title, x_label=x_label, height=height)
    return draw_chart(paint, frame)


def _keep_only_x_axis(axes: Axes, num_rows: int) -> None:
    # The first row at the top, with room for its name.
    axes.set_ylim(num_rows - 0.62, -0.7)
    # Names stand above the bars, where long ones have room.
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)


def _paint_bar(axes: Axes, row: int, name: str, estimate: Estimate, fill: FillStyle) -> None:
    drawable = Estimate(*finite_or_nan(estimate).tolist())
    has_value = not math.isnan(drawable.value)
    # A bar of no length keeps the row of a missing value.
    length = drawable.value if has_value else 0.0
    axes.barh(row, length, 0.34, **fill)
    _paint_zero_line(axes, row)
    interval = format_interval(drawable.low, drawable.high)
    if has_value and interval:
        _paint_interval(axes, row, drawable)
    value = format_number(drawable.value)
    numbers = f"{value} {interval}"
    _write_above_bar(axes, row, name, numbers.strip())


def _paint_zero_line(axes: Axes, row: int) -> None:
    # Bars may go to either side of zero, which the plot's edge then does not show.
    top = row - 0.25
    bottom = row + 0.25
    axes.plot([0, 0], [top, bottom], color=GREY, linewidth=1)


def _paint_interval(axes: Axes, row: int, estimate: Estimate) -> None:
    # matplotlib takes distances from the value, and refuses negative ones.
    to_low = max(estimate.value - estimate.low, 0)
    to_high = max(estimate.high - estimate.value, 0)
    axes.errorbar(
        estimate.value,
        row,
        xerr=[[to_low], [to_high]],
        color=INK,
        capsize=3,
        elinewidth=1.3,
    )


def _write_above_bar(axes: Axes, row: int, name: str, numbers: str) -> None:
    # Above the bar, which is .34 of a row high and centred; y runs downwards.
    y = row - 0.27
    right_text = axes.text(
        x=1,
        y=y,
        s=numbers,
        ha="right",
        va="bottom",
        color=GREY,
        # x is a share of the plot's width, y a row.
        transform=axes.get_yaxis_transform(),
    )
    left_text = axes.text(
        x=0,
        y=y,
        s=name,
        ha="left",
        va="bottom",
        transform=axes.get_yaxis_transform(),
    )
    numbers_box = right_text.get_window_extent()
    room = _BAR_TEXT_WIDTH - numbers_box.width
    shrink_to_fit(left_text, room)


def histogram(
    counts: Numbers,
    labels: Sequence[str],
    title: str,
    x_label: str = "",
    series_index: int = 0,
    y_max: float | None = None,
    references: Mapping[str, float] | None = None,
) -> str:
    """Vertical bars of shares of rows.

    Args:
        counts: Number in each class. Drawn as shares of their sum.
        labels: The classes' names, as many as counts.
        title: Title of the chart.
        x_label: The quantity that the classes divide.
        series_index: Index of the series whose colour the bars have.
        y_max: Upper limit of y, to compare charts; None for the data's own.
        references: Horizontal lines to compare with.
    """
    frame = Frame(title, y_label="share of rows", x_label=x_label, height=SHARES_HEIGHT)
    return class_shares(counts, labels, frame, series_index, y_max, references)


def class_shares(
    counts: Numbers,
    labels: Sequence[str],
    frame: Frame,
    series_index: int = 0,
    y_max: float | None = None,
    references: Mapping[str, float] | None = None,
) -> str:
    """Vertical bars of shares of whatever the frame says; the rest is as in `histogram`."""
    heights = np.nan_to_num(finite_or_nan(counts))
    num_classes = len(heights)
    total = heights.sum()

    def paint(axes: Axes) -> None:
        if total <= 0:
            return
        axes.bar(
            x=range(num_classes),
            height=heights / total,
            width=0.78,
            **fill_style(series_index),
        )
        axes.set_xlim(-0.7, num_classes - 0.3)
        axes.set_ylim(0, y_max)
        paint_references(axes, with_values_in_names(references))
        _label_classes(axes, labels)
        axes.grid(visible=False, axis="x")

    return draw_chart(paint, frame)


def _label_classes(axes: Axes, labels: Sequence[str]) -> None:
    """Name as many classes as there is room for: each, or every second one, or every third."""
    names = short_names(labels, 16)
    # One letter between two names.
    name_width = max(map(display_width, names)) + 1
    needed_width = name_width * len(names)
    step = math.ceil(needed_width / _LABEL_ROOM)
    positions = range(0, len(names), step)
    shown = names[::step]
    axes.set_xticks(positions, shown)
