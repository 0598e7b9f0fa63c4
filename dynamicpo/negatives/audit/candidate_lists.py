"""Candidate lists as integers, and the same rows with lists drawn anew, uniformly."""

from dataclasses import dataclass, field, replace

import numpy as np

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import BoolArray, IntArray, KeyArray
from dynamicpo.core.errors import DataError

_UNDRAWN = -1
_MAX_ROUNDS = 1000


@dataclass(frozen=True)
class CandidateLists:
    """Rows with their candidate lists; A is the number of candidates.

    Attributes:
        keys: A random key for each row. Shape (N,).
        targets: Each row's target, in [0, num_items). Shape (N,).
        candidates: Each row's candidates, its target among them. Shape (N, A).
        excluded: Items that a redraw may not list, as row * num_items + item, sorted.
        num_items: The size of the catalogue.
        history: Items of each row's history, as row * num_items + item, sorted.
    """

    keys: KeyArray
    targets: IntArray
    candidates: IntArray
    excluded: IntArray
    num_items: int
    history: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def is_in_history(self) -> BoolArray:
        """Mark the candidates that stand in their row's history. Shape (N, A)."""
        first_pairs = np.arange(len(self.targets)) * self.num_items
        pairs = first_pairs[:, None] + self.candidates
        return np.isin(pairs, self.history)

    @property
    def is_target(self) -> BoolArray:
        """Mark each row's target among its candidates. Shape (N, A)."""
        return np.asarray(self.candidates == self.targets[:, None])


def redraw(rows: CandidateLists, number: int) -> CandidateLists:
    """Draw new lists for the same rows, uniformly from the items that a row does not exclude.

    Args:
        rows: The rows; of their candidates only the targets stay.
        number: The number of the redraw, from 0. Same row and number, same list.

    Raises:
        DataError: The catalogue has too few items for some row.
    """
    num_rows, width = rows.candidates.shape
    # Each redraw has draw numbers of its own, enough for all rounds.
    first_draw = number * _MAX_ROUNDS * width
    columns = np.arange(width)
    lists = np.full((num_rows, width), _UNDRAWN)
    lists[:, 0] = rows.targets
    incomplete = np.arange(num_rows)
    # Rejection sampling: draw what is missing, drop what may not be listed, repeat for what is
    # left.
    for round_number in range(_MAX_ROUNDS):
        draw_numbers = first_draw + round_number * width + columns
        draws = random_keys.integers(
            keys=rows.keys[incomplete, None],
            draws=draw_numbers.astype(np.uint64),
            high=rows.num_items,
        )
        drawn = lists[incomplete]
        proposed = np.where(drawn == _UNDRAWN, draws, drawn)
        is_repeated = _is_repeated(proposed)
        is_excluded = _is_excluded(proposed, incomplete, rows)
        accepted = np.where(is_repeated | is_excluded, _UNDRAWN, proposed)
        lists[incomplete] = accepted
        is_incomplete = (accepted == _UNDRAWN).any(axis=1)
        incomplete = incomplete[is_incomplete]
        if not len(incomplete):
            moved = _with_random_position(rows.keys, lists, first_draw)
            return replace(rows, candidates=moved)
    raise DataError(
        f"audit: {width} candidates a row can't be redrawn from {rows.num_items} items, too few "
        f"are left for {len(incomplete)} rows. Audit rows with shorter lists or a larger catalogue."
    )


def _is_repeated(lists: IntArray) -> BoolArray:
    """Mark each item that stands in its list before. The first column never is."""
    # The sort is stable, so of equal items the leftmost comes first and stays unmarked.
    order = np.argsort(lists, axis=1, kind="stable")
    ordered = np.take_along_axis(lists, order, axis=1)
    is_repeated = np.zeros(lists.shape, dtype=bool)
    np.put_along_axis(
        is_repeated,
        indices=order[:, 1:],
        values=ordered[:, 1:] == ordered[:, :-1],
        axis=1,
    )
    return is_repeated


def _is_excluded(lists: IntArray, row_index: IntArray, rows: CandidateLists) -> BoolArray:
    """Mark the items that their rows exclude. The first column, the target, never is."""
    first_pairs = row_index * rows.num_items
    pairs = first_pairs[:, None] + lists
    index = np.searchsorted(rows.excluded, pairs)
    # Pairs above the largest have no index of their own.
    index = np.minimum(index, len(rows.excluded) - 1)
    is_excluded: BoolArray = rows.excluded[index] == pairs
    is_excluded[:, 0] = False
    return is_excluded


def _with_random_position(keys: KeyArray, lists: IntArray, first_draw: int) -> IntArray:
    """Rotate each list, so that its target stands at a random position instead of the first."""
    _, width = lists.shape
    # The last round's last number: no list takes that long.
    last_draw = first_draw + _MAX_ROUNDS * width - 1
    target_positions = random_keys.integers(
        keys,
        draws=last_draw,
        high=width,
    )
    shifts = target_positions[:, None]
    order = (np.arange(width) - shifts) % width
    return np.take_along_axis(lists, order, axis=1)
