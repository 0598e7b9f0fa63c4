"""Everything around a plot, and its position: title, units, legend and notes.

All lengths are in units of the SVG. Heights count from the bottom up, as matplotlib's do.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, MaxNLocator

from dynamicpo.reports.charts.style import (
    CHART_WIDTH,
    FONT_SIZE,
    GREY,
    LINE_HEIGHT,
    POINTS_PER_INCH,
    RIGHT_MARGIN,
    WARNING_RED,
)
from dynamicpo.reports.labels import display_width, one_line
from dynamicpo.reports.number_format import tick_labels

# Gid of the lines that series are compared with, by which the legend sorts them last.
REFERENCE_GID = "reference"
_RIGHT_EDGE = CHART_WIDTH - RIGHT_MARGIN
# Letters of bold print that fit beside each other.
_TITLE_WIDTH = 46
_TITLE_LINES = 3


class Frame(NamedTuple):
    """The texts around a plot, and its height.

    Attributes:
        title: Title of the chart.
        y_label: The unit, under the title.
        x_label: The quantity along x, under the plot.
        height: Height of the plot itself.
        notes: Warnings at the bottom.
    """

    title: str
    y_label: str = ""
    x_label: str = ""
    height: float = 190
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _Heights:
    """Heights at which the parts of a chart begin.

    Attributes:
        legend: Lower edge of the legend, above the notes.
        x_label: Lower edge of the x label, above the legend.
        plot: Lower edge of the plot, above the ticks.
        plot_top: Upper edge of the plot.
        total: Height of the chart.
    """

    legend: float
    x_label: float
    plot: float
    plot_top: float
    total: float


def lay_out(figure: Figure, axes: Axes, frame: Frame) -> None:
    """Place everything from the bottom up: notes, legend, x label, plot, y label, title."""
    names = _legend_names(axes)
    num_columns = _legend_columns(names)
    title_lines = _wrapped_title(frame.title)
    heights = _heights(
        frame,
        num_legend_rows=math.ceil(len(names) / num_columns),
        num_title_lines=len(title_lines),
        has_ticks=axes.axison,
    )
    figure.set_size_inches(
        w=CHART_WIDTH / POINTS_PER_INCH,
        h=heights.total / POINTS_PER_INCH,
    )
    _place_plot(figure, axes, heights)
    if names:
        _add_legend(figure, axes, heights.legend / heights.total, num_columns)
    _write_texts(figure, frame, title_lines, heights)


def _wrapped_title(title: str) -> list[str]:
    lines = textwrap.wrap(one_line(title), _TITLE_WIDTH, max_lines=_TITLE_LINES, placeholder=" …")
    return lines or [""]


def _heights(frame: Frame, num_legend_rows: int, num_title_lines: int, has_ticks: bool) -> _Heights:
    legend = LINE_HEIGHT * len(frame.notes)
    x_label = legend
    if num_legend_rows:
        x_label += LINE_HEIGHT * num_legend_rows + 6
    plot = x_label
    if has_ticks:
        # Room for the tick labels, and for the label under them.
        plot += 38 if frame.x_label else 20
    plot_top = plot + frame.height
    num_lines_above = num_title_lines
    if frame.y_label:
        num_lines_above += 1
    return _Heights(
        legend=legend,
        x_label=x_label,
        plot=plot,
        plot_top=plot_top,
        total=plot_top + 10 + LINE_HEIGHT * num_lines_above,
    )


def _place_plot(figure: Figure, axes: Axes, heights: _Heights) -> None:
    left = _label_ticks(figure, axes)
    width = CHART_WIDTH - left - RIGHT_MARGIN
    height = heights.plot_top - heights.plot
    axes.set_position(
        (
            left / CHART_WIDTH,
            heights.plot / heights.total,
            width / CHART_WIDTH,
            height / heights.total,
        )
    )


def _label_ticks(figure: Figure, axes: Axes) -> float:
    """Write the ticks as tables write numbers.

    Returns:
        The width that the labels of y need on the left.
    """
    _set_ticks(axes.xaxis, 6, only_integers=_is_over_integers(axes))
    _set_ticks(axes.yaxis, 5, only_integers=False)
    # Texts have a size only after they were drawn.
    figure.draw_without_rendering()
    if not axes.axison:
        return 4.0
    widest = 0.0
    for label in axes.get_yticklabels():
        if label.get_text():
            box = label.get_window_extent()
            widest = max(widest, float(box.width))
    return widest + 8 if widest else 4.0


def _is_over_integers(axes: Axes) -> bool:
    """True where every x is an integer, as steps and ranks are: no tick then stands between two."""
    num_values = 0
    for line in axes.lines:
        xs = np.asarray(line.get_xdata(), dtype=float)
        num_values += len(xs)
        if np.any(xs % 1 != 0):
            return False
    return num_values > 0


def _set_ticks(axis: Axis, max_ticks: int, only_integers: bool) -> None:
    if isinstance(axis.get_major_locator(), FixedLocator):
        return
    locator = MaxNLocator(
        max_ticks,
        integer=only_integers,
        min_n_ticks=1,
        steps=[1, 2, 2.5, 5, 10],
    )
    axis.set_major_locator(locator)
    ticks = _visible_ticks(axis)
    axis.set_ticks(ticks, labels=tick_labels(ticks))


def _visible_ticks(axis: Axis) -> list[float]:
    """The ticks within the plot; a locator offers some beyond its edges as well."""
    low, high = sorted(axis.get_view_interval())
    # Of ticks at the edges, which rounding may put outside.
    tolerance = (high - low) * 1e-9
    first = low - tolerance
    last = high + tolerance
    visible = []
    for tick in axis.get_majorticklocs():
        if first <= tick <= last:
            visible.append(tick)
    return visible


def _legend_names(axes: Axes) -> list[str]:
    _, names = axes.get_legend_handles_labels()
    return [name for name in names if name]


def _legend_columns(names: Sequence[str]) -> int:
    """Columns that fit side by side, estimated before anything is drawn."""
    if not names:
        return 1
    widest = max(map(display_width, names))
    # 7.5 units hold the widest letter of this size, 60 the sample of the line and the gaps.
    column_width = 7.5 * widest + 60
    num_fitting = int(CHART_WIDTH // column_width)
    num_columns = min(len(names), num_fitting)
    return max(1, num_columns)


def _add_legend(figure: Figure, axes: Axes, bottom: float, num_columns: int) -> None:
    """Add series first, then the lines that they are compared with."""
    handles, names = axes.get_legend_handles_labels()
    entries = [entry for entry in zip(handles, names, strict=True) if entry[1]]
    entries.sort(key=_is_reference)
    legend = _draw_legend(figure, entries, bottom, num_columns)
    box = legend.get_window_extent()
    if box.width > CHART_WIDTH:
        legend.remove()
        font_size = FONT_SIZE * CHART_WIDTH / box.width
        _draw_legend(figure, entries, bottom, num_columns, font_size)


def _draw_legend(
    figure: Figure,
    entries: Sequence[tuple[Artist, str]],
    bottom: float,
    num_columns: int,
    font_size: float | None = None,
) -> Legend:
    handles, names = zip(*entries, strict=True)
    return figure.legend(
        handles,
        names,
        ncols=num_columns,
        fontsize=font_size,
        columnspacing=1.4,
        loc="lower left",
        bbox_to_anchor=(0, bottom),
        borderaxespad=0,
        borderpad=0.2,
    )


def _is_reference(entry: tuple[Artist, str]) -> bool:
    handle, _ = entry
    # Handles of error bars are containers, which have no gid.
    if not hasattr(handle, "get_gid"):
        return False
    gid = handle.get_gid()
    return gid == REFERENCE_GID


def _write_texts(
    figure: Figure, frame: Frame, title_lines: Sequence[str], heights: _Heights
) -> None:
    write = partial(_write, figure, heights.total)
    for row, note in enumerate(reversed(frame.notes)):
        write(0, LINE_HEIGHT * row + 5, note, color=WARNING_RED)
    write(
        x=0,
        y=heights.plot_top + 13,
        text=frame.y_label,
        color=GREY,
    )
    write(
        x=_RIGHT_EDGE,
        y=heights.x_label + 6,
        text=frame.x_label,
        color=GREY,
        ha="right",
    )
    for row, line in enumerate(title_lines, start=1):
        y = heights.total - LINE_HEIGHT * row + 4
        write(0, y, line, weight="bold", size=13)


def _write(
    figure: Figure, total_height: float, x: float, y: float, text: str, **style: Any
) -> None:
    # A figure's own coordinates are shares of its width and height.
    drawn = figure.text(
        x=x / CHART_WIDTH,
        y=y / total_height,
        s=one_line(text),
        **style,
    )
    shrink_to_fit(drawn, _RIGHT_EDGE)


def shrink_to_fit(text: Text, max_width: float) -> None:
    """Make a text small enough for its room."""
    box = text.get_window_extent()
    if box.width > max_width:
        font_size = float(text.get_fontsize())
        text.set_fontsize(font_size * max_width / box.width)
