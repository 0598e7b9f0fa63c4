"""The page of drift monitoring: the verdict in our layout, on top of Evidently's own page."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from dynamicpo.reports.pages.layout import Section, template
from dynamicpo.reports.pages.tables import ReportTable, TableCell

_BODY_START = re.compile(r"<body[^>]*>")
_HEADS = ("column", "distance", "drifted", "how measured", "what it is")
_TEXT_HEADS = ("column", "drifted", "how measured", "what it is")


class DriftColumn(NamedTuple):
    """A column that is compared.

    Attributes:
        name: Its name.
        distance: Distance between the reference and the current window.
        drifted: True where the distance reaches the threshold.
        method: The distance's name.
        meaning: Explanation of the column.
    """

    name: str
    distance: float
    drifted: bool
    method: str
    meaning: str


class DriftReport(NamedTuple):
    """The verdict, and the numbers behind it.

    Attributes:
        verdict: The result in one sentence.
        rule: The rule of the verdict.
        reference_rows: Rows of the reference.
        current_rows: Rows of the current window.
        columns: All columns that are compared.
    """

    verdict: str
    rule: str
    reference_rows: int
    current_rows: int
    columns: Sequence[DriftColumn]


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
    rows = (
        f"Rows: {report.reference_rows:,} of the reference, "
        f"{report.current_rows:,} of the current window."
    )
    section = Section("Distances", rows, _distances_table(report.columns))
    return template("drift.html").render(
        title="Drift",
        headline=[report.verdict, report.rule],
        sections=[section],
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
        TableCell(f"{column.distance:.3f}"),
        TableCell("yes" if column.drifted else "no"),
        TableCell(column.method),
        TableCell(column.meaning),
    ]
