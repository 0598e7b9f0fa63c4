"""Lines: a measure over steps, or against the number of negatives."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from dynamicpo.core.arrays import FloatArray
from dynamicpo.reports.charts.drawing import draw_chart
from dynamicpo.reports.charts.layout import Frame
from dynamicpo.reports.charts.series import (
    NO_RANGE,
    AxisRange,
    LineStyle,
    Numbers,
    finite_or_nan,
    line_style,
    paint_references,
    with_values_in_names,
)
from dynamicpo.reports.charts.style import MARKERS
from dynamicpo.reports.labels import short_names

# K, mean, lower and upper bound of an interval; NaN bounds for none.
ScalingPoint = tuple[float, float, float, float]
_GROUPS_OF_FEW_LINES = 120
_GROUPS_OF_MANY_LINES = 60
_MAX_MARKED_POINTS = 12


def curves(
    series: Mapping[str, tuple[Numbers, Numbers]],
    title: str,
    y_label: str = "",
    x_label: str = "step",
    y_range: AxisRange = NO_RANGE,
    references: Mapping[str, float] | None = None,
) -> str:
    """Lines over steps; several runs are overlaid.

    A long run is drawn as means of groups of neighbouring steps (120 groups with a band from the
    lowest to the highest value for one or two lines, else 60). Values that are NaN or infinite are
    left out, and counted below.

    Args:
        series: x and y of each line. An empty one is not drawn but keeps its colour to itself.
        title: Title of the chart.
        y_label: The unit, written under the title.
        x_label: The quantity along x.
        y_range: Limits of y, None for the data's own.
        references: Horizontal lines to compare with.
    """
    xs = [np.asarray(x, dtype=float) for x, _ in series.values()]
    ys = [finite_or_nan(y) for _, y in series.values()]
    is_drawn = [not np.isnan(y).all() for y in ys]
    has_few_lines = sum(is_drawn) <= 2
    # A line that is alone is named by the title.
    names = short_names(list(series)) if len(series) > 1 else [""] * len(series)

    def paint(axes: Axes) -> None:
        for index, name in enumerate(names):
            if is_drawn[index]:
                style = line_style(index, name)
                _paint_line_of_means(axes, xs[index], ys[index], style, has_few_lines)
        if any(is_drawn):
            paint_references(axes, references or {})
            axes.set_ylim(*y_range)

    return draw_chart(paint, Frame(title, y_label, x_label, notes=_missing_values_note(ys)))


def _missing_values_note(ys: Sequence[FloatArray]) -> list[str]:
    num_missing = sum(int(np.isnan(y).sum()) for y in ys)
    if not num_missing:
        return []
    values = "value is" if num_missing == 1 else "values are"
    return [f"{num_missing} {values} NaN or infinite and not drawn."]


def _paint_line_of_means(
    axes: Axes, x: FloatArray, y: FloatArray, style: LineStyle, has_few_lines: bool
) -> None:
    max_groups = _GROUPS_OF_FEW_LINES if has_few_lines else _GROUPS_OF_MANY_LINES
    num_groups = min(len(y), max_groups)
    groups = np.array_split(np.arange(len(y)), num_groups)
    centres = np.array([np.mean(x[group]) for group in groups])
    with warnings.catch_warnings():
        # Of a group of NaN alone: its mean is NaN, which leaves a gap in the line.
        warnings.simplefilter("ignore", RuntimeWarning)
        means = np.array([np.nanmean(y[group]) for group in groups])
        lows = np.array([np.nanmin(y[group]) for group in groups])
        highs = np.array([np.nanmax(y[group]) for group in groups])
    is_grouped = len(y) > num_groups
    if has_few_lines and is_grouped:
        axes.fill_between(centres, lows, highs, color=style["color"], alpha=0.16, linewidth=0)
    axes.plot(centres, means, **style, markevery=_marker_spacing(num_groups, style))


def _marker_spacing(num_points: int, style: LineStyle) -> tuple[float, float] | None:
    """Start and distance of markers as shares of the line; None for a marker at each point."""
    if num_points <= _MAX_MARKED_POINTS:
        return None
    # Lines that lie on each other still show each its own marker.
    start = 0.04 * (MARKERS.index(style["marker"]) % 4)
    return start, 0.2


def scaling(
    series: Mapping[str, Sequence[ScalingPoint]],
    title: str,
    y_label: str = "",
    x_label: str = "number of negatives K",
    references: Mapping[str, float] | None = None,
    y_range: AxisRange = NO_RANGE,
) -> str:
    """A measure against K: one line for each name, with intervals.

    Args:
        series: Points (K, value, low, high) of each line; NaN bounds for no interval.
        title: Title of the chart.
        y_label: The unit.
        x_label: The quantity along x.
        references: Horizontal lines to compare with, such as the model before training.
        y_range: Limits of y, None for the data's own.
    """
    names = short_names(list(series))
    point_arrays = [_drawable_points(points) for points in series.values()]
    ks = sorted({float(k) for points in point_arrays for k in points[:, 0]})

    def paint(axes: Axes) -> None:
        if not ks:
            return
        # Lines are shifted a little, so that their intervals stand side by side.
        shift = 0.006 * (ks[-1] - ks[0])
        middle = (len(names) - 1) / 2
        for index, points in enumerate(point_arrays):
            style = line_style(index, names[index])
            _paint_points(axes, points, shift * (index - middle), style)
        paint_references(axes, with_values_in_names(references))
        axes.set_xticks(ks, [f"{k:g}" for k in ks])
        axes.set_ylim(*y_range)

    return draw_chart(paint, Frame(title, y_label, x_label))


def _drawable_points(points: Sequence[ScalingPoint]) -> FloatArray:
    """The points that have a finite value. Shape (number of points, 4)."""
    array = np.asarray(points, dtype=float).reshape(-1, 4)
    values = finite_or_nan(array[:, 1])
    return array[np.isfinite(values)]


def _paint_points(axes: Axes, points: FloatArray, shift: float, style: LineStyle) -> None:
    if not len(points):
        return
    ks, values, lows, highs = points.T
    # matplotlib takes distances from the value; one of 0 draws no interval.
    bounds = np.stack([lows, highs])
    distances = np.nan_to_num(np.abs(bounds - values))
    axes.errorbar(ks + shift, values, distances, **style, capsize=2.5, elinewidth=1)
