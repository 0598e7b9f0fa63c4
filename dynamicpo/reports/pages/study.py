"""The page of the collapse study: the verdict, then every measure by the number of negatives."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dynamicpo.core.json_values import JsonValue
from dynamicpo.reports.charts.curves import ScalingPoint, scaling
from dynamicpo.reports.charts.series import NO_RANGE, AxisRange
from dynamicpo.reports.charts.svg import chart_grid
from dynamicpo.reports.pages.layout import CaptionedChart, Section, page, protocol_text
from dynamicpo.reports.pages.tables import ReportTable, markdown_table
from dynamicpo.reports.training_log import RELATIVE_BOUNDARY_GRADIENT

# For each measure and variant its points.
MeasureCurves = Mapping[str, Mapping[str, Sequence[ScalingPoint]]]


class _Measure(NamedTuple):
    """Title, unit and explanation of a measure."""

    title: str
    unit: str
    caption: str


_HIT_RATIO = "hit_ratio_at_1"
_FINAL_LOSS = "final_loss"
_MEASURES = {
    _HIT_RATIO: _Measure(
        "HitRatio@1",
        "share of rows",
        "Share of held-out rows in which the right item comes first. A line that falls while the "
        "loss falls as well is a collapse.",
    ),
    _FINAL_LOSS: _Measure(
        "Final training loss",
        "nats, mean of the last steps",
        "What training lowers. With one objective a lower loss means that the training rows are "
        "fitted better.",
    ),
    RELATIVE_BOUNDARY_GRADIENT: _Measure(
        "Boundary gradient left at the end",
        "1 = as strong as at the start",
        "How hard the loss still pulls, at the end, on the rejected items that are easiest to "
        "confuse with the right one. Near 0 they are no longer learnt from.",
    ),
    "boundary_fraction": _Measure(
        "Boundary items",
        "share of rejected items",
        "How many of the rejected items are such ones at the end; the others are easy.",
    ),
}
_OVERVIEW_MEASURES = (_HIT_RATIO, _FINAL_LOSS, RELATIVE_BOUNDARY_GRADIENT)


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """The content of the page.

    Attributes:
        headline: The verdict on collapse and on its prevention; the numbers behind it follow.
        test: The statistical test behind it.
        verdicts: A row for each objective.
        curves: For each objective, measure and variant the points (K, mean, low, high).
        references: HitRatio@1 of what the lines are compared with.
        cells: A row for each kind of cell.
        contrasts: A row for each comparison.
        details: Protocol, settings, seeds; may be nested.
        warnings: Shown above everything else.
    """

    headline: Sequence[str]
    test: str
    verdicts: ReportTable
    curves: Mapping[str, MeasureCurves]
    references: Mapping[str, float]
    cells: ReportTable
    contrasts: ReportTable
    details: Mapping[str, JsonValue] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def study_page(report: StudyReport) -> str:
    """The page of a collapse study."""
    verdict = Section("Verdict", report.test, report.verdicts, note=protocol_text(report.details))
    cells = Section(
        "Every kind of cell",
        "Means over seeds; 95 % intervals over seeds in brackets.",
        report.cells,
    )
    contrasts = Section(
        "Every comparison",
        "Differences in HitRatio@1; intervals are over users and seeds.",
        report.contrasts,
    )
    curves = [_curves_section(objective, report) for objective in report.curves]
    sections = [verdict, *curves, cells, contrasts]
    return page("Collapse study", report.headline, sections, report.details, report.warnings)


def _curves_section(objective: str, report: StudyReport) -> Section:
    charts = []
    for measure in report.curves[objective]:
        svg = _chart(objective, measure, report)
        caption = _MEASURES[measure].caption
        charts.append(CaptionedChart(svg, caption))
    return Section(
        f"{objective} against the number of negatives",
        "Points are means over seeds, bars 95 % intervals over seeds.",
        charts=charts,
    )


def study_markdown(report: StudyReport) -> str:
    """The verdict alone, in Markdown, with a newline at the end."""
    parts = []
    for text in report.warnings:
        parts.append(f"**Warning:** {text}")
    parts += report.headline
    table = markdown_table(report.verdicts)
    parts += [table.rstrip("\n"), report.test]
    return "\n\n".join(parts) + "\n"


def study_overview(report: StudyReport) -> str:
    """An SVG file with a row for each of the main measures, a column for each objective."""
    charts = []
    for measure in _OVERVIEW_MEASURES:
        measure_title = _MEASURES[measure].title
        for objective in report.curves:
            title = f"{objective}: {measure_title}"
            charts.append(_chart(objective, measure, report, title))
    num_objectives = len(report.curves)
    return chart_grid(charts, num_columns=num_objectives)


def _chart(objective: str, measure: str, report: StudyReport, title: str = "") -> str:
    series = report.curves[objective][measure]
    references = report.references if measure == _HIT_RATIO else {}
    y_range = _shared_range(measure, report, references.values())
    return scaling(
        series,
        title or _MEASURES[measure].title,
        _MEASURES[measure].unit,
        references=references,
        y_range=y_range,
    )


def _shared_range(measure: str, report: StudyReport, references: Iterable[float]) -> AxisRange:
    """Limits of y that all objectives share."""
    # Losses of different objectives are not comparable, and each has its own limits.
    if measure == _FINAL_LOSS:
        return NO_RANGE
    values = list(references)
    for curves in report.curves.values():
        values += _values_and_bounds(curves[measure])
    values = list(filter(math.isfinite, values))
    if not values:
        return NO_RANGE
    lowest = min(values)
    highest = max(values)
    # So that no line runs along the edge of its plot.
    margin = 0.06 * (highest - lowest)
    if margin == 0:
        return NO_RANGE
    return lowest - margin, highest + margin


def _values_and_bounds(lines: Mapping[str, Sequence[ScalingPoint]]) -> list[float]:
    numbers: list[float] = []
    for line in lines.values():
        for _, mean, low, high in line:
            numbers += [mean, low, high]
    return numbers
