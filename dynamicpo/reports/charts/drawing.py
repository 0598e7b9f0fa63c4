"""The way from matplotlib's axes to an inline SVG."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from dynamicpo.reports.charts.layout import Frame, lay_out
from dynamicpo.reports.charts.style import (
    CHART_WIDTH,
    GREY,
    MATPLOTLIB_SETTINGS,
    POINTS_PER_INCH,
)
from dynamicpo.reports.charts.svg import inline_svg
from dynamicpo.reports.labels import one_line

# The date would change the bytes, and the rest names addresses outside of the page.
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def draw_chart(paint: Callable[[Axes], None], frame: Frame) -> str:
    """An inline SVG of what `paint` puts on its axes."""
    with _matplotlib_settings():
        # The height is set by `lay_out`, when it is known what stands around the plot.
        width_inches = CHART_WIDTH / POINTS_PER_INCH
        figure = Figure(figsize=(width_inches, 4), dpi=POINTS_PER_INCH)
        axes = figure.add_axes((0, 0, 1, 1))
        paint(axes)
        if not axes.has_data():
            frame = _paint_nothing(axes, frame)
        lay_out(figure, axes, frame)
        file_text = _svg_file(figure)
    return inline_svg(file_text, one_line(frame.title))


@contextmanager
def _matplotlib_settings() -> Iterator[None]:
    """Settings of all charts, whatever the caller has set; restored at the end."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Of a glyph that the measuring font lacks: the reader's font may have it.
        warnings.simplefilter("ignore", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(MATPLOTLIB_SETTINGS)
        yield


def _paint_nothing(axes: Axes, frame: Frame) -> Frame:
    axes.set_axis_off()
    axes.text(
        x=0,
        y=0.5,
        s="Nothing to show.",
        va="center",
        color=GREY,
        # Shares of the plot, for there are no data to give positions a meaning.
        transform=axes.transAxes,
    )
    return frame._replace(height=40, x_label="", y_label="")


def _svg_file(figure: Figure) -> str:
    # By the canvas and not by pyplot, which would choose a backend and keep every figure.
    canvas = FigureCanvasSVG(figure)
    target = io.StringIO()
    canvas.print_svg(target, metadata=_NO_METADATA)
    return target.getvalue()
