"""The page of the collapse study: the verdict, then every measure against the number of negatives."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamicpo.reports.charts.drawing import beside
from dynamicpo.reports.charts.plots import scaling
from dynamicpo.reports.pages.layout import Figure, Section, fact, page
from dynamicpo.reports.pages.tables import Table, markdown_table

Points = Sequence[tuple[float, float, float, float]]
_CHARTS = {
    "hit_ratio_at_1": (
        "HitRatio@1",
        "share of rows",
        "Share of held-out rows in which the right item comes first. A line that falls while the loss falls as well "
        "is a collapse.",
    ),
    "final_loss": (
        "Final training loss",
        "nats, mean of the last steps",
        "What training lowers. With one objective a lower loss means that the training rows are fitted better.",
    ),
    "boundary_gradient_relative": (
        "Boundary gradient left at the end",
        "1 = as strong as at the start",
        "How hard the loss still pulls, at the end, on the rejected items that are easiest to confuse with the right "
        "one. Near 0 they are no longer learnt from.",
    ),
    "boundary_fraction": (
        "Boundary items",
        "share of rejected items",
        "How many of the rejected items are such ones at the end; the others are easy.",
    ),
}
_AT_A_GLANCE = ("hit_ratio_at_1", "final_loss", "boundary_gradient_relative")


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """All that the page shows.

    Attributes:
        headline: Whether collapse occurred and whether it was prevented; the numbers behind it follow.
        test: How that was judged.
        verdicts: A row for each objective.
        curves: For each objective, measure and variant the points (K, mean, low, high).
        references: HitRatio@1 of what the lines are compared with.
        cells: A row for each kind of cell.
        contrasts: A row for each comparison.
        facts: Protocol, settings, seeds; may be nested.
        warnings: Red lines.
    """

    headline: Sequence[str]
    test: str
    verdicts: Table
    curves: Mapping[str, Mapping[str, Mapping[str, Points]]]
    references: Mapping[str, float]
    cells: Table
    contrasts: Table
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def study_page(report: StudyReport) -> str:
    """The page of a collapse study."""
    text = "Points are means over seeds, bars 95 % intervals over seeds."
    protocol, note = report.facts.get("protocol"), ""
    if isinstance(protocol, Mapping):
        note = (
            f"Protocol: {', '.join(f'{name} {fact(value)}' for name, value in protocol.items())}."
        )
    sections = [Section("Verdict", report.test, report.verdicts, note=note)]
    for objective, measures in report.curves.items():
        sections.append(
            Section(
                f"{objective} against the number of negatives",
                text,
                figures=_figures(measures, report),
            )
        )
    sections += [
        Section(
            "Every kind of cell",
            "Means over seeds; 95 % intervals over seeds in brackets.",
            report.cells,
        ),
        Section(
            "Every comparison",
            "Differences in HitRatio@1; intervals are over users and seeds.",
            report.contrasts,
        ),
    ]
    return page("Collapse study", report.headline, sections, report.facts, report.warnings)


def study_markdown(report: StudyReport) -> str:
    """The verdict alone, in Markdown, with a newline at the end."""
    parts = [*report.headline, markdown_table(report.verdicts).rstrip("\n"), report.test]
    return "\n\n".join([*(f"**Warning:** {text}" for text in report.warnings), *parts]) + "\n"


def study_figure(report: StudyReport) -> str:
    """The study at a glance, as an SVG file: a row for each of the main measures, a column for each objective."""
    found = [
        _chart(measure, measures[measure], report, f"{objective}: ")
        for measure in _AT_A_GLANCE
        for objective, measures in report.curves.items()
    ]
    return beside(found, len(report.curves))


def _figures(measures: Mapping[str, Mapping[str, Points]], report: StudyReport) -> list[Figure]:
    return [
        Figure(_chart(measure, series, report), _CHARTS[measure][2])
        for measure, series in measures.items()
    ]


def _chart(measure: str, series: Mapping[str, Points], report: StudyReport, front: str = "") -> str:
    title, unit, _ = _CHARTS[measure]
    references = report.references if measure == "hit_ratio_at_1" else {}
    limits = _limits(measure, report, references.values())
    return scaling(series, front + title, unit, references=references, y_range=limits)


def _limits(
    measure: str, report: StudyReport, others: Iterable[float]
) -> tuple[float | None, float | None]:
    """Limits of y that all objectives share; losses of different objectives are not comparable."""
    if measure == "final_loss":
        return None, None
    points = [
        point
        for measures in report.curves.values()
        for line in measures[measure].values()
        for point in line
    ]
    values = [
        value
        for value in [*others, *(part for point in points for part in point[1:])]
        if math.isfinite(value)
    ]
    room = 0.06 * (max(values) - min(values)) if values else 0
    return (min(values) - room, max(values) + room) if room else (None, None)
