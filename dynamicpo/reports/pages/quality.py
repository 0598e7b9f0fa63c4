"""The page of data preparation: what was read, measured against limits, in pictures and tables."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from dynamicpo.core.config_inputs import LAST_MOMENT
from dynamicpo.core.json_values import JsonValue
from dynamicpo.reports.charts.bars import SHARES_HEIGHT, class_shares, histogram
from dynamicpo.reports.charts.layout import Frame
from dynamicpo.reports.number_format import format_number
from dynamicpo.reports.pages.layout import CaptionedChart, Section, page
from dynamicpo.reports.pages.tables import ReportTable, TableCell

_DAY = 86_400


class MeasuredLimit(NamedTuple):
    """A row of the table of limits: a measure, its value, the limit, and what it counts."""

    meaning: str
    value: float
    limit: float
    counted: str
    name: str


class TimeReport(NamedTuple):
    """Interactions over time.

    Attributes:
        first: Epoch seconds of the first.
        last: Of the last.
        by_period: Their number in equal parts of the time between.
        gaps: Start and end of the longest times without any.
        most_in_a_day: The most of one user in one day.
    """

    first: float
    last: float
    by_period: Sequence[int]
    gaps: Sequence[tuple[float, float]]
    most_in_a_day: int


class Classes(NamedTuple):
    """Numbers by size.

    Attributes:
        lower_ends: The smallest size of each class.
        counts: The number in each.
    """

    lower_ends: Sequence[int]
    counts: Sequence[int]


class QualityReport(NamedTuple):
    """The content of the page. It names items and titles, but never a user.

    Attributes:
        counts: Rows, users, items and what was left out, by their names.
        limits: All that is measured against a limit.
        time: Interactions over time; None for rows without times.
        users: Users by their number of interactions; None where they are not known.
        tokens: Titles by their number of tokens; None without a tokenizer.
        near_duplicates: Pairs of titles that are nearly equal.
        alike: Groups of titles with the same tokens.
        tokenizer: The backbone whose tokenizer it is.
        details: Settings.
    """

    counts: Mapping[str, int]
    limits: Sequence[MeasuredLimit]
    time: TimeReport | None
    users: Classes | None
    tokens: Classes | None
    near_duplicates: Sequence[tuple[str, str]]
    alike: Sequence[Sequence[str]]
    tokenizer: str
    details: Mapping[str, JsonValue]


def quality_page(report: QualityReport) -> str:
    """A page of prepared data, all of whose limits hold."""
    sections = [_limits_section(report), _counts_section(report)]
    if report.time is not None:
        sections.append(_time_section(report.time))
    if report.users is not None:
        sections.append(_users_section(report.users))
    sections.append(_titles_section(report))
    return page("Data quality", _headline(report), sections, report.details)


def _headline(report: QualityReport) -> list[str]:
    parts = [f"{count:,} {_words(name)}" for name, count in report.counts.items()][:3]
    sentence = ", ".join(parts)
    if report.time is not None:
        first, last = moment_text(report.time.first), moment_text(report.time.last)
        sentence += f", from {first} to {last} (UTC)"
    return [f"{sentence}.", f"All {len(report.limits)} limits hold."]


def _words(name: str) -> str:
    return name.replace("_", " ")


def moment_text(seconds: float) -> str:
    """A date and time in UTC; the number itself where the calendar ends before it."""
    if not 0 <= seconds < LAST_MOMENT:
        return format_number(seconds)
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%d %H:%M")


def _limits_section(report: QualityReport) -> Section:
    rows = []
    for limit in report.limits:
        rows.append(
            [
                TableCell(limit.meaning),
                TableCell(format_number(limit.value)),
                TableCell(format_number(limit.limit)),
                TableCell(limit.counted),
                TableCell(limit.name),
            ]
        )
    heads = ["what is measured", "value", "limit", "count", "setting"]
    note = "" if report.tokenizer else "Tokens are not counted: no tokenizer was given."
    return Section(
        "Limits",
        "A value above its limit stops data preparation.",
        ReportTable(heads, rows, text_columns=(0, 3, 4)),
        note=note,
    )


def _counts_section(report: QualityReport) -> Section:
    rows = [
        [TableCell(_words(name)), TableCell(f"{count:,}")] for name, count in report.counts.items()
    ]
    return Section("Numbers", table=ReportTable(["what", "number"], rows))


def _time_section(time: TimeReport) -> Section:
    num_parts = len(time.by_period)
    # Dates are wider than bars.
    labels = [str(number) for number in range(1, num_parts + 1)]
    chart = histogram(time.by_period, labels, "Interactions over time", "part of the time")
    days = (time.last - time.first) / _DAY / num_parts
    caption = (
        f"{num_parts} equal parts of {format_number(days)} days, from the first interaction on."
    )
    rows = [_gap_cells(start, end) for start, end in time.gaps]
    return Section(
        "Time",
        f"The most interactions of one user in one day (UTC): {time.most_in_a_day:,}.",
        ReportTable(["longest times without any", "until", "days"], rows, text_columns=(0, 1)),
        [CaptionedChart(chart, caption)],
    )


def _gap_cells(start: float, end: float) -> list[TableCell]:
    days = (end - start) / _DAY
    return [
        TableCell(moment_text(start)),
        TableCell(moment_text(end)),
        TableCell(format_number(days)),
    ]


def _users_section(users: Classes) -> Section:
    chart = _class_chart(users, "Interactions per user", "interactions", "share of users")
    return Section("Users", charts=[CaptionedChart(chart, "Before any filter.")])


def _titles_section(report: QualityReport) -> Section:
    charts = []
    if report.tokens is not None:
        chart = _class_chart(report.tokens, "Tokens per title", "tokens", "share of titles")
        charts.append(CaptionedChart(chart, f"With the tokenizer of {report.tokenizer}."))
    rows = []
    for first, second in report.near_duplicates:
        rows.append([TableCell("nearly equal"), TableCell(first), TableCell(second)])
    for first, *others in report.alike:
        cells = [TableCell("same tokens"), TableCell(first), TableCell(", ".join(others))]
        rows.append(cells)
    heads = ["what", "title", "and"]
    table = ReportTable(heads, rows, text_columns=(0, 1, 2)) if rows else None
    text = "" if rows else "No two titles are nearly equal."
    return Section("Titles", text, table, charts)


def _class_chart(classes: Classes, title: str, x_label: str, y_label: str) -> str:
    ends = [*classes.lower_ends[1:], None]
    labels = [_class_name(low, end) for low, end in zip(classes.lower_ends, ends, strict=True)]
    frame = Frame(title, y_label=y_label, x_label=x_label, height=SHARES_HEIGHT)
    return class_shares(classes.counts, labels, frame)


def _class_name(low: int, end: int | None) -> str:
    if end is None:
        return f"≥ {low}"
    return str(low) if end == low + 1 else f"{low}–{end - 1}"
