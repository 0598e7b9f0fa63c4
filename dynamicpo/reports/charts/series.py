"""Numbers of a series, and the colours and patterns that tell series apart."""

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from matplotlib.axes import Axes

from dynamicpo.core.arrays import FloatArray
from dynamicpo.reports.charts.layout import REFERENCE_GID
from dynamicpo.reports.charts.style import (
    COLOURS,
    DASHES,
    GREY,
    HATCHES,
    MARKERS,
    REFERENCE_LINES,
    TINTS,
    DashPattern,
)
from dynamicpo.reports.labels import short_names
from dynamicpo.reports.number_format import format_number

Numbers = Sequence[float] | FloatArray
# Lower and upper limit of an axis, None for the data's own.
AxisRange = tuple[float | None, float | None]
NO_RANGE: AxisRange = (None, None)

# Beyond it matplotlib's transformations overflow.
_LARGEST = 1e30


class LineStyle(TypedDict):
    """Arguments of matplotlib for a line with markers."""

    color: str
    linestyle: DashPattern
    marker: str
    label: str
    markeredgecolor: str
    markeredgewidth: float


class FillStyle(TypedDict, total=False):
    """Arguments of matplotlib for a bar."""

    facecolor: str
    edgecolor: str
    hatch: str
    linewidth: float


# Bars that belong to no series.
PLAIN_FILL: FillStyle = {"facecolor": "#d0d7de", "edgecolor": GREY, "linewidth": 1}


def finite_or_nan(values: Numbers) -> FloatArray:
    """The values with NaN for those that can't be drawn."""
    array = np.array(values, dtype=float)
    is_drawable = np.abs(array) < _LARGEST
    array[~is_drawable] = np.nan
    return array


def line_style(index: int, name: str) -> LineStyle:
    """Colour, dashes and marker of the series of an index."""
    colour = COLOURS[index % len(COLOURS)]
    dashes = DASHES[index % len(DASHES)]
    marker = MARKERS[index % len(MARKERS)]
    return {
        "color": colour,
        "linestyle": dashes,
        "marker": marker,
        "label": name,
        # Separates a marker from the line under it.
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
    }


def fill_style(index: int) -> FillStyle:
    """Tint, edge and hatch of the series of an index."""
    return {
        "facecolor": TINTS[index % len(TINTS)],
        "edgecolor": COLOURS[index % len(COLOURS)],
        "hatch": HATCHES[index % len(HATCHES)],
        "linewidth": 1,
    }


def paint_references(axes: Axes, references: Mapping[str, float]) -> None:
    """Draw horizontal lines to compare with."""
    names = short_names(list(references))
    for index, value in enumerate(references.values()):
        if not math.isfinite(value):
            continue
        colour, dashes = REFERENCE_LINES[index % len(REFERENCE_LINES)]
        axes.axhline(
            value,
            color=colour,
            linestyle=dashes,
            linewidth=1.2,
            zorder=1,
            gid=REFERENCE_GID,
            label=names[index],
        )


def with_values_in_names(references: Mapping[str, float] | None) -> dict[str, float]:
    """The references under names that say their values, such as `chance .050`."""
    references = references or {}
    return {f"{name} {format_number(value)}": value for name, value in references.items()}
