"""The number of rows that a stage takes: as many as were asked for, if there are so many."""

import logging

log = logging.getLogger(__name__)


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
