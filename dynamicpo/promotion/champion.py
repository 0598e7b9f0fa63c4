"""The champion: the version that is served, and the history of its moves.

A move is a file that only one writer can create (`dynamicpo.core.storage.publication`); it names
the version, and says who moved it and why.
"""

import datetime
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dynamicpo.core.errors import CheckFailedError, DataError
from dynamicpo.core.json_values import JsonValue
from dynamicpo.core.storage.addresses import join
from dynamicpo.core.storage.failures import LostRaceError
from dynamicpo.core.storage.publication import (
    Pointer,
    check_content_name,
    move_pointer,
    pointer_history,
)
from dynamicpo.promotion.versions import (
    delete_version,
    find_version,
    hide_version,
    is_published,
    published_names,
    show_version_again,
    version_uri,
)

log = logging.getLogger(__name__)

CHAMPION = "champion"  # in place of a version's name
RUN_OF_MOVE = "run"  # among a move's figures

_PROMOTION = "promotion"
_ROLLBACK = "rollback"


class Reason(NamedTuple):
    """The reason of a move.

    Attributes:
        who: Who moved the champion.
        why: In words.
        numbers: The figures that it was decided on.
    """

    who: str
    why: str
    numbers: Mapping[str, JsonValue]


class Move(NamedTuple):
    """A move of the champion.

    Attributes:
        number: Its number in the history, from 1.
        kind: "promotion" or "rollback".
        version: The champion since then.
        time: In UTC, by the clock of who moved it; the number alone says what came first.
        reason: Who, why, and on which figures.
    """

    number: int
    kind: str
    version: str
    time: str
    reason: Reason


class Decision(NamedTuple):
    """The result of a promotion or a rollback.

    Attributes:
        champion: The champion now.
        previous: The champion before; "" where there was none.
        has_moved: False where it was the champion already.
    """

    champion: str
    previous: str
    has_moved: bool


def read_moves(store: str) -> list[Move]:
    """The history of the champion, oldest move first.

    Raises:
        DataError: The store can't be read.
    """
    return [_move(step) for step in pointer_history(_pointer(store))]


def champions(moves: Sequence[Move]) -> list[str]:
    """The champion, last, and those before it in the order in which a rollback returns to them."""
    line: list[str] = []
    for move in moves:
        # A rollback is no promotion of the older version: the next one goes back further.
        if move.kind == _ROLLBACK:
            line.pop()
        else:
            line.append(move.version)
    return line


def champions_of_run(store: str, run: str) -> list[str]:
    """The champions that a run decides about: without its own move, after which it was cut off.

    Args:
        store: The store of versions.
        run: The run's name, as the figures of its move have it; "" for none.

    Raises:
        DataError: The store can't be read.
    """
    moves = read_moves(store)
    if run and moves and moves[-1].reason.numbers.get(RUN_OF_MOVE) == run:
        moves = moves[:-1]
    return champions(moves)


def promote_version(store: str, name: str, reason: Reason, expected: str | None = None) -> Decision:
    """Make a version the champion; nothing happens where it is.

    Args:
        store: The store of versions.
        name: The version's name.
        reason: Who and why.
        expected: The champion that it was decided against ("": none; None: any).

    Raises:
        CheckFailedError: The champion is or became another one than expected. Nothing has moved.
        DataError: There is no such version, or the store can't be written.
    """
    history = pointer_history(_pointer(store))
    current = _champion(history)
    if current == name:
        log.info("%s: is the champion already", name)
        return Decision(name, current, has_moved=False)
    _check_expected(store, current, expected)
    _check_published(store, name)
    _write_move(store, name, _PROMOTION, reason, history)
    return Decision(name, current, has_moved=True)


def roll_back_champion(store: str, reason: Reason, expected: str | None = None) -> Decision:
    """Make the champion's predecessor the champion again.

    Args:
        store: The store of versions.
        reason: Who and why.
        expected: The champion that it was decided against (None: any). Where the last move was a
            rollback from this very version, nothing happens: a repeated command rolls back once.

    Raises:
        CheckFailedError: The champion is or became another one than expected. Nothing has moved.
        DataError: There is no predecessor, or it was deleted, or the store can't be written.
    """
    history = pointer_history(_pointer(store))
    current = _champion(history)
    # A pod that is tried again after its move must not go back twice.
    if expected is not None and _has_rolled_back(history, expected):
        log.info("%s: was rolled back already", expected)
        return Decision(current, expected, has_moved=False)
    _check_expected(store, current, expected)
    line = champions([_move(step) for step in history])
    if len(line) < 2:
        raise DataError(
            f"{store}: must have a champion before the present one, but there is none. "
            "Promote another version."
        )
    predecessor = line[-2]
    _check_published(store, predecessor)
    _write_move(store, predecessor, _ROLLBACK, reason, history)
    return Decision(predecessor, current, has_moved=True)


def delete_old_versions(store: str, keep: int) -> list[str]:
    """Delete all versions but the newest, the champion and its predecessor.

    Args:
        store: The store of versions.
        keep: How many of the newest stay, at least 1.

    Returns:
        The names of the deleted versions.

    Raises:
        DataError: The store can't be read or written.
    """
    deleted = []
    for name in published_names(store)[:-keep]:
        if not _is_needed(store, name) and _delete_unneeded(store, name):
            deleted.append(name)
    return deleted


def _is_needed(store: str, name: str) -> bool:
    """Tell whether a version is the champion or its predecessor, at this moment."""
    return name in champions(read_moves(store))[-2:]


def _delete_unneeded(store: str, name: str) -> bool:
    """Delete a version unless somebody promotes it meanwhile; tell whether it was deleted."""
    contents = hide_version(store, name)
    # From now on nobody can promote it; whoever did so before is seen here.
    if _is_needed(store, name):
        show_version_again(store, name, contents)
        return False
    delete_version(store, name)
    return True


def _pointer(store: str) -> str:
    return join(store, "champion")


def _champion(history: Sequence[Pointer]) -> str:
    return history[-1].target if history else ""


def _has_rolled_back(history: Sequence[Pointer], name: str) -> bool:
    if len(history) < 2:
        return False
    return history[-1].note.get("kind") == _ROLLBACK and history[-2].target == name


def _check_expected(store: str, current: str, expected: str | None) -> None:
    if expected is not None and current != expected:
        raise CheckFailedError(
            f"{store}: the champion must still be {expected or 'none'}, but it is "
            f"{current or 'none'}. Nothing has moved; decide against this one."
        )


def _check_published(store: str, name: str) -> None:
    if not is_published(store, name):
        raise DataError(
            f"{store}: must hold version {name}, whole, but it does not. "
            "It was deleted, or its publication was interrupted: publish it again."
        )
    check_content_name(version_uri(store, name))


def _write_move(
    store: str, name: str, kind: str, reason: Reason, history: Sequence[Pointer]
) -> None:
    # For people only: clocks of several machines order nothing.
    now = datetime.datetime.now(datetime.UTC)
    note: dict[str, JsonValue] = {
        "kind": kind,
        "time": now.isoformat(timespec="seconds"),
        "who": reason.who,
        "why": reason.why,
        "numbers": dict(reason.numbers),
    }
    since = history[-1] if history else None
    try:
        move_pointer(_pointer(store), name, since, note)
    except LostRaceError as error:
        raise CheckFailedError(
            f"{store}: the champion must be as it was read, but somebody else moved it first. "
            "Nothing of this has happened; decide against the new one."
        ) from error


def _move(step: Pointer) -> Move:
    note = step.note
    numbers = note.get("numbers")
    reason = Reason(
        who=str(note.get("who", "")),
        why=str(note.get("why", "")),
        numbers=numbers if isinstance(numbers, dict) else {},
    )
    return Move(
        number=step.number,
        kind=str(note.get("kind", _PROMOTION)),
        version=step.target,
        time=str(note.get("time", "")),
        reason=reason,
    )


def named_version(store: str, text: str) -> str:
    """The name of the version that a text begins, or of the champion.

    Raises:
        DataError: There is none.
    """
    if text != CHAMPION:
        return find_version(store, text)
    moves = read_moves(store)
    if not moves:
        raise DataError(
            f"{store}: must have a champion, but nothing was promoted yet. Promote a version."
        )
    return moves[-1].version
