"""Keyed draws without replacement, in bulk: the first acceptable items of each row's own stream of draws."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynamicpo.core import random_keys
from dynamicpo.negatives.catalogue import Catalogue, Codes
from dynamicpo.negatives.exclusions import Exclusions

Keys = NDArray[np.uint64]

# Each use has draw numbers of its own.
_NEIGHBOURS, _RACE, _CANDIDATES, _REJECTED = (np.uint64(use << 32) for use in range(1, 5))
_SPARE_DRAWS = 8
_ROUNDS = 4
_RACE_CELLS = 1 << 22


@dataclass(frozen=True)
class Batch:
    """Rows to draw for.

    Attributes:
        keys: Each row's key. Shape (N,).
        targets: Codes. Shape (N,).
        owners: Whose exclusions count. Shape (N,).
        moments: At which moment. Shape (N,).
    """

    keys: Keys
    targets: Codes
    owners: Codes
    moments: Codes

    def take(self, rows: Codes | slice) -> "Batch":
        """Some of the rows."""
        return Batch(self.keys[rows], self.targets[rows], self.owners[rows], self.moments[rows])


class Drawing:
    """Draws negatives for batches of rows.

    Args:
        catalogue: The items.
        excluded: What must not be drawn.
        weights: How likely each item is, in relation to the others. Shape (I,), none negative. Those of weight 0
            come only after all others.
    """

    def __init__(
        self, catalogue: Catalogue, excluded: Exclusions, weights: NDArray[np.float64]
    ) -> None:
        """Prepare the inverse of the cumulated weights."""
        self._catalogue, self._excluded = catalogue, excluded
        self._weights = weights if weights.any() else np.ones_like(weights)
        self._cumulated = np.cumsum(self._weights)

    def fill(self, batch: Batch, chosen: Codes) -> Codes:
        """Fill the empty places of each row: from its stream of draws, and where that takes too long by a race.

        Args:
            batch: The rows.
            chosen: What is chosen already, with -1 behind it. Shape (N, M). The catalogue must offer M a row.

        Returns:
            Codes, -1 nowhere. Shape (N, M).
        """
        chosen, first, width = chosen.copy(), 0, chosen.shape[1] + _SPARE_DRAWS
        for _ in range(_ROUNDS):
            rows = _open_rows(chosen)
            part = batch.take(rows)
            chosen[rows] = self.accept(
                part, chosen[rows], self._proposals(part, first, width), chosen.shape[1]
            )
            first, width = first + width, 2 * width
        rows_at_once = max(1, _RACE_CELLS // len(self._weights))
        rows = _open_rows(chosen)
        for start in range(0, len(rows), rows_at_once):
            some = rows[start : start + rows_at_once]
            part = batch.take(some)
            chosen[some] = self.accept(part, chosen[some], self._race(part), chosen.shape[1])
        return chosen

    def _proposals(self, batch: Batch, first: int, many: int) -> Codes:
        draws = np.arange(first, first + many, dtype=np.uint64)
        share = random_keys.uniform(batch.keys[:, None], draws)
        places: Codes = np.searchsorted(self._cumulated, share * self._cumulated[-1], side="right")
        return np.minimum(places, len(self._weights) - 1)

    def _race(self, batch: Batch) -> Codes:
        """All items in a random order by weight: of exponential waiting times, the shortest first.

        Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006).
        """
        items = np.arange(len(self._weights), dtype=np.uint64)
        share = random_keys.uniform(batch.keys[:, None], _RACE + items)
        waiting = -np.log1p(-share) / np.where(self._weights > 0, self._weights, 1e-30)
        return np.argsort(waiting, axis=1, kind="stable")

    def accept(self, batch: Batch, chosen: Codes, proposals: Codes, limit: int) -> Codes:
        """Take proposals in their order, if neither the target nor excluded nor of a title that is there already.

        Args:
            batch: The rows.
            chosen: What is chosen already, with -1 behind it. Shape (N, M).
            proposals: Codes, or -1 for none. Shape (N, P).
            limit: How many of a row's M places may be taken.

        Returns:
            `chosen` with proposals behind. Shape (N, M).
        """
        both = np.concatenate([chosen, proposals], axis=1)
        texts = np.where(both >= 0, self._catalogue.texts[both], -1)
        good = (
            (both >= 0)
            & ~_repeated(texts)
            & (texts != self._catalogue.texts[batch.targets][:, None])
        )
        new = slice(chosen.shape[1], None)
        good[:, new] &= ~self._excluded.contain(
            batch.owners[:, None], batch.moments[:, None], texts[:, new]
        )
        good &= np.cumsum(good, axis=1) <= limit
        filled = np.full_like(chosen, -1)
        rows, columns = np.nonzero(good)
        filled[rows, (np.cumsum(good, axis=1) - 1)[rows, columns]] = both[rows, columns]
        return filled


def _open_rows(chosen: Codes) -> Codes:
    return np.flatnonzero((chosen < 0).any(axis=1))


def _repeated(texts: Codes) -> NDArray[np.bool_]:
    """Whether a value stands in its row already, further to the left."""
    order = np.argsort(texts, axis=1, kind="stable")
    ordered = np.take_along_axis(texts, order, axis=1)
    again = np.zeros(texts.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again


def shuffled(batch: Batch, codes: Codes, tiers: Codes | None = None) -> Codes:
    """Each row's codes in an order of the row's own; -1 stays behind.

    Args:
        batch: The rows.
        codes: Shape (N, P).
        tiers: All of a lower tier come before those of a higher one. Shape (N, P).
    """
    draws = _NEIGHBOURS + np.arange(codes.shape[1], dtype=np.uint64)
    order = random_keys.uniform(batch.keys[:, None], draws) + (0 if tiers is None else tiers)
    order = np.where(codes >= 0, order, np.inf)
    return np.take_along_axis(codes, np.argsort(order, axis=1, kind="stable"), axis=1)


def candidate_order(keys: Keys, codes: Codes) -> Codes:
    """The codes of each row in a random order of the row's own."""
    return _shuffled(keys, codes, _CANDIDATES)


def rejected_order(keys: Keys, codes: Codes) -> Codes:
    """The same, in another order."""
    return _shuffled(keys, codes, _REJECTED)


def _shuffled(keys: Keys, codes: Codes, use: np.uint64) -> Codes:
    draws = use + np.arange(codes.shape[1], dtype=np.uint64)
    order = np.argsort(random_keys.uniform(keys[:, None], draws), axis=1, kind="stable")
    return np.take_along_axis(codes, order, axis=1)
