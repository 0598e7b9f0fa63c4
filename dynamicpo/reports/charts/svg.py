"""SVG text: what matplotlib writes made fit to stand in a page, and charts beside each other."""

import hashlib
import re
from collections.abc import Sequence
from html import escape

from dynamicpo.reports.charts.style import CHART_WIDTH, FONT_STACK

_GAP = 24
_COLUMN_WIDTH = CHART_WIDTH + _GAP
_FULL_WIDTH = 'width="100%"'
_VIEW_BOX = re.compile(r'viewBox="[^"]*"')
_GROUP_ID = re.compile(r'<g id="[^"]*"')
_FONT_FAMILY = re.compile(r" font-family: [^;\"]*;?")
# A rotation by minus zero, which matplotlib writes for every text that stands upright.
_NO_ROTATION = re.compile(r' transform="rotate\(-0 [^"]*\)"')
_LINE_BREAK = re.compile(r"\s*\n\s*")
# Ids, and the two ways in which an SVG refers to them.
_ID_STARTS = re.compile(r'( id="|url\(#|href="#)')
# The last of a view box's four numbers.
_HEIGHT = re.compile(r'viewBox="\S+ \S+ \S+ (\S+)"')


def inline_svg(file_text: str, label: str) -> str:
    """The SVG as a part of a page: it scales, and shares neither style nor ids with other charts.

    Args:
        file_text: The file that matplotlib writes.
        label: Name of the chart for screen readers.
    """
    view_box = _VIEW_BOX.search(file_text)
    body = _without_page_style(file_text)
    body = _with_unique_ids(body)
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    size = view_box[0] if view_box else ""
    # The role makes it one picture with a name to screen readers. The style stands for the
    # definition that was dropped.
    return (
        f'<svg {namespaces} {_FULL_WIDTH} role="img" '
        f'{size} aria-label="{escape(label)}" font-family="{FONT_STACK}" '
        f'style="stroke-linejoin: round; stroke-linecap: butt">{body.strip()}\n'
    )


def _without_page_style(file_text: str) -> str:
    # matplotlib's first definition is a style for all elements of the page around the chart.
    _, _, body = file_text.partition("</defs>")
    body = _GROUP_ID.sub("<g", body)
    body = _FONT_FAMILY.sub("", body)
    body = _NO_ROTATION.sub("", body)
    return _LINE_BREAK.sub("\n", body)


def _with_unique_ids(body: str) -> str:
    # By content and not counted, so that a chart's bytes don't depend on those drawn before.
    content = body.encode()
    digest = hashlib.sha256(content).hexdigest()
    prefix = f"c{digest[:8]}"
    with_prefix = rf"\g<1>{prefix}"
    return _ID_STARTS.sub(with_prefix, body)


def chart_grid(charts: Sequence[str], num_columns: int) -> str:
    """Charts in rows as one SVG file that stands alone: on white, whatever is around it.

    Args:
        charts: Inline SVGs of this package, row by row.
        num_columns: Charts in a row.
    """
    parts: list[str] = []
    top = float(_GAP)
    for start in range(0, len(charts), num_columns):
        row = charts[start : start + num_columns]
        left = _GAP
        for chart in row:
            parts.append(_placed(chart, left, top))
            left += _COLUMN_WIDTH
        row_height = max(map(_chart_height, row))
        top += row_height + _GAP
    width = num_columns * _COLUMN_WIDTH + _GAP
    return _svg_on_white(parts, width, top)


def _svg_on_white(parts: Sequence[str], width: float, height: float) -> str:
    attributes = (
        'xmlns="http://www.w3.org/2000/svg"',
        f'width="{width:g}"',
        f'height="{height:g}"',
        f'viewBox="0 0 {width:g} {height:g}"',
    )
    opening = f"<svg {' '.join(attributes)}>"
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    lines = [opening, background, *parts, "</svg>"]
    return "\n".join(lines) + "\n"


def _chart_height(chart: str) -> float:
    heights = _HEIGHT.findall(chart)
    return float(heights[0])


def _placed(chart: str, left: float, top: float) -> str:
    height = _chart_height(chart)
    attributes = (
        f'x="{left:g}"',
        f'y="{top:g}"',
        f'width="{CHART_WIDTH}"',
        f'height="{height:g}"',
    )
    position = " ".join(attributes)
    return chart.replace(_FULL_WIDTH, position, 1)
