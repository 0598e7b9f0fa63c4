"""SVG text: what matplotlib writes made fit to stand in a page, and charts beside each other."""

import hashlib
import re
from collections.abc import Sequence
from html import escape

from dynamicpo.reports.charts.style import CHART_WIDTH, FONT_STACK

_GAP = 24
_FULL_WIDTH = 'width="100%"'
_HEIGHT = re.compile(r'viewBox="\S+ \S+ \S+ (\S+)"')


def inline_svg(file_text: str, label: str) -> str:
    """The SVG as a part of a page: it scales, and shares neither style nor ids with other charts.

    Args:
        file_text: The file that matplotlib writes.
        label: Name of the chart for screen readers.
    """
    view_box = re.search(r'viewBox="[^"]*"', file_text)
    body = _without_page_style(file_text)
    body = _with_unique_ids(body)
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    size = view_box[0] if view_box else ""
    return (
        f'<svg {namespaces} {_FULL_WIDTH} role="img" '
        f'{size} aria-label="{escape(label)}" font-family="{FONT_STACK}" '
        f'style="stroke-linejoin: round; stroke-linecap: butt">{body.strip()}\n'
    )


def _without_page_style(file_text: str) -> str:
    # matplotlib's first definition is a style for all elements of the page around the chart.
    style_end = file_text.index("</defs>") + len("</defs>")
    body = file_text[style_end:]
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    # A rotation by minus zero, which matplotlib writes for every text that stands upright.
    body = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", body)
    return re.sub(r"\s*\n\s*", "\n", body)


def _with_unique_ids(body: str) -> str:
    # By content and not counted, so that a chart's bytes don't depend on those drawn before.
    digest = hashlib.sha256(body.encode()).hexdigest()
    prefix = f"c{digest[:8]}"
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}", body)


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
        heights = [_chart_height(chart) for chart in row]
        for column, chart in enumerate(row):
            parts.append(_placed(chart, column, top, heights[column]))
        top += max(heights) + _GAP
    width = num_columns * (CHART_WIDTH + _GAP) + _GAP
    size = f'width="{width}" height="{top:g}" viewBox="0 0 {width} {top:g}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([opening, background, *parts, "</svg>\n"])


def _chart_height(chart: str) -> float:
    heights = _HEIGHT.findall(chart)
    return float(heights[0])


def _placed(chart: str, column: int, top: float, height: float) -> str:
    left = _GAP + column * (CHART_WIDTH + _GAP)
    position = f'x="{left}" y="{top:g}" width="{CHART_WIDTH}" height="{height:g}"'
    return chart.replace(_FULL_WIDTH, position, 1)
