"""Tables of texts and numbers, for a page, for Markdown and for the terminal."""

import html
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dynamicpo.reports.labels import display_width, one_line

_MARKDOWN_SIGNS = re.compile(r"([\\`*_|\[\]~])")
# Signs that some terminals lack, and what stands for them.
_ASCII_SIGNS = {"−": "-", "–": "-", "…": "...", "≤": "<="}


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
    head = [_to_ascii(name) for name in table.columns]
    rows = [[_terminal_text(cell) for cell in row] for row in table.rows]
    columns = zip(head, *rows, strict=True)
    widths = [max(map(display_width, column)) for column in columns]
    rule = ["-" * width for width in widths]

    def line(texts: Sequence[str]) -> str:
        padded = [
            _padded(text, widths[column], left_aligned=column in table.text_columns)
            for column, text in enumerate(texts)
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([line(head), "  ".join(rule), *(line(row) for row in rows)])


def _terminal_text(cell: TableCell) -> str:
    return _to_ascii(f"{cell.text} {cell.detail}".strip())


def _to_ascii(text: str) -> str:
    text = one_line(text)
    for sign, replacement in _ASCII_SIGNS.items():
        text = text.replace(sign, replacement)
    return text


def _padded(text: str, width: int, left_aligned: bool) -> str:
    # str.ljust counts letters, of which some take two columns.
    padding = " " * (width - display_width(text))
    return text + padding if left_aligned else padding + text


def markdown_table(table: ReportTable) -> str:
    """A table in Markdown, with a newline at the end; names that look like markup stay text."""
    head = [_escape_markdown(name) for name in table.columns]
    rule = [
        "---" if column in table.text_columns else "---:" for column in range(len(table.columns))
    ]
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    lines = [f"| {' | '.join(row)} |\n" for row in [head, rule, *rows]]
    return "".join(lines)


def _markdown_cell(cell: TableCell) -> str:
    text = _escape_markdown(cell.text)
    if cell.strong:
        text = f"**{text}**"
    return f"{text} {_escape_markdown(cell.detail)}".strip()


def _escape_markdown(text: str) -> str:
    # Markdown lets HTML through, so that it is escaped as well.
    escaped = html.escape(one_line(text), quote=False)
    return _MARKDOWN_SIGNS.sub(r"\\\1", escaped)
