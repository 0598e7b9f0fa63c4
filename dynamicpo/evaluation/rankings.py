"""Where a model ranks each row's target: among the row's own candidates, or among all items of the catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicpo.core import random_keys
from dynamicpo.metrics.ranking import target_ranks

Scores = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """Where a model ranks each row's target, and what it recommends.

    Attributes:
        better: Candidates with a higher score than the target. Shape (N,).
        tied: Other candidates with the same score. Shape (N,).
        best: The best candidate's place in the items table; of equals the first of the row's list, which is in random
            order, and where every item is ranked one by lot. Shape (N,).
        num_candidates: Shape (N,).
        scores: Of all candidates, (N, A); where every item is ranked, of the target and of the best one, (N, 2).
        num_nan: Scores that are NaN; they rank worst.
    """

    better: Codes
    tied: Codes
    best: Codes
    num_candidates: Codes
    scores: Scores
    num_nan: int


def rank_listed(scores: Scores, target_index: Codes, codes: Codes) -> Ranking:
    """The ranking of each row's own candidates.

    Args:
        scores: Shape (N, A).
        target_index: The target's column. Shape (N,).
        codes: Each candidate's place in the items table. Shape (N, A).
    """
    top = codes[np.arange(len(codes)), best_places(scores)]
    number = np.full(len(scores), scores.shape[1], dtype=np.int64)
    return Ranking(
        *target_ranks(scores, target_index), top, number, scores, int(np.isnan(scores).sum())
    )


def rank_all(
    scores: Scores, targets: Codes, mask: NDArray[np.bool_], keys: NDArray[np.uint64]
) -> Ranking:
    """The ranking of every item.

    Args:
        scores: Shape (N, I).
        targets: The target's place in the items table. Shape (N,).
        mask: Which items are candidates. Shape (N, I).
        keys: Of the lots between equals, so that they are not all the same item's. Shape (N,).
    """
    row = np.arange(len(scores))
    top = _by_lot(np.where(mask & ~np.isnan(scores), scores, -np.inf), mask, keys)
    kept = np.stack([scores[row, targets], scores[row, top]], axis=1)
    num_nan = int((np.isnan(scores) & mask).sum())
    return Ranking(*target_ranks(scores, targets, mask), top, mask.sum(1), kept, num_nan)


def joined(parts: Sequence[Ranking]) -> Ranking:
    """Rankings of rows that follow each other."""
    names = ("better", "tied", "best", "num_candidates", "scores")
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in names
    }
    return Ranking(**columns, num_nan=sum(part.num_nan for part in parts))


def best_places(scores: Scores) -> Codes:
    """The place of each row's best candidate; NaN is worst, and of equals the first (places are random). Shape (N,)."""
    return np.asarray(np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1))


def _by_lot(scores: Scores, mask: NDArray[np.bool_], keys: NDArray[np.uint64]) -> Codes:
    """The place of each row's best candidate, one of equals by lot. Shape (N,)."""
    best = mask & (scores == scores.max(axis=1, keepdims=True))
    chosen = random_keys.integers(keys, 0, best.sum(axis=1))
    return np.asarray((best.cumsum(axis=1) > chosen[:, None]).argmax(axis=1))
