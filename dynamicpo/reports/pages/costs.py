"""Costs of recommending: a section of a run's page.

It is added to the copy of the report that a run shows, and not to the report itself, whose bytes
are the same in every run.
"""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from dynamicpo.reports.number_format import format_number
from dynamicpo.reports.pages.layout import Section, template
from dynamicpo.reports.pages.tables import ReportTable, TableCell

_HEADS = {"listed": "lists", "catalogue": "catalogue", "proposed": "proposals"}
_END_OF_SECTIONS = "</main>"
_TEXT = (
    "Seconds to rank 1,000 users' lists, and every item (or what a generator proposes) for 1,000 "
    "users, on the machine of this run; and the memory of the process at its peak until then, "
    "libraries included."
)


class Cost(TypedDict):
    """Costs of 1,000 recommendations.

    Attributes:
        seconds: To rank so many lists, or every item or proposals for so many rows.
        peak_megabytes: Memory of the process at its peak until then, libraries included as
            far as it has used them.
        rows_from_shards: Rows that an attempt before this one had ranked, whose time is not in it.
    """

    seconds: float
    peak_megabytes: float
    rows_from_shards: NotRequired[int]


# By the model's name, then by what is ranked: `listed`, `catalogue` or `proposed`.
CostsByModel = dict[str, dict[str, Cost]]


def with_costs(page: str, costs: Mapping[str, Mapping[str, Cost]]) -> str:
    """A page with the section at its end; without costs, the page as it is."""
    if not costs:
        return page
    section = Section("What it costs", _TEXT, table=_table(costs))
    text = template("section.html").render(section=section)
    before, end, after = page.rpartition(_END_OF_SECTIONS)
    return f"{before}{text}{end}{after}"


def _table(costs: Mapping[str, Mapping[str, Cost]]) -> ReportTable:
    is_proposed = any("proposed" in by_candidates for by_candidates in costs.values())
    columns = ("listed", "proposed" if is_proposed else "catalogue")
    heads = [f"seconds, {_HEADS[key]}" for key in columns]
    rows = []
    for model, by_candidates in costs.items():
        seconds = [_seconds(by_candidates, key) for key in columns]
        peaks = [cost["peak_megabytes"] for cost in by_candidates.values()]
        peak = max(peaks)
        rows.append([TableCell(model), *seconds, TableCell(f"{peak:,.0f}")])
    return ReportTable(("", *heads, "peak, MB"), rows)


def _seconds(by_candidates: Mapping[str, Cost], key: str) -> TableCell:
    cost = by_candidates.get(key)
    return TableCell(format_number(cost["seconds"]) if cost else "–")
