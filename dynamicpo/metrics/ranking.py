"""Ranking metrics of scored candidates. One relevant item a row; means over rows.

Ties get their expected value over all orders of the tied items, never the target first. A score of
NaN ranks worst.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dynamicpo.core.arrays import FloatArray, IntArray
from dynamicpo.core.errors import ConfigError, DataError, ShapeError
from dynamicpo.metrics.arrays import TensorLike, as_array

log = logging.getLogger(__name__)
KS = (1, 3, 5, 10)


class Ranks(NamedTuple):
    """The range of ranks of each row's target.

    Its rank is `better` + 1, or with `tied` others anything up to `tied` more.

    Attributes:
        better: Other candidates with a higher score. Shape (N,).
        tied: Other candidates with the same score. Shape (N,).
    """

    better: IntArray
    tied: IntArray


def target_ranks(
    scores: ArrayLike | TensorLike,
    target_index: ArrayLike | TensorLike,
    mask: ArrayLike | TensorLike | None = None,
) -> Ranks:
    """Count the candidates above and beside each row's target.

    A NaN never helps: as the target's score it is last and alone, as another candidate's it is
    below everything.

    Args:
        scores: One score a candidate, higher is better; NumPy or torch. Shape (N, A).
        target_index: The target's column. Shape (N,), whole numbers.
        mask: The candidates, the target always among them. Shape (N, A), bool; None for all.

    Raises:
        DataError: No rows, or a target outside the candidates.
        ShapeError: The shapes do not fit.
    """
    values = as_array(scores)
    targets = as_array(target_index)
    _check_ranking(values, targets)
    target_scores = np.take_along_axis(values, targets[:, None], axis=1)
    is_candidate = np.ones(values.shape, dtype=bool) if mask is None else as_array(mask)
    is_better = (values > target_scores) & is_candidate
    is_equal = (values == target_scores) & is_candidate
    better = is_better.sum(1)
    tied = is_equal.sum(1) - 1  # the target itself
    # No comparison with NaN is true, so a target without a score would come out first.
    is_missing = np.isnan(target_scores[:, 0])
    num_others = is_candidate.sum(1) - 1
    better = np.where(is_missing, num_others, better)
    tied = np.where(is_missing, 0, tied)
    return Ranks(better, tied)


def row_metrics(
    better: ArrayLike | TensorLike,
    tied: ArrayLike | TensorLike,
    num_candidates: int,
    ks: Sequence[int] = KS,
) -> dict[str, FloatArray]:
    """Hit ratio and NDCG at every K, and the reciprocal rank, of each row.

    Args:
        better: As in `Ranks`. Shape (N,).
        tied: As in `Ranks`. Shape (N,).
        num_candidates: Candidates of a row (of the shortest row, where they differ).
        ks: Cut-offs K.

    Returns:
        `hit_ratio_at_1`, `ndcg_at_5`, ..., `mrr`, each of shape (N,): means over the ranks that
        ties allow.

    Raises:
        ConfigError: A K below 1 or above the candidates.
    """
    _check_cut_offs(ks, num_candidates)
    first = as_array(better).astype(np.int64)
    ties = as_array(tied).astype(np.int64)
    # Every metric is a function of the rank alone: one table of it, looked up for each row.
    last = first + ties
    lowest_rank = int(last.max(initial=0)) + 1
    gains = _gains(lowest_rank, ks)
    metrics = {}
    for name, gain in gains.items():
        metrics[name] = _mean_over_ranks(gain, first, ties)
    return metrics


def ranking_metrics(
    scores: ArrayLike | TensorLike, target_index: ArrayLike | TensorLike, ks: Sequence[int] = KS
) -> dict[str, float]:
    """HitRatio@K, NDCG@K and MRR of scored candidates with one target a row.

    Args:
        scores: One score a candidate, higher is better; NumPy or torch. Shape (N, A).
        target_index: The target's column. Shape (N,).
        ks: Cut-offs K, each at most A.

    Returns:
        Means over rows: `hit_ratio_at_1`, ..., `ndcg_at_1`, ..., `mrr`; and `num_nan_scores`, a
        count.

    Raises:
        ConfigError: A K below 1 or above the candidates.
        DataError: No rows, or a target outside the candidates.
        ShapeError: The shapes do not fit.
    """
    values = as_array(scores)
    ranks = target_ranks(values, target_index)
    is_nan = np.isnan(values)
    num_nan = int(is_nan.sum())
    if num_nan:
        log.warning("ranking: %d of %d scores are NaN and rank worst", num_nan, values.size)
    rows = row_metrics(ranks.better, ranks.tied, values.shape[1], ks)
    means = {name: float(row.mean()) for name, row in rows.items()}
    return {**means, "num_nan_scores": float(num_nan)}


def _gains(lowest_rank: int, ks: Sequence[int]) -> dict[str, FloatArray]:
    """The value of every metric at rank 1, 2, ..., `lowest_rank`."""
    rank = np.arange(1, lowest_rank + 1)
    discount = np.log2(rank + 1)
    gains: dict[str, FloatArray] = {}
    for k in ks:
        is_hit = rank <= k
        gains[f"hit_ratio_at_{k}"] = is_hit.astype(float)
    for k in ks:
        is_hit = rank <= k
        gains[f"ndcg_at_{k}"] = is_hit / discount
    gains["mrr"] = 1 / rank
    return gains


def _mean_over_ranks(gain: FloatArray, first: IntArray, ties: IntArray) -> FloatArray:
    """Mean gain over the ranks first + 1 .. first + ties + 1; `gain` starts at rank 1."""
    # A lookup is exact, where a difference of cumulative sums would round.
    if not ties.any():
        return gain[first]
    # The sum over any range of ranks is the difference of two cumulative sums.
    sums = np.concatenate([[0.0], np.cumsum(gain)])
    num_ranks = ties + 1
    total = sums[first + num_ranks] - sums[first]
    return np.asarray(total / num_ranks)


def _check_cut_offs(ks: Sequence[int], num_candidates: int) -> None:
    for k in ks:
        if not 1 <= k <= num_candidates:
            raise ConfigError(
                f"ks: must be between 1 and the {num_candidates} candidates, got {k}. Lower K."
            )


def _check_ranking(scores: FloatArray, targets: IntArray) -> None:
    if scores.ndim != 2:
        raise ShapeError(
            f"scores: must be (N, A), got {scores.shape}. Give each row's candidates a column."
        )
    num_rows, num_candidates = scores.shape
    if targets.shape != (num_rows,):
        raise ShapeError(
            f"target_index: must be ({num_rows},) to fit scores, got {targets.shape}. "
            "Give one a row."
        )
    if not scores.size:
        raise DataError(
            f"scores: needs rows and candidates, got {scores.shape}. "
            "Evaluate a split that has rows."
        )
    if not np.issubdtype(targets.dtype, np.integer):
        raise DataError(
            f"target_index: must be whole numbers, got {targets.dtype}. Give each target's column."
        )
    # NumPy would take a negative index from the end.
    is_outside = (targets < 0) | (targets >= num_candidates)
    if is_outside.any():
        row = int(is_outside.argmax())
        raise DataError(
            f"target_index: row {row} must be in 0..{num_candidates - 1}, got {targets[row]}. "
            "Score the target too."
        )
