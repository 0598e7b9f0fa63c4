"""The look of all charts: sizes, colours, line patterns and matplotlib's settings."""

from typing import Final

# Units of the SVG, which matplotlib calls points: a chart scales with the page around it.
# About as wide as pages show a chart, so that its text is nearly as large as theirs.
CHART_WIDTH: Final = 400
RIGHT_MARGIN: Final = 14
LINE_HEIGHT: Final = 18
POINTS_PER_INCH: Final = 72
FONT_SIZE: Final = 11

INK = "#1f2328"
GREY = "#59636e"
GRID_GREY = "#e3e6ea"
WARNING_RED = "#b42318"

FONT_STACK = (
    "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
)

# Okabe and Ito's colours and a pale tint of each; their yellow is too pale on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
TINTS = ("#a6cfe6", "#f3c6a6", "#a6dccf", "#ecd0e0", "#bfbfbf", "#f7dda6", "#c8e5f7")

# Patterns tell series apart for readers who see no colours. Their numbers differ from that of the
# colours, so that a series which repeats a colour still has another pattern.
DashPattern = str | tuple[float, tuple[float, ...]]
_DASHED: DashPattern = (0, (5, 1.6))
_DOTTED: DashPattern = (0, (1.2, 1.4))
_DASH_DOT: DashPattern = (0, (7, 1.6, 1.2, 1.6))
_LONG_DASHES: DashPattern = (0, (9, 3))
_DASH_DOT_DOT: DashPattern = (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2))
DASHES = ("-", _DASHED, _DOTTED, _DASH_DOT, _LONG_DASHES, _DASH_DOT_DOT)
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*")
HATCHES = ("", "//", "\\\\", "xx", "--", "||", "//", "++")

# Colour and dashes of horizontal lines that series are compared with.
_FINE_DOTS: DashPattern = (0, (1, 2))
_FINE_DASH_DOT: DashPattern = (0, (4, 2, 1, 2))
_WIDE_DASHES: DashPattern = (0, (8, 4))
REFERENCE_LINES = ((GREY, _FINE_DOTS), ("#8c959f", _FINE_DASH_DOT), (INK, _WIDE_DASHES))

_Settings = dict[str, str | float]
_TEXT: _Settings = {
    # Text stays text: it can be selected, searched and read aloud.
    "svg.fonttype": "none",
    # Ids are random without a salt, and the same chart would have other bytes each time.
    "svg.hashsalt": "dynamicpo",
    # A name with two dollar signs is no formula.
    "text.parse_math": False,
    # Comes with matplotlib and is the widest of the stack: what fits in it fits in the others.
    "font.family": "DejaVu Sans",
    "font.size": FONT_SIZE,
    "text.color": INK,
}
_AXES: _Settings = {
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    # The grid behind the series.
    "axes.axisbelow": True,
    "grid.color": GRID_GREY,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
_SERIES: _Settings = {
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": FONT_SIZE,
    # Long enough to show the longest dash pattern.
    "legend.handlelength": 3.2,
}
MATPLOTLIB_SETTINGS = _TEXT | _AXES | _SERIES
