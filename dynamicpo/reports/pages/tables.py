"""Tables of texts and numbers, for a page, for Markdown and for the terminal."""

import html
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dynamicpo.reports.labels import display_width, one_line

# Signs that Markdown takes for markup, the bar between two columns among them.
_MARKDOWN_SIGNS = re.compile(r"([\\`*_|\[\]~])")
# Signs that some terminals lack, and what stands for them.
_ASCII_SIGNS = str.maketrans({"−": "-", "–": "-", "…": "...", "≤": "<="})


class TableCell(NamedTuple):
    """Content of one cell.

    Attributes:
        text: A name or a number.
        detail: Its interval or another detail, in small print.
        strong: Set in bold.
    """

    text: str
    detail: str = ""
    strong: bool = False


@dataclass(frozen=True)
class ReportTable:
    """Rows of cells under column names.

    Attributes:
        columns: Their names.
        rows: As many cells each as there are columns.
        text_columns: Indices of the columns that hold words and not numbers.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    text_columns: Collection[int] = (0,)


def text_table(table: ReportTable) -> str:
    """A table for the terminal: aligned, without a newline at the end."""
    grid = [[_to_ascii(name) for name in table.columns]]
    for row in table.rows:
        grid.append([_terminal_text(cell) for cell in row])
    columns = []
    for index, texts in enumerate(zip(*grid, strict=True)):
        is_left_aligned = index in table.text_columns
        columns.append(_padded_column(texts, is_left_aligned))
    lines = []
    for texts in zip(*columns, strict=True):
        line = "  ".join(texts)
        lines.append(line.rstrip())
    return "\n".join(lines)


def _padded_column(texts: Sequence[str], is_left_aligned: bool) -> list[str]:
    """The texts of a column, all of one width, with a rule under the first."""
    width = max(map(display_width, texts))
    padded = []
    for text in texts:
        # str.ljust counts letters, of which some take two columns.
        padding = " " * (width - display_width(text))
        padded.append(text + padding if is_left_aligned else padding + text)
    padded.insert(1, "-" * width)
    return padded


def _terminal_text(cell: TableCell) -> str:
    return _to_ascii(f"{cell.text} {cell.detail}".strip())


def _to_ascii(text: str) -> str:
    return one_line(text).translate(_ASCII_SIGNS)


def markdown_table(table: ReportTable) -> str:
    """A table in Markdown, with a newline at the end; names that look like markup stay text."""
    head = [escape_markdown(name) for name in table.columns]
    rule = []
    for index in range(len(head)):
        # A colon at the end aligns a column to the right.
        rule.append("---" if index in table.text_columns else "---:")
    lines = [_markdown_line(head), _markdown_line(rule)]
    for row in table.rows:
        cells = [_markdown_cell(cell) for cell in row]
        lines.append(_markdown_line(cells))
    return "".join(lines)


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _markdown_cell(cell: TableCell) -> str:
    text = escape_markdown(cell.text)
    detail = escape_markdown(cell.detail)
    if cell.strong:
        text = f"**{text}**"
    return f"{text} {detail}".strip()


def escape_markdown(text: str) -> str:
    """Text whose signs Markdown would take for markup, escaped."""
    # Markdown lets HTML through, so that it is escaped as well.
    escaped = html.escape(one_line(text), quote=False)
    return _MARKDOWN_SIGNS.sub(r"\\\1", escaped)
