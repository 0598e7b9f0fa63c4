"""Candidate lists as integers, and the same rows with lists drawn anew, uniformly."""

from dataclasses import dataclass, replace

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
    """

    keys: KeyArray
    targets: IntArray
    candidates: IntArray
    excluded: IntArray
    num_items: int


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
    lists = np.full((num_rows, width), _UNDRAWN)
    lists[:, 0] = rows.targets
    incomplete = np.arange(num_rows)
    # Rejection sampling: draw what is missing, drop what may not be listed, repeat for what is
    # left.
    for round_number in range(_MAX_ROUNDS):
        draw_numbers = first_draw + round_number * width + np.arange(width)
        draws = random_keys.integers(
            rows.keys[incomplete, None], draw_numbers.astype(np.uint64), rows.num_items
        )
        drawn = lists[incomplete]
        proposed = np.where(drawn == _UNDRAWN, draws, drawn)
        rejected = _is_repeated(proposed) | _is_excluded(proposed, incomplete, rows)
        lists[incomplete] = np.where(rejected, _UNDRAWN, proposed)
        is_incomplete = (lists[incomplete] == _UNDRAWN).any(axis=1)
        incomplete = incomplete[is_incomplete]
        if not len(incomplete):
            return replace(rows, candidates=_with_random_position(rows, lists, first_draw))
    raise DataError(
        f"audit: {width} candidates a row can't be redrawn from {rows.num_items} items, too few "
        f"are left for {len(incomplete)} rows. Audit rows with shorter lists or a larger catalogue."
    )


def _is_repeated(lists: IntArray) -> BoolArray:
    """Mark each item that stands in its list before. The first column never is."""
    # The sort is stable, so of equal items the leftmost comes first and stays unmarked.
    order = np.argsort(lists, axis=1, kind="stable")
    ordered = np.take_along_axis(lists, order, axis=1)
    repeated = np.zeros(lists.shape, dtype=bool)
    equals_previous = ordered[:, 1:] == ordered[:, :-1]
    np.put_along_axis(repeated, order[:, 1:], equals_previous, axis=1)
    return repeated


def _is_excluded(lists: IntArray, row_index: IntArray, rows: CandidateLists) -> BoolArray:
    """Mark the items that their rows exclude. The first column, the target, never is."""
    pairs = row_index[:, None] * rows.num_items + lists
    index = np.searchsorted(rows.excluded, pairs)
    index = np.minimum(index, len(rows.excluded) - 1)
    excluded = rows.excluded[index] == pairs
    excluded[:, 0] = False
    return np.asarray(excluded)


def _with_random_position(rows: CandidateLists, lists: IntArray, first_draw: int) -> IntArray:
    """Rotate each list, so that its target stands at a random position instead of the first."""
    width = lists.shape[1]
    last_draw = first_draw + _MAX_ROUNDS * width - 1
    target_positions = random_keys.integers(rows.keys, last_draw, width)
    order = (np.arange(width) - target_positions[:, None]) % width
    return np.take_along_axis(lists, order, axis=1)
