"""Weighted draws without replacement, in bulk: each row takes the first acceptable of its draws."""

from dataclasses import dataclass

import numpy as np

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import BoolArray, FloatArray, IntArray, KeyArray
from dynamicpo.negatives.catalogue import Catalogue
from dynamicpo.negatives.exclusions import Exclusions
from dynamicpo.negatives.row_orders import RESERVOIR_DRAWS

_SPARE_DRAWS = 8  # draws beyond a row's need in the first round, as some are refused
_ROUNDS = 4  # after which a row that is still not full orders the whole catalogue
_RESERVOIR_CELLS = 1 << 22  # rows times items ordered at once, which bounds the memory
_TINY_WEIGHT = 1e-30  # in place of 0: such items come after all others, in random order


@dataclass(frozen=True)
class RowBatch:
    """Rows to draw for.

    Attributes:
        keys: Each row's key. Shape (N,).
        targets: Codes. Shape (N,).
        owners: The owner of each row's exclusions. Shape (N,).
        timestamps: The logical timestamp of each row, see `exclusions`. Shape (N,).
        numbers: Each row's number in its split. Shape (N,).
    """

    keys: KeyArray
    targets: IntArray
    owners: IntArray
    timestamps: IntArray
    numbers: IntArray

    def take(self, rows: IntArray | slice) -> "RowBatch":
        """Select some of the rows."""
        return RowBatch(
            keys=self.keys[rows],
            targets=self.targets[rows],
            owners=self.owners[rows],
            timestamps=self.timestamps[rows],
            numbers=self.numbers[rows],
        )

    def unfilled(self, count: int) -> IntArray:
        """Make `count` empty slots for each row: -1. Shape (N, count)."""
        return np.full((len(self.keys), count), -1, dtype=np.int64)


class WeightedSampler:
    """Samples negatives for batches of rows.

    Args:
        catalogue: The items.
        excluded: Titles that must not be drawn.
        weights: How likely each item is, in relation to the others. Shape (I,), none negative.
            Items of weight 0 come only after all others.
    """

    def __init__(self, catalogue: Catalogue, excluded: Exclusions, weights: FloatArray) -> None:
        """Prepare the inverse of the cumulated weights."""
        self._catalogue = catalogue
        self._excluded = excluded
        if not weights.any():
            weights = np.ones_like(weights)
        self._weights = weights
        self._cumulated = np.cumsum(weights)

    def fill(self, batch: RowBatch, chosen: IntArray) -> IntArray:
        """Fill the empty slots of each row.

        Draws with replacement, of which the acceptable are taken, cost a few hash values a row.
        Where most draws are refused (a tight catalogue, one item of nearly all the weight) this
        takes too long, so rows that are open after some rounds take a weighted random order of the
        whole catalogue. Both have the distribution of successive draws without replacement.

        Args:
            batch: The rows.
            chosen: Codes that are chosen already, with -1 behind. Shape (N, M). The catalogue must
                offer M a row.

        Returns:
            Codes, -1 nowhere. Shape (N, M).
        """
        chosen = chosen.copy()
        first_draw = 0
        _, num_slots = chosen.shape
        num_draws = num_slots + _SPARE_DRAWS
        for _ in range(_ROUNDS):
            rows = _open_rows(chosen)
            part = batch.take(rows)
            proposals = self._draw(part, first_draw, num_draws)
            filled = self.accept(part, chosen[rows], proposals, num_slots)
            chosen[rows] = filled
            first_draw += num_draws
            num_draws *= 2
        self._fill_by_reservoir(batch, chosen)
        return chosen

    def _fill_by_reservoir(self, batch: RowBatch, chosen: IntArray) -> None:
        """Fill, in place, the rows that are still open."""
        num_items = len(self._weights)
        _, num_slots = chosen.shape
        rows_at_once = max(1, _RESERVOIR_CELLS // num_items)
        open_rows = _open_rows(chosen)
        for start in range(0, len(open_rows), rows_at_once):
            end = start + rows_at_once
            rows = open_rows[start:end]
            part = batch.take(rows)
            proposals = self._weighted_order(part)
            filled = self.accept(part, chosen[rows], proposals, num_slots)
            chosen[rows] = filled

    def _draw(self, batch: RowBatch, first_draw: int, num_draws: int) -> IntArray:
        """Draw items with replacement, by the inverse of the cumulated weights."""
        end = first_draw + num_draws
        draws = np.arange(first_draw, end, dtype=np.uint64)
        row_keys = batch.keys[:, None]
        shares = random_keys.uniform(row_keys, draws)
        cumulated = self._cumulated
        thresholds = shares * cumulated[-1]
        codes: IntArray = np.searchsorted(cumulated, thresholds, side="right")
        # A share just below 1 may be rounded up to the sum itself, beyond the last item.
        last_code = len(cumulated) - 1
        return np.minimum(codes, last_code)

    def _weighted_order(self, batch: RowBatch) -> IntArray:
        """Order all items at random by weight: of exponential waiting times, the shortest first.

        Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006).
        """
        weights = self._weights
        num_items = len(weights)
        items = np.arange(num_items, dtype=np.uint64)
        draws = RESERVOIR_DRAWS + items
        row_keys = batch.keys[:, None]
        shares = random_keys.uniform(row_keys, draws)
        is_drawable = weights > 0
        rates = np.where(is_drawable, weights, _TINY_WEIGHT)
        standard_waiting_times = -np.log1p(-shares)
        waiting_times = standard_waiting_times / rates
        return np.argsort(waiting_times, axis=1, kind="stable")

    def accept(
        self, batch: RowBatch, chosen: IntArray, proposals: IntArray, limit: int
    ) -> IntArray:
        """Take proposals in their order while they are acceptable.

        A proposal is refused if its title is the target's, excluded, or there already.

        Args:
            batch: The rows.
            chosen: Codes that are chosen already, with -1 behind. Shape (N, M).
            proposals: Codes, or -1 for none. Shape (N, P).
            limit: How many of a row's M slots may be taken.

        Returns:
            `chosen` with proposals behind. Shape (N, M).
        """
        codes = np.concatenate([chosen, proposals], axis=1)
        _, num_slots = chosen.shape
        is_code = codes >= 0
        title_of = self._catalogue.title_ids
        title_ids = np.where(is_code, title_of[codes], -1)
        target_titles = title_of[batch.targets]
        is_target = title_ids == target_titles[:, None]
        is_refused = is_target | _is_repeated(title_ids)
        accepted: BoolArray = is_code & ~is_refused
        # Those that are chosen already have passed this test, the most expensive one.
        new_titles = title_ids[:, num_slots:]
        is_excluded = self._excluded.contains(
            batch.owners[:, None],
            batch.timestamps[:, None],
            new_titles,
        )
        accepted[:, num_slots:] &= ~is_excluded
        # Refused ones do not count, so this takes the first acceptable of the row.
        num_so_far = np.cumsum(accepted, axis=1)
        accepted &= num_so_far <= limit
        return _move_left(codes, accepted, num_slots)


def _move_left(codes: IntArray, accepted: BoolArray, num_slots: int) -> IntArray:
    """Move each row's accepted codes to the left, with -1 behind. Shape (N, num_slots)."""
    shape = len(codes), num_slots
    filled = np.full(shape, -1, dtype=np.int64)
    num_so_far = np.cumsum(accepted, axis=1)
    rows, columns = np.nonzero(accepted)
    slots = num_so_far[rows, columns] - 1
    accepted_codes = codes[rows, columns]
    filled[rows, slots] = accepted_codes
    return filled


def _open_rows(chosen: IntArray) -> IntArray:
    """List the rows with empty slots."""
    is_empty = chosen < 0
    has_empty = is_empty.any(axis=1)
    return np.flatnonzero(has_empty)


def _is_repeated(values: IntArray) -> BoolArray:
    """Mark values that stand in their row already, further to the left."""
    # A stable sort brings equal values together and leaves the leftmost of them first.
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    right = ordered[:, 1:]
    left = ordered[:, :-1]
    repeated = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], right == left, axis=1)
    return repeated
