"""Titles that hold the separator of a joined history, such as `Face::Off` in `Alien::Face::Off`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from dynamicpo.core.errors import DataError
from dynamicpo.core.messages import quoted

SEPARATOR = "::"


def whole_titles(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Join the pieces of titles that the separator has split, where other columns have them whole.

    Args:
        rows: `history`, `candidates` and `target`; lists that came as text are split at "::".
        path: Where they come from, for messages.

    Raises:
        DataError: Pieces that are titles themselves and are one together, too.
    """
    known = {*rows["target"], *rows["candidates"].explode()}
    # In a list a title is whole; only what came as text is split, and then no entry has it.
    long_titles = {title for title in known if SEPARATOR in title}
    if not long_titles:
        return rows
    whole = rows.copy()
    for name in ("history", "candidates"):
        whole[name] = [list(_joined(titles, known, long_titles, path)) for titles in rows[name]]
    return whole


def _joined(
    titles: Sequence[str], known: set[str], long_titles: set[str], path: Path
) -> Iterator[str]:
    start = 0
    while start < len(titles):
        length = _longest(titles, start, long_titles)
        pieces = titles[start : start + length]
        if length > 1 and {*pieces} <= known:
            raise DataError(
                f"{path}: a history must be split in one way, but {quoted(SEPARATOR.join(pieces))} "
                f"is one title or {length}. Write histories as lists of titles."
            )
        yield SEPARATOR.join(pieces)
        start += length


def _longest(titles: Sequence[str], start: int, long_titles: set[str]) -> int:
    """Count the pieces from here on that are one known title; 1 where none is."""
    limit = max(title.count(SEPARATOR) for title in long_titles) + 1
    for length in range(min(limit, len(titles) - start), 1, -1):
        if SEPARATOR.join(titles[start : start + length]) in long_titles:
            return length
    return 1
