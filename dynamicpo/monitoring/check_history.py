"""The history of drift checks in a store: a chain of small files, one for each check."""

from collections.abc import Mapping
from typing import NamedTuple

from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonValue, is_number
from dynamicpo.core.storage.addresses import join
from dynamicpo.core.storage.chains import append_once
from dynamicpo.core.storage.publication import Pointer, pointer_history

_CHAIN = "drift-checks"


class DriftCheck(NamedTuple):
    """A check, as the history holds it.

    Attributes:
        window_end: Time of the last row of its window, in epoch seconds.
        status: Drifted, not drifted or too few users.
        reference: A name for the content of its reference.
        current: The same of its window.
        distances: Each column's distance, as a multiple of its threshold.
    """

    window_end: float
    status: str
    reference: str
    current: str
    distances: Mapping[str, float]


def read_checks(store: str) -> list[DriftCheck]:
    """All checks of a store, the oldest first.

    Raises:
        DataError: They can't be read.
    """
    return [_check_of(step) for step in pointer_history(join(store, _CHAIN))]


def add_check(store: str, check: DriftCheck) -> None:
    """Add a check to the history, unless it is there: a task may be tried again.

    Raises:
        DataError: The store can't be written.
    """
    note: dict[str, JsonValue] = {
        "window_end": check.window_end,
        "status": check.status,
        "reference": check.reference,
        "distances": dict(check.distances),
    }
    append_once(join(store, _CHAIN), f"{check.reference} {check.current}", note)


def _check_of(step: Pointer) -> DriftCheck:
    note = step.note
    distances = note.get("distances")
    window_end = note.get("window_end")
    if not isinstance(distances, dict) or not isinstance(window_end, int | float):
        raise _unreadable(step)
    if not all(map(is_number, [window_end, *distances.values()])):
        raise _unreadable(step)
    return DriftCheck(
        window_end=float(window_end),
        status=str(note.get("status", "")),
        reference=str(note.get("reference", "")),
        current=step.target.rpartition(" ")[2],
        distances=distances,
    )


def _unreadable(step: Pointer) -> DataError:
    return DataError(
        f"drift check {step.number}: must say its distances and the end of its window, but it "
        "does not. Delete that file."
    )
