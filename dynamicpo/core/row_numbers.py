"""Numbers of rows: how many a stage takes, and which ones a block of results is of."""

import logging
from collections.abc import Container, Iterable, Iterator, Sized
from typing import TypeVar

log = logging.getLogger(__name__)
_Block = TypeVar("_Block", bound=Sized)


def rows_taken(asked_for: int, available: int, stage: str) -> int:
    """The number of rows that a stage takes.

    A number suits one data set and not the next: the defaults of a pipeline are those of
    MovieLens, and must do for a small table. So more than there are means all of them, and the log
    says so.

    Args:
        asked_for: The setting `rows` (0: all).
        available: The rows that there are.
        stage: The stage's name in the log.
    """
    if asked_for > available:
        log.info("%s: takes all %d rows, %d were asked for", stage, available, asked_for)
    return min(asked_for, available) if asked_for else available


def numbered_blocks(
    blocks: Iterable[_Block], left_out: Container[int] = ()
) -> Iterator[tuple[slice, _Block]]:
    """Blocks that follow each other, each with the rows that it is of.

    Args:
        blocks: Results of all rows but some.
        left_out: The numbers of those, which are whole blocks.
    """
    start = 0
    for block in blocks:
        while start in left_out:
            start += 1
        end = start + len(block)
        yield slice(start, end), block
        start = end
