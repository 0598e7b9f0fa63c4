"""Charts as inline SVG: the same input gives the same bytes, on any machine.

Every series keeps one colour, line style, marker and hatch by its place in the mapping, so that runs
look alike in all charts of a page and can be told apart without colour. All charts are drawn
400 units wide: the page decides how many stand side by side.
"""

from dynamicpo.charts.drawing import beside
from dynamicpo.charts.numbers import interval, number, short_names
from dynamicpo.charts.plots import (
    Estimate,
    bars_with_intervals,
    curves,
    histogram,
    rank_curves,
    rank_groups,
    rank_histogram,
    scaling,
)

__all__ = [
    "Estimate",
    "bars_with_intervals",
    "beside",
    "curves",
    "histogram",
    "interval",
    "number",
    "rank_curves",
    "rank_groups",
    "rank_histogram",
    "scaling",
    "short_names",
]
