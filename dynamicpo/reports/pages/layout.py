"""The layout of all pages: headline, warnings, sections with tables and charts, details."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from dynamicpo.core.json_values import JsonValue
from dynamicpo.reports.number_format import format_number
from dynamicpo.reports.pages.tables import ReportTable

_EMPTY_VALUES: tuple[JsonValue, ...] = ("", {}, [])


@dataclass(frozen=True)
class CaptionedChart:
    """A chart, and the one sentence that explains it to somebody who does not know the paper."""

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
        charts: Under the table, side by side where there is room.
        note: Small print at the end.
    """

    heading: str
    text: str = ""
    table: ReportTable | None = None
    charts: Sequence[CaptionedChart] = field(default=())
    note: str = ""


def page(
    title: str,
    headline: Sequence[str],
    sections: Sequence[Section],
    details: Mapping[str, JsonValue],
    warnings: Sequence[str] = (),
) -> str:
    """A self-contained HTML page.

    Args:
        title: Subject of the page.
        headline: The result in one sentence; more sentences follow in plain print.
        sections: From what matters most to what matters least.
        details: Configuration, protocol, seeds, fingerprints; may be nested. Shown folded, at the
            end.
        warnings: Set off in red, above everything else.
    """
    return template("page.html").render(
        title=title,
        headline=headline,
        sections=sections,
        details=_detail_rows(details),
        warnings=warnings,
    )


@cache
def template(name: str) -> Template:
    """A template of this package; every text that it prints is escaped."""
    environment = Environment(
        loader=PackageLoader("dynamicpo.reports"),
        autoescape=True,
        # A misspelt name is an error and not an empty text.
        undefined=StrictUndefined,
        # Tags on lines of their own leave no empty lines behind.
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def _detail_rows(details: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
    return [(name, setting_text(value)) for name, value in _flat_settings(details)]


def _flat_settings(
    settings: Mapping[str, JsonValue], prefix: str = ""
) -> Iterator[tuple[str, JsonValue]]:
    """Settings under dotted names, such as `config.beta`."""
    for name, value in settings.items():
        full_name = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            nested_prefix = f"{full_name}."
            yield from _flat_settings(value, nested_prefix)
        else:
            yield full_name, value


def setting_text(value: JsonValue) -> str:
    """A setting as a reader sees it."""
    if value is None or value in _EMPTY_VALUES:
        return "–"
    # Before the numbers, for bool is a kind of int.
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, list | tuple | dict):
        # Details may hold paths, which JSON has no form for.
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _float_text(value: float) -> str:
    if value.is_integer():
        return f"{value:,.0f}"
    return format_number(value)


def protocol_text(details: Mapping[str, JsonValue]) -> str:
    """One sentence with the protocol of an evaluation, where the details hold it."""
    protocol = details.get("protocol")
    if not isinstance(protocol, Mapping):
        return ""
    settings = []
    for name, value in protocol.items():
        settings.append(f"{name} {setting_text(value)}")
    return f"Protocol: {', '.join(settings)}."


def weights_text(details: Mapping[str, JsonValue]) -> str:
    """One sentence with the weights that each model has of its training, where they are known."""
    rules = details.get("weights")
    if not isinstance(rules, Mapping) or not rules:
        return ""
    names_by_rule: dict[str, list[str]] = {}
    for name, rule in rules.items():
        names = names_by_rule.setdefault(str(rule), [])
        names.append(name)
    parts = []
    for rule, names in names_by_rule.items():
        parts.append(f"{rule} ({', '.join(names)})")
    return f"Weights of each training: {', '.join(parts)}."
