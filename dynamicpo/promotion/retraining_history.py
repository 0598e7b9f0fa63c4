"""The history of retraining in a store: a chain of small files, one for each decision.

A training has two: one when it starts, so that trainings that fail count against the limits, and
one with its outcome.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from dynamicpo.core.config_inputs import LAST_MOMENT
from dynamicpo.core.config_retraining import WARM
from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonValue, is_number
from dynamicpo.core.storage.addresses import join
from dynamicpo.core.storage.chains import append_once
from dynamicpo.core.storage.publication import Pointer, pointer_history

NOT_STARTED = "not started"
NOT_NEEDED = "not needed"
ROLLED_BACK = "rolled back"
STARTED = "started"
PROMOTED = "promoted"
KEPT = "kept"
_OUTCOMES = (PROMOTED, KEPT)
_CHAIN = "retrainings"
_LIMIT_DAYS = 30
DAY_SECONDS = 86_400


class RetrainingEntry(NamedTuple):
    """A decision.

    Attributes:
        run: A name for its run, the same in all its entries.
        kind: Not started, not needed, rolled back, started, promoted or kept.
        time: When it was made, epoch seconds, by the clock of who made it.
        window_end: The end of its window, epoch seconds.
        champion: The champion that it was made against; "" where there was none.
        mode: "warm" or "scratch".
        why: In words.
        hours: Hours of trainings and evaluations.
        version: The version that the training made; "" where there is none.
    """

    run: str
    kind: str
    time: float
    window_end: float
    champion: str
    mode: str
    why: str
    hours: float = 0.0
    version: str = ""

    @property
    def is_outcome(self) -> bool:
        """Tell whether it is the end of a training."""
        return self.kind in _OUTCOMES


def read_retrainings(store: str) -> list[RetrainingEntry]:
    """All decisions of a store, the oldest first.

    Raises:
        DataError: They can't be read.
    """
    return [_entry(step) for step in pointer_history(join(store, _CHAIN))]


def add_retraining(store: str, entry: RetrainingEntry) -> None:
    """Add a decision to the history, unless it is there: a task may be tried again.

    Raises:
        DataError: The store can't be written.
    """
    note: dict[str, JsonValue] = dict(entry._asdict())
    append_once(join(store, _CHAIN), f"{entry.run} {entry.kind}", note)


def recent_entries(history: Sequence[RetrainingEntry], now: float) -> list[RetrainingEntry]:
    """The decisions of the last 30 days, which limits are about."""
    since = now - _LIMIT_DAYS * DAY_SECONDS
    return [entry for entry in history if entry.time > since]


def spent_hours(entries: Sequence[RetrainingEntry]) -> float:
    """Hours of all trainings among some decisions."""
    return sum(entry.hours for entry in entries)


def trainings_since_scratch(history: Sequence[RetrainingEntry]) -> int:
    """The number of trainings after the last one that started from the backbone."""
    outcomes = [entry for entry in history if entry.is_outcome]
    num_warm = 0
    for entry in reversed(outcomes):
        if entry.mode != WARM:
            break
        num_warm += 1
    return num_warm


def _entry(step: Pointer) -> RetrainingEntry:
    return RetrainingEntry(
        run=_text(step, "run"),
        kind=_text(step, "kind"),
        time=_number(step, "time", LAST_MOMENT),
        window_end=_number(step, "window_end", LAST_MOMENT),
        champion=_text(step, "champion"),
        mode=_text(step, "mode"),
        why=_text(step, "why"),
        hours=_number(step, "hours"),
        version=_text(step, "version"),
    )


def _text(step: Pointer, name: str) -> str:
    return str(step.note.get(name, ""))


def _number(step: Pointer, name: str, limit: float = math.inf) -> float:
    value = step.note.get(name)
    number = float(str(value)) if is_number(value) else math.nan
    if not 0 <= number < limit:
        raise DataError(
            f"decision {step.number} of retraining: {name} must be a number from 0 to below "
            f"{limit:g}, got {value!r}. Delete that file."
        )
    return number
