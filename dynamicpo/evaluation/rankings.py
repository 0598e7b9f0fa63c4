"""Rankings of each row's target: among the row's own candidates, or among all items."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import BoolArray, FloatArray, IntArray, KeyArray
from dynamicpo.metrics.ranking import target_ranks


@dataclass(frozen=True)
class Ranking:
    """The rank of each row's target by a model, and what the model recommends.

    Attributes:
        better: Candidates with a higher score than the target. Shape (N,).
        tied: Other candidates with the same score. Shape (N,).
        best: Code of the best candidate; of equals the first of the row's list, which is in random
            order, and where every item is ranked one at random. Shape (N,).
        num_candidates: Shape (N,).
        scores: Of all candidates, (N, A); where every item is ranked, of the target and of the best
            one, (N, 2).
        nan_scores: Scores of each row that are NaN; they rank worst. Shape (N,).
    """

    better: IntArray
    tied: IntArray
    best: IntArray
    num_candidates: IntArray
    scores: FloatArray
    nan_scores: IntArray

    @property
    def num_nan(self) -> int:
        """Scores that are NaN."""
        return int(self.nan_scores.sum())


def rank_listed(scores: FloatArray, target_index: IntArray, codes: IntArray) -> Ranking:
    """Rank each row's own candidates.

    Args:
        scores: Shape (N, A).
        target_index: The target's column; -1 where it is not among them: it stands behind all then,
            as one candidate more. Shape (N,).
        codes: Each candidate's code. Shape (N, A).
    """
    num_rows, num_candidates = scores.shape
    is_missing = target_index < 0
    # Of a row without its target any column will do.
    better, tied = target_ranks(scores, np.where(is_missing, 0, target_index))
    # To NumPy's argmax NaN would be the best.
    is_nan = np.isnan(scores)
    comparable = np.where(is_nan, -np.inf, scores)
    best_index = comparable.argmax(axis=1)
    rows = np.arange(num_rows)
    return Ranking(
        better=np.where(is_missing, num_candidates, better),
        tied=np.where(is_missing, 0, tied),
        best=codes[rows, best_index],
        num_candidates=num_candidates + is_missing.astype(np.int64),
        scores=scores,
        nan_scores=is_nan.sum(axis=1),
    )


def rank_all(scores: FloatArray, targets: IntArray, mask: BoolArray, keys: KeyArray) -> Ranking:
    """Rank every item.

    Args:
        scores: Shape (N, I).
        targets: The target's code. Shape (N,).
        mask: The items that are candidates. Shape (N, I).
        keys: Of the draws between equals. Shape (N,).
    """
    better, tied = target_ranks(scores, targets, mask)
    is_nan = np.isnan(scores)
    is_comparable = mask & ~is_nan
    candidate_scores = np.where(is_comparable, scores, -np.inf)
    best = _random_best(candidate_scores, mask, keys)
    # The scores of all items would be too large to keep.
    num_rows = len(scores)
    rows = np.arange(num_rows)
    target_scores = scores[rows, targets]
    best_scores = scores[rows, best]
    nan_candidates = is_nan & mask
    return Ranking(
        better=better,
        tied=tied,
        best=best,
        num_candidates=mask.sum(axis=1),
        scores=np.stack([target_scores, best_scores], axis=1),
        nan_scores=nan_candidates.sum(axis=1),
    )


def concatenate_rankings(parts: Sequence[Ranking]) -> Ranking:
    """Concatenate the rankings of rows that follow each other."""
    columns = {}
    for column in fields(Ranking):
        arrays = [getattr(part, column.name) for part in parts]
        columns[column.name] = np.concatenate(arrays)
    return Ranking(**columns)


def _random_best(scores: FloatArray, mask: BoolArray, keys: KeyArray) -> IntArray:
    """Code of each row's best candidate, of equals one at random. Shape (N,).

    Otherwise a model that knows nothing would recommend the first item of the table to everybody.
    """
    highest = scores.max(axis=1, keepdims=True)
    is_best = mask & (scores == highest)
    num_best = is_best.sum(axis=1)
    # Of a row's n best candidates the one that has k < n of them to its left, k drawn uniformly.
    draws = random_keys.integers(keys, 0, num_best)
    num_so_far = is_best.cumsum(axis=1)
    is_behind = num_so_far > draws[:, None]
    first = is_behind.argmax(axis=1)
    return np.asarray(first)
