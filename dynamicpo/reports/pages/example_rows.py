"""Single rows of an evaluation: those that one model wins against another, and those it loses."""

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

from dynamicpo.reports.labels import shorten
from dynamicpo.reports.pages.layout import Section
from dynamicpo.reports.pages.tables import ReportTable, TableCell

# Titles come from the data and may be of any length.
_MAX_TITLE_WIDTH = 90
_NUM_HISTORY_ITEMS = 4

Outcome = Literal["won", "lost"]


class ExampleRow(TypedDict):
    """One row as two models rank it.

    Attributes:
        a: The first model.
        b: The second one.
        outcome: The row as seen from a.
        example_id: Id of the row.
        history: Titles of the history, oldest first.
        target: Title of the right item.
        rank_a: Its rank by a; fractional where ties are shared.
        rank_b: Its rank by b.
        top_a: Title that a ranks first.
        top_b: Title that b ranks first.
    """

    a: str
    b: str
    outcome: Outcome
    example_id: NotRequired[str]
    history: NotRequired[list[str]]
    target: NotRequired[str | None]
    rank_a: NotRequired[float | None]
    rank_b: NotRequired[float | None]
    top_a: NotRequired[str | None]
    top_b: NotRequired[str | None]


def example_sections(examples: Sequence[ExampleRow]) -> list[Section]:
    """Rows won and rows lost, each where there are any."""
    won = [example for example in examples if example["outcome"] == "won"]
    lost = [example for example in examples if example["outcome"] == "lost"]
    sections = []
    if won:
        text = "Some of the rows in which a ranks the right item better than b does."
        sections.append(Section("Rows won by a", text, _examples_table(won)))
    if lost:
        text = "Some of the rows in which b ranks the right item better than a does."
        sections.append(Section("Rows lost by a", text, _examples_table(lost)))
    return sections


def _examples_table(examples: Sequence[ExampleRow]) -> ReportTable:
    heads = [f"history (the last {_NUM_HISTORY_ITEMS})", "right item", "a", "b"]
    return ReportTable(
        columns=heads,
        rows=[_example_cells(example) for example in examples],
        text_columns=range(len(heads)),
    )


def _example_cells(example: ExampleRow) -> list[TableCell]:
    history = example.get("history", [])
    titles = [title_text(title) for title in history[-_NUM_HISTORY_ITEMS:]]
    target = title_text(example.get("target"))
    ranking_a = _ranking_text(example.get("rank_a"), example.get("top_a"))
    ranking_b = _ranking_text(example.get("rank_b"), example.get("top_b"))
    return [
        TableCell(" · ".join(titles) or "–"),
        TableCell(target),
        TableCell(example["a"], detail=ranking_a),
        TableCell(example["b"], detail=ranking_b),
    ]


def _ranking_text(rank: float | None, top: str | None) -> str:
    # Ranks are shared by ties: 7.5 stands for ranks 7 and 8.
    rank_text = "–" if rank is None else f"{float(rank):g}"
    return f"rank {rank_text}, first: {title_text(top)}"


def title_text(title: str | None) -> str:
    """A title of bounded length; a dash where it is missing."""
    return "–" if title is None else shorten(str(title), _MAX_TITLE_WIDTH)
