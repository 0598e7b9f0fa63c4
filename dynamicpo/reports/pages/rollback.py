"""The page of a rollback: whether the previous champion is better on fresh rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynamicpo.core.model_names import short_version
from dynamicpo.reports.number_format import format_count, format_interval, format_signed
from dynamicpo.reports.pages.layout import Section, page
from dynamicpo.reports.pages.tables import ReportTable, TableCell, markdown_table


@dataclass(frozen=True)
class RollbackReport:
    """The content of the page.

    Attributes:
        reason: The recommendation in a sentence.
        check: The numbers, as `rollback.json` holds them.
    """

    reason: str
    # Any: JSON, whose shape `RollbackCheck.to_json` says.
    check: Mapping[str, Any]


def rollback_page(report: RollbackReport) -> str:
    """The page as HTML."""
    table = _table(report)
    sections = []
    if table is not None:
        sections.append(Section("Previous champion on fresh rows", _TEXT, table))
    versions = {name: report.check[name] for name in ("champion", "previous")}
    return page("Previous champion", [report.reason], sections, versions)


def rollback_markdown(report: RollbackReport) -> str:
    """The recommendation in Markdown, with a newline at the end."""
    table = _table(report)
    parts = [report.reason]
    if table is not None:
        parts += [markdown_table(table).rstrip("\n"), _TEXT]
    return "\n\n".join(parts) + "\n"


_TEXT = "NDCG@10 of listed candidates; paired 95 % interval, clustered by user."


def _table(report: RollbackReport) -> ReportTable | None:
    check = report.check
    difference = check["difference"]
    if difference is None:
        return None
    low, high = (difference[name] for name in ("low", "high"))
    bounds = (math.nan if low is None else low, math.nan if high is None else high)
    texts = [
        f"{short_version(check['previous'])} minus {short_version(check['champion'])}",
        format_signed(difference["difference"]),
        format_interval(*bounds) or "–",
        format_count(check["num_rows"]),
        format_count(check["num_users"]),
    ]
    columns = ["versions", "difference", "95 % interval", "rows", "users"]
    return ReportTable(columns, [[TableCell(text) for text in texts]])
