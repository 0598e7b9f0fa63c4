"""Tables of lines that may lack cells, because a peer could not run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Format = str | Callable[[Any], str]


def table(lines: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, Format]]) -> str:
    """A table in Markdown; the error of a line stands in the first of its empty cells.

    Args:
        lines: What the cells hold.
        columns: Title and format of each cell.
    """
    titles = [title for title, _ in columns.values()]
    rules = ["---"] * len(titles)
    rows = [titles, rules]
    for line in lines:
        rows.append(_cells(line, columns))
    texts = [" | ".join(cells) for cells in rows]
    return "\n".join(f"| {text} |" for text in texts)


def _cells(line: Mapping[str, Any], columns: Mapping[str, tuple[str, Format]]) -> list[str]:
    error = str(line.get("error", ""))
    left = error.replace("|", "\\|")
    cells = []
    for name, (_, form) in columns.items():
        value = line.get(name)
        if value is None:
            cells.append(left)
            left = ""
        else:
            cells.append(form(value) if callable(form) else format(value, form))
    return cells


def megabytes(number: float) -> str:
    return f"{number / 1e6:,.0f} MB"


def largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest absolute difference of two lists of as many numbers."""
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def verdict(difference: float, tolerance: float) -> str:
    """Say whether numbers are equal, and how far apart they are."""
    # NaN is not equal to anything.
    return f"{'yes' if difference <= tolerance else 'NO'} ({difference:.0e})"
