"""Lines: a measure over steps, or against the number of negatives."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

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
# Groups of about 3 units are as fine as a reader sees; pages of many lines would grow large.
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
    names = short_names(list(series))
    if len(names) == 1:
        # A line that is alone is named by the title.
        names = [""]
    lines = [_Line.of(x, y) for x, y in series.values()]
    num_drawn = sum(line.has_values for line in lines)

    def paint(axes: Axes) -> None:
        for index, line in enumerate(lines):
            if line.has_values:
                style = line_style(index, names[index])
                _paint_line_of_means(axes, line, style, has_few_lines=num_drawn <= 2)
        if num_drawn:
            paint_references(axes, references or {})
            # At the end, for a limit of None is where the data then end.
            axes.set_ylim(*y_range)

    notes = _missing_values_notes(lines)
    frame = Frame(title, y_label, x_label, notes=notes)
    return draw_chart(paint, frame)


class _Line(NamedTuple):
    """A series; y is NaN where it can't be drawn. Shapes (number of points,)."""

    x: FloatArray
    y: FloatArray

    @classmethod
    def of(cls, x: Numbers, y: Numbers) -> Self:
        """The line of a user's numbers."""
        return cls(np.asarray(x, dtype=float), finite_or_nan(y))

    @property
    def num_missing(self) -> int:
        """Number of points that can't be drawn."""
        return int(np.isnan(self.y).sum())

    @property
    def has_values(self) -> bool:
        """True where at least one point can be drawn."""
        return self.num_missing < len(self.y)


class _GroupMeans(NamedTuple):
    """Means of neighbouring points, with the lowest and the highest. Shapes (groups,)."""

    x: FloatArray
    y: FloatArray
    low: FloatArray
    high: FloatArray


def _missing_values_notes(lines: Sequence[_Line]) -> list[str]:
    num_missing = sum(line.num_missing for line in lines)
    if num_missing == 0:
        return []
    values = "value is" if num_missing == 1 else "values are"
    return [f"{num_missing} {values} NaN or infinite and not drawn."]


def _paint_line_of_means(axes: Axes, line: _Line, style: LineStyle, has_few_lines: bool) -> None:
    max_groups = _GROUPS_OF_FEW_LINES if has_few_lines else _GROUPS_OF_MANY_LINES
    means = _group_means(line, max_groups)
    num_groups = len(means.x)
    is_grouped = len(line.x) > num_groups
    if has_few_lines and is_grouped:
        axes.fill_between(
            means.x,
            means.low,
            means.high,
            color=style["color"],
            alpha=0.16,
            linewidth=0,
        )
    marker_spacing = _marker_spacing(num_groups, style)
    axes.plot(means.x, means.y, **style, markevery=marker_spacing)


def _group_means(line: _Line, max_groups: int) -> _GroupMeans:
    num_groups = min(len(line.x), max_groups)
    xs = np.array_split(line.x, num_groups)
    ys = np.array_split(line.y, num_groups)
    with warnings.catch_warnings():
        # Of a group of NaN alone: its mean is NaN, which leaves a gap in the line.
        warnings.simplefilter("ignore", RuntimeWarning)
        return _GroupMeans(
            x=_each(np.mean, xs),
            y=_each(np.nanmean, ys),
            low=_each(np.nanmin, ys),
            high=_each(np.nanmax, ys),
        )


def _each(summary: Callable[[FloatArray], float], groups: Sequence[FloatArray]) -> FloatArray:
    return np.array([summary(group) for group in groups])


def _marker_spacing(num_points: int, style: LineStyle) -> tuple[float, float] | None:
    """Start and distance of markers as shares of the line; None for a marker at each point."""
    if num_points <= _MAX_MARKED_POINTS:
        return None
    # Lines that lie on each other still show each its own marker.
    index = MARKERS.index(style["marker"])
    start = 0.04 * (index % 4)
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
    lines = [_drawable_points(points) for points in series.values()]
    ks = _all_ks(lines)

    def paint(axes: Axes) -> None:
        if not ks:
            return
        # Lines are shifted a little, so that their intervals stand side by side.
        shift = 0.006 * (ks[-1] - ks[0])
        middle = (len(names) - 1) / 2
        for index, points in enumerate(lines):
            style = line_style(index, names[index])
            _paint_points(axes, points, shift * (index - middle), style)
        paint_references(axes, with_values_in_names(references))
        axes.set_xticks(ks, [f"{k:g}" for k in ks])
        axes.set_ylim(*y_range)

    frame = Frame(title, y_label, x_label)
    return draw_chart(paint, frame)


def _all_ks(lines: Sequence[FloatArray]) -> list[float]:
    ks: set[float] = set()
    for points in lines:
        ks.update(points[:, 0].tolist())
    return sorted(ks)


def _drawable_points(points: Sequence[ScalingPoint]) -> FloatArray:
    """The points that have a finite value. Shape (number of points, 4)."""
    # The shape of no points as well.
    array = np.array(points, dtype=float).reshape(-1, 4)
    values = finite_or_nan(array[:, 1])
    is_drawable = np.isfinite(values)
    return array[is_drawable]


def _paint_points(axes: Axes, points: FloatArray, shift: float, style: LineStyle) -> None:
    if not len(points):
        return
    ks, values, lows, highs = points.T
    # matplotlib takes distances from the value; one of 0 draws no interval.
    bounds = np.stack([lows, highs])
    distances = np.abs(bounds - values)
    axes.errorbar(
        ks + shift,
        values,
        np.nan_to_num(distances),
        capsize=2.5,
        elinewidth=1,
        **style,
    )
