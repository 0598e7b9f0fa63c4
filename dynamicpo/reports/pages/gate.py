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
    format_signed,
)
from dynamicpo.reports.pages.layout import Section, page
from dynamicpo.reports.pages.tables import ReportTable, TableCell, markdown_table


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
    sections = [
        Section("Differences", _rule(report), _differences_table(report)),
        Section(
            "Guardrails",
            "Challenger minus champion. What is clearly worse by its margin keeps the champion.",
            _guards_table(report),
        ),
    ]
    details = {"settings": dict(report.config)}
    return page("Promotion gate", report.reasons, sections, details)


def gate_markdown(report: GateReport) -> str:
    """The decision in Markdown, with a newline at the end."""
    tables = [markdown_table(_differences_table(report)), markdown_table(_guards_table(report))]
    parts = [*report.reasons, *(table.rstrip("\n") for table in tables), _rule(report)]
    return "\n\n".join(parts) + "\n"


def _rule(report: GateReport) -> str:
    decision = report.decision
    config = report.config
    limit = 0.0 if config["rule"] == "superior" else -config["margin"]
    return (
        f"Rule {config['rule']}: the lower bound of the difference in {config['metric']} must be "
        f"above {format_number(limit)}. {format_count(decision['rows'])} rows of "
        f"{format_count(decision['users'])} users, which are the units of the 95 % intervals; they "
        f"show a difference of {format_number(decision['detectable'])} with a probability of 80 %."
    )


def _differences_table(report: GateReport) -> ReportTable:
    rows = []
    for version, difference in report.decision["differences"].items():
        rows.append([TableCell(short_version(version)), *_difference_cells(difference)])
    return ReportTable(["challenger minus", "difference", "95 % interval"], rows)


def _guards_table(report: GateReport) -> ReportTable:
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
    return ReportTable(columns, rows, text_columns=(0, 4))


def _difference_cells(difference: Mapping[str, float | None]) -> list[TableCell]:
    value, low, high = (difference[name] for name in ("difference", "low", "high"))
    bounds = (math.nan if low is None else low, math.nan if high is None else high)
    return [TableCell(format_signed(value or 0.0)), TableCell(format_interval(*bounds) or "–")]
