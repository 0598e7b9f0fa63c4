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
    """

    keys: KeyArray
    targets: IntArray
    owners: IntArray
    timestamps: IntArray

    def take(self, rows: IntArray | slice) -> "RowBatch":
        """Select some of the rows."""
        return RowBatch(
            keys=self.keys[rows],
            targets=self.targets[rows],
            owners=self.owners[rows],
            timestamps=self.timestamps[rows],
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
        self._weights = weights if weights.any() else np.ones_like(weights)
        self._cumulated = np.cumsum(self._weights)

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
        num_draws = chosen.shape[1] + _SPARE_DRAWS
        for _ in range(_ROUNDS):
            rows = _open_rows(chosen)
            part = batch.take(rows)
            proposals = self._draw(part, first_draw, num_draws)
            chosen[rows] = self.accept(part, chosen[rows], proposals, chosen.shape[1])
            first_draw += num_draws
            num_draws *= 2
        self._fill_by_reservoir(batch, chosen)
        return chosen

    def _fill_by_reservoir(self, batch: RowBatch, chosen: IntArray) -> None:
        """Fill, in place, the rows that are still open."""
        rows_at_once = max(1, _RESERVOIR_CELLS // len(self._weights))
        open_rows = _open_rows(chosen)
        for start in range(0, len(open_rows), rows_at_once):
            rows = open_rows[start : start + rows_at_once]
            part = batch.take(rows)
            proposals = self._weighted_order(part)
            chosen[rows] = self.accept(part, chosen[rows], proposals, chosen.shape[1])

    def _draw(self, batch: RowBatch, first_draw: int, num_draws: int) -> IntArray:
        """Draw items with replacement, by the inverse of the cumulated weights."""
        draws = np.arange(first_draw, first_draw + num_draws, dtype=np.uint64)
        shares = random_keys.uniform(batch.keys[:, None], draws)
        thresholds = shares * self._cumulated[-1]
        codes: IntArray = np.searchsorted(self._cumulated, thresholds, side="right")
        # A share just below 1 may be rounded up to the sum itself, beyond the last item.
        return np.minimum(codes, len(self._weights) - 1)

    def _weighted_order(self, batch: RowBatch) -> IntArray:
        """Order all items at random by weight: of exponential waiting times, the shortest first.

        Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006).
        """
        items = np.arange(len(self._weights), dtype=np.uint64)
        shares = random_keys.uniform(batch.keys[:, None], RESERVOIR_DRAWS + items)
        rates = np.where(self._weights > 0, self._weights, _TINY_WEIGHT)
        waiting_times = -np.log1p(-shares) / rates
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
        title_ids = np.where(codes >= 0, self._catalogue.title_ids[codes], -1)
        target_titles = self._catalogue.title_ids[batch.targets]
        accepted = (codes >= 0) & ~_is_repeated(title_ids)
        accepted &= title_ids != target_titles[:, None]
        is_new = slice(chosen.shape[1], None)
        accepted[:, is_new] &= ~self._excluded.contains(
            batch.owners[:, None], batch.timestamps[:, None], title_ids[:, is_new]
        )
        accepted &= np.cumsum(accepted, axis=1) <= limit
        slots = np.cumsum(accepted, axis=1) - 1
        filled = np.full_like(chosen, -1)
        rows, columns = np.nonzero(accepted)
        filled[rows, slots[rows, columns]] = codes[rows, columns]
        return filled


def _open_rows(chosen: IntArray) -> IntArray:
    """List the rows with empty slots."""
    return np.flatnonzero((chosen < 0).any(axis=1))


def _is_repeated(values: IntArray) -> BoolArray:
    """Mark values that stand in their row already, further to the left."""
    # A stable sort brings equal values together and leaves the leftmost of them first.
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    repeated = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return repeated
