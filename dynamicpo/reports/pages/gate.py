"""The page of a gate: promote or keep, and why."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynamicpo.core.model_names import short_version
from dynamicpo.reports.number_format import (
    format_count,
    format_interval,
    format_number,
    format_percent,
    format_signed,
)
from dynamicpo.reports.pages.layout import Section, page
from dynamicpo.reports.pages.tables import ReportTable, TableCell, markdown_table

_GUARDS_TEXT = "Challenger minus champion. What is clearly worse by its margin keeps the champion."
_BESIDE_TEXT = "What does not decide, on the same rows; metrics can disagree."
_KNOWN_TEXT = "Without the rows whose next item one of the two does not know, and ranks last."


@dataclass(frozen=True)
class GateReport:
    """The content of the page.

    Attributes:
        reasons: The decision in a sentence, then what speaks against a promotion.
        promotes: The decision.
        decision: The numbers, as `decision.json` holds them.
        config: Rule and margins.
    """

    reasons: Sequence[str]
    promotes: bool
    # Any: JSON, whose shape `GateDecision.to_json` says.
    decision: Mapping[str, Any]
    config: Mapping[str, Any]


def gate_page(report: GateReport) -> str:
    """The page as HTML."""
    notes = " ".join(report.decision["notes"])
    parts = [
        Section("Differences", _rule(report), _differences_table(report)),
        Section("Guardrails", _GUARDS_TEXT, _guards_table(report)),
        Section("Beside it", _BESIDE_TEXT, _beside_table(report)),
        Section("What both know", _KNOWN_TEXT, _known_table(report)),
    ]
    # Of a first version there is nothing to compare.
    sections = [part for part in parts if part.table is not None]
    sections.append(Section("Co-occurrence", notes, _baseline_table(report)))
    details = {"settings": dict(report.config)}
    return page("Promotion gate", report.reasons, sections, details)


def gate_markdown(report: GateReport) -> str:
    """The decision in Markdown, with a newline at the end."""
    decision = report.decision
    tables = [_differences_table(report), _guards_table(report), _beside_table(report)]
    tables += [_known_table(report), _baseline_table(report)]
    texts = [markdown_table(table).rstrip("\n") for table in tables if table is not None]
    rule = [_rule(report)] if decision["differences"] else []
    parts = [*report.reasons, *texts, *rule, *decision["notes"]]
    return "\n\n".join(parts) + "\n"


def _rule(report: GateReport) -> str:
    decision = report.decision
    config = report.config
    limit = 0.0 if config["rule"] == "superior" else -config["margin"]
    return (
        f"Rule {config['rule']}: the lower bound of the difference in {decision['metric']} must be "
        f"above {format_number(limit)}. {format_count(decision['rows'])} rows of "
        f"{format_count(decision['users'])} users, which are the units of the 95 % intervals; they "
        f"show a difference of {format_number(decision['detectable'])} with a probability of 80 %."
    )


def _differences_table(report: GateReport) -> ReportTable | None:
    rows = []
    for version, difference in report.decision["differences"].items():
        rows.append([TableCell(short_version(version)), *_difference_cells(difference)])
    columns = ["challenger minus", "difference", "95 % interval"]
    return ReportTable(columns, rows) if rows else None


def _beside_table(report: GateReport) -> ReportTable | None:
    rows = []
    for metric, difference in report.decision["beside"].items():
        rows.append([TableCell(metric), *_difference_cells(difference)])
    columns = ["metric", "challenger minus champion", "95 % interval"]
    return ReportTable(columns, rows) if rows else None


def _known_table(report: GateReport) -> ReportTable | None:
    rows = []
    for version, part in report.decision["unknown_items"].items():
        if part["without"] is not None:
            rows.append(
                [
                    TableCell(short_version(version)),
                    TableCell(format_percent(part["share"])),
                    *_difference_cells(part["without"]),
                ]
            )
    columns = ["challenger minus", "rows left out", "difference", "95 % interval"]
    return ReportTable(columns, rows) if rows else None


def _baseline_table(report: GateReport) -> ReportTable | None:
    rows = []
    for name, difference in report.decision["baseline"].items():
        rows.append([TableCell(name), *_difference_cells(difference)])
    columns = ["co-occurrence minus", "difference", "95 % interval"]
    return ReportTable(columns, rows) if rows else None


def _guards_table(report: GateReport) -> ReportTable | None:
    rows = []
    for name, guard in report.decision["guards"].items():
        verdict = "clearly worse" if guard["failed"] else "holds"
        rows.append(
            [
                TableCell(name),
                TableCell(format_count(guard["rows"])),
                *_difference_cells(guard),
                TableCell(verdict, strong=bool(guard["failed"])),
            ]
        )
    columns = ["guardrail", "rows", "difference", "95 % interval", "verdict"]
    return ReportTable(columns, rows, text_columns=(0, 4)) if rows else None


def _difference_cells(difference: Mapping[str, float | None]) -> list[TableCell]:
    value, low, high = (difference[name] for name in ("difference", "low", "high"))
    bounds = (math.nan if low is None else low, math.nan if high is None else high)
    return [TableCell(format_signed(value or 0.0)), TableCell(format_interval(*bounds) or "–")]
