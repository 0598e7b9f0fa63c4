"""The page of drift monitoring: the verdict in our layout, on top of Evidently's own page."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from dynamicpo.reports.charts.curves import curves
from dynamicpo.reports.number_format import format_interval
from dynamicpo.reports.pages.layout import CaptionedChart, Section, template
from dynamicpo.reports.pages.tables import ReportTable, TableCell

_DAY_SECONDS = 86400
_BODY_START = re.compile(r"<body[^>]*>")
_HEADS = (
    "column",
    "distance",
    "verdict",
    "p, corrected",
    "compared with",
    "how measured",
    "what it is",
)
_TEXT_HEADS = ("column", "verdict", "compared with", "how measured", "what it is")
_SHOWN_CHECKS = 200


class DriftColumn(NamedTuple):
    """A column that is compared.

    Attributes:
        name: Its name.
        distance: Distance between the reference and the current window.
        status: Drifted, not drifted or too few users.
        p_holm: Of whole users by chance, corrected for all columns; NaN with too few users.
        compared_with: The window of the reference.
        method: The distance's name.
        meaning: Explanation of the column.
    """

    name: str
    distance: float
    status: str
    p_holm: float
    compared_with: str
    method: str
    meaning: str


class PastCheck(Protocol):
    """A check of the history."""

    @property
    def window_end(self) -> float:
        """Time of the last row of its window, in epoch seconds."""

    @property
    def status(self) -> str:
        """The verdict."""

    @property
    def distances(self) -> Mapping[str, float]:
        """Each column's distance, as a multiple of its threshold."""


class DriftReport(NamedTuple):
    """The verdict, and the numbers behind it.

    Attributes:
        verdict: The result in one sentence.
        rule: The rule of the verdict.
        rows: The rows of each window, in words.
        columns: All columns that are compared.
        hit_ratios: HitRatio@1 of each window with the bounds of its interval.
        checks: All checks so far, this one last.
    """

    verdict: str
    rule: str
    rows: Sequence[str]
    columns: Sequence[DriftColumn]
    hit_ratios: Mapping[str, tuple[float, float | None, float | None]]
    checks: Sequence[PastCheck]


def drift_page(report: DriftReport, evidently_page: str) -> str:
    """Evidently's page with the verdict, the rule and the distances on top.

    Args:
        report: Content of the part on top.
        evidently_page: A whole HTML page.
    """
    summary = _summary(report)

    def with_summary(body_start: re.Match[str]) -> str:
        return f"{body_start[0]}\n{summary}"

    # A function, for a replacement text would read backslashes as escapes.
    return _BODY_START.sub(with_summary, evidently_page, count=1)


def _summary(report: DriftReport) -> str:
    rows = f"{'; '.join(report.rows)}."
    sections = [Section("Distances", rows, _distances_table(report.columns))]
    if report.hit_ratios:
        sections.append(Section("HitRatio@1", table=_hit_ratio_table(report.hit_ratios)))
    # A line needs two points.
    if len(report.checks) > 1:
        sections.append(_history(report.checks))
    return template("drift.html").render(
        title="Drift",
        headline=[report.verdict, report.rule],
        sections=sections,
        details=[],
        warnings=[],
    )


def _distances_table(columns: Sequence[DriftColumn]) -> ReportTable:
    return ReportTable(
        columns=list(_HEADS),
        rows=[_column_cells(column) for column in columns],
        text_columns=[_HEADS.index(head) for head in _TEXT_HEADS],
    )


def _column_cells(column: DriftColumn) -> list[TableCell]:
    return [
        TableCell(column.name),
        TableCell(_three_digits(column.distance)),
        TableCell(column.status, strong=column.status == "drifted"),
        TableCell(_three_digits(column.p_holm)),
        TableCell(column.compared_with),
        TableCell(column.method),
        TableCell(column.meaning),
    ]


def _three_digits(number: float) -> str:
    return "–" if math.isnan(number) else f"{number:.3f}"


def _hit_ratio_table(
    hit_ratios: Mapping[str, tuple[float, float | None, float | None]],
) -> ReportTable:
    rows = []
    for window, (ratio, low, high) in hit_ratios.items():
        bounds = [math.nan if bound is None else bound for bound in (low, high)]
        interval = format_interval(*bounds) or "–"
        cells = [TableCell(window), TableCell(_three_digits(ratio)), TableCell(interval)]
        rows.append(cells)
    return ReportTable(["rows", "HitRatio@1", "95 % interval"], rows)


def _history(checks: Sequence[PastCheck]) -> Section:
    """The checks so far, by the ends of their windows."""
    shown = checks[-_SHOWN_CHECKS:]
    in_order = sorted(shown, key=lambda check: check.window_end)
    last = in_order[-1].window_end
    days = [(check.window_end - last) / _DAY_SECONDS for check in in_order]
    names = dict.fromkeys(name for check in in_order for name in check.distances)
    series = {}
    for name in names:
        distances = [check.distances.get(name, math.nan) for check in in_order]
        series[name] = (days, distances)
    chart = curves(
        series,
        title="Distance of each column",
        y_label="multiple of its threshold",
        x_label="end of the window, days before the last one",
        references={"threshold": 1.0},
    )
    num_drifted = sum(check.status == "drifted" for check in shown)
    text = f"{num_drifted} of the last {len(shown)} checks have found drift."
    return Section("Checks so far", text, charts=[CaptionedChart(chart)])
