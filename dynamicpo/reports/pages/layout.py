"""The one layout of all pages: headline, warnings, sections with tables and charts, facts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from dynamicpo.reports.charts.numbers import number
from dynamicpo.reports.pages.tables import Table


@dataclass(frozen=True)
class Figure:
    """A chart and the one sentence that explains it to somebody who does not know the paper."""

    svg: str
    caption: str = ""

    @property
    def markup(self) -> Markup:
        """The chart as it stands in a page; charts escape their own texts."""
        return Markup(self.svg)


@dataclass(frozen=True)
class Section:
    """A part of a page; what is empty is left out.

    Attributes:
        heading: Its title.
        text: One paragraph.
        table: Under the paragraph.
        figures: Under the table, side by side where there is room.
        note: Small print at the end.
    """

    heading: str
    text: str = ""
    table: Table | None = None
    figures: Sequence[Figure] = field(default=())
    note: str = ""


def page(
    title: str,
    headline: Sequence[str],
    sections: Sequence[Section],
    facts: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> str:
    """A self-contained HTML page.

    Args:
        title: What it is about.
        headline: What happened, in one sentence; more sentences follow in plain print.
        sections: From what matters most to what matters least.
        facts: Configuration, protocol, seeds, fingerprints; may be nested. Shown folded, at the end.
        warnings: Red lines, above everything else.
    """
    rows = [(name, fact(value)) for name, value in _flat(facts)]
    return _template().render(
        title=title, headline=headline, sections=sections, facts=rows, warnings=warnings
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("dynamicpo.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html")


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def fact(value: Any) -> str:
    """A setting as a reader sees it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "" or value == {} or value == []:
        return "–"
    if isinstance(value, float):
        return number(value) if value != value or not value.is_integer() else f"{value:,.0f}"
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
