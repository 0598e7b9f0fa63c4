"""One look for all charts: what stands around a plot, and the way from matplotlib to an inline SVG."""

import hashlib
import io
import re
import textwrap
import warnings
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from dynamicpo.reports.charts.numbers import columns, one_line, tick_labels

WIDTH, RIGHT = 400, 14
INK, GREY, GRID, RED = "#1f2328", "#59636e", "#e3e6ea", "#b42318"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
_LINE = 18
_GAP = 24
_Text = tuple[float, float, str, dict[str, Any]]
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dynamicpo",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib and is the widest of the stack: what fits in it fits
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "legend.handlelength": 3.2,
}


class Frame(NamedTuple):
    """What stands around a plot.

    Attributes:
        title: Its title.
        y_label: The unit, under the title.
        x_label: What runs along x, under the plot.
        height: Of the plot itself.
        notes: Red lines at the bottom.
    """

    title: str
    y_label: str = ""
    x_label: str = ""
    height: float = 190
    notes: Sequence[str] = ()


def draw(paint: Callable[[Any], None], frame: Frame) -> str:
    """An inline SVG of what `paint` puts on its axes."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that the measuring font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        figure = Figure(figsize=(WIDTH / 72, 4), dpi=72)
        axes = figure.add_axes((0, 0, 1, 1))
        paint(axes)
        if not axes.has_data():
            axes.set_axis_off()
            axes.text(0, 0.5, "Nothing to show.", transform=axes.transAxes, va="center", color=GREY)
            frame = frame._replace(height=40, x_label="", y_label="")
        _lay_out(figure, axes, frame)
        target = io.StringIO()
        FigureCanvasSVG(figure).print_svg(
            target, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return _inline(target.getvalue(), one_line(frame.title))


def beside(charts: Sequence[str], across: int) -> str:
    """Charts in rows as one SVG file that stands alone: on white, whatever is around it.

    Args:
        charts: Inline SVGs of this package, row by row.
        across: How many stand in a row.
    """
    heights = [float(re.findall(r'viewBox="\S+ \S+ \S+ (\S+)"', chart)[0]) for chart in charts]
    parts, top = [], float(_GAP)
    for start in range(0, len(charts), across):
        for place, chart in enumerate(charts[start : start + across]):
            size = f'x="{_GAP + place * (WIDTH + _GAP)}" y="{top:g}" width="{WIDTH}" height="{heights[start + place]:g}"'
            parts.append(chart.replace('width="100%"', size, 1))
        top += max(heights[start : start + across]) + _GAP
    box = f'width="{across * (WIDTH + _GAP) + _GAP}" height="{top:g}"'
    front = f'<svg xmlns="http://www.w3.org/2000/svg" {box} viewBox="0 0 {across * (WIDTH + _GAP) + _GAP} {top:g}">'
    return "\n".join(
        [front, '<rect width="100%" height="100%" fill="#ffffff"/>', *parts, "</svg>\n"]
    )


def shrink(text: Any, room: float) -> None:
    """Make a text small enough for its room."""
    width = text.get_window_extent().width
    if width > room:
        text.set_fontsize(text.get_fontsize() * room / width)


def _lay_out(figure: Any, axes: Any, frame: Frame) -> None:
    """Place everything in units of the SVG, from the bottom up: notes, legend, x label, plot, y label, title."""
    names = [name for name in axes.get_legend_handles_labels()[1] if name]
    across = max(1, min(len(names), int(WIDTH // (7.5 * max(map(columns, names), default=1) + 60))))
    title = textwrap.wrap(one_line(frame.title), 46, max_lines=3, placeholder=" …") or [""]
    notes = _LINE * len(frame.notes)
    below = notes + (_LINE * -(-len(names) // across) + 6 if names else 0)
    bottom = below + (38 if frame.x_label else 20) * axes.axison
    top = bottom + frame.height
    height = top + 10 + _LINE * (bool(frame.y_label) + len(title))
    figure.set_size_inches(WIDTH / 72, height / 72)
    left = _label_ticks(figure, axes)
    axes.set_position(
        (left / WIDTH, bottom / height, (WIDTH - left - RIGHT) / WIDTH, frame.height / height)
    )
    if names:
        _legend(figure, axes, notes / height, across)
    texts: list[_Text] = [
        (0, _LINE * row + 5, note, {"color": RED}) for row, note in enumerate(reversed(frame.notes))
    ]
    texts += [(0, top + 13, frame.y_label, {"color": GREY})]
    texts += [(WIDTH - RIGHT, below + 6, frame.x_label, {"color": GREY, "ha": "right"})]
    bold: dict[str, Any] = {"weight": "bold", "size": 13}
    texts += [(0, height - _LINE * (row + 1) + 4, text, bold) for row, text in enumerate(title)]
    for x, y, text, look in texts:
        shrink(figure.text(x / WIDTH, y / height, one_line(text), **look), WIDTH - RIGHT)


def _legend(figure: Any, axes: Any, bottom: float, across: int) -> None:
    """Lines first, then what they are compared with."""
    entries = [entry for entry in zip(*axes.get_legend_handles_labels(), strict=True) if entry[1]]
    entries.sort(key=lambda entry: getattr(entry[0], "get_gid", lambda: None)() == "reference")
    handles, names = zip(*entries, strict=True)
    place = {
        "loc": "lower left",
        "bbox_to_anchor": (0, bottom),
        "borderaxespad": 0,
        "borderpad": 0.2,
    }
    legend = figure.legend(handles, names, ncols=across, columnspacing=1.4, **place)
    width = legend.get_window_extent().width
    if width > WIDTH:
        legend.remove()
        figure.legend(
            handles, names, ncols=across, columnspacing=1.4, fontsize=11 * WIDTH / width, **place
        )


def _label_ticks(figure: Any, axes: Any) -> float:
    """Write the ticks our way. Returns the room that y's labels need on the left."""
    lines = [value for line in axes.lines for value in line.get_xdata()]
    whole = bool(lines) and all(float(value).is_integer() for value in lines)
    for axis, many, integer in ((axes.xaxis, 6, whole), (axes.yaxis, 5, False)):
        if not isinstance(axis.get_major_locator(), FixedLocator):
            axis.set_major_locator(
                MaxNLocator(many, integer=integer, min_n_ticks=1, steps=[1, 2, 2.5, 5, 10])
            )
            low, high = sorted(axis.get_view_interval())
            room = (high - low) * 1e-9
            ticks = [tick for tick in axis.get_majorticklocs() if low - room <= tick <= high + room]
            axis.set_ticks(ticks, labels=tick_labels(ticks))
    figure.draw_without_rendering()
    widths = [
        label.get_window_extent().width for label in axes.get_yticklabels() if label.get_text()
    ]
    return float(max(widths) + 8) if widths and axes.axison else 4.0


def _inline(svg: str, label: str) -> str:
    """Make the file a part of a page: it scales, has one font for all text and no id that another chart has too."""
    size = re.search(r'viewBox="[^"]*"', svg)
    body = svg[
        svg.index("</defs>") + len("</defs>") :
    ]  # the first definition is a style for the whole page
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    key = "c" + hashlib.sha256(body.encode()).hexdigest()[:8]
    body = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{key}", body)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="100%" role="img" '
        f'{size[0] if size else ""} aria-label="{escape(label)}" font-family="{_FONT}" '
        f'style="stroke-linejoin: round; stroke-linecap: butt">{body.strip()}\n'
    )
