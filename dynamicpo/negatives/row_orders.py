"""Random orders within rows, each row's by its own key, and which draw numbers each use takes."""

import numpy as np

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import FloatArray, IntArray, KeyArray

# A row has one stream of draws. Each use has a range of its own, so that no two share a draw;
# the range from 0 on belongs to the draws of `WeightedSampler`.
PROPOSAL_DRAWS = np.uint64(1 << 32)
RESERVOIR_DRAWS = np.uint64(2 << 32)
_CANDIDATE_DRAWS = np.uint64(3 << 32)
_REJECTED_DRAWS = np.uint64(4 << 32)
_SHORTEST_TIME = 2.0**-54  # in place of 0, which has no logarithm


def shuffle_proposals(keys: KeyArray, codes: IntArray, tiers: IntArray | None = None) -> IntArray:
    """Shuffle each row's codes; -1 stays behind.

    Args:
        keys: Each row's key. Shape (N,).
        codes: Shape (N, P).
        tiers: All of a lower tier come before those of a higher one. Shape (N, P).
    """
    sort_keys = _draw_each(keys, codes, PROPOSAL_DRAWS)
    if tiers is not None:
        sort_keys = sort_keys + tiers  # draws are below 1, so tiers never mix
    is_empty = codes < 0
    sort_keys[is_empty] = np.inf
    return _sorted_by(sort_keys, codes)


def sample_by_logps(keys: KeyArray, codes: IntArray, logps: FloatArray) -> IntArray:
    """Draw all codes of each row without replacement, in proportion to their probabilities.

    The order of sums of log-probability and Gumbel noise is that of such draws.

    Source: Kool et al., "Stochastic beams and where to find them" (2019), section 2.2.

    Args:
        keys: Each row's key. Shape (N,).
        codes: Shape (N, P).
        logps: Of each code, in nats. Shape (N, P).
    """
    shares = _draw_each(keys, codes, PROPOSAL_DRAWS)
    waiting_times = -np.log1p(-shares)
    gumbel = -np.log(np.maximum(waiting_times, _SHORTEST_TIME))
    sort_keys = -(logps + gumbel)
    return _sorted_by(sort_keys, codes)


def shuffle_candidates(keys: KeyArray, codes: IntArray) -> IntArray:
    """Shuffle each row's candidates, so that the target stands anywhere. Shape (N, A)."""
    sort_keys = _draw_each(keys, codes, _CANDIDATE_DRAWS)
    return _sorted_by(sort_keys, codes)


def shuffle_rejected(keys: KeyArray, codes: IntArray) -> IntArray:
    """Shuffle each row's rejected items, independently of its candidates. Shape (N, K)."""
    sort_keys = _draw_each(keys, codes, _REJECTED_DRAWS)
    return _sorted_by(sort_keys, codes)


def _draw_each(keys: KeyArray, codes: IntArray, first_draw: np.uint64) -> FloatArray:
    """Draw a uniform number for each code of each row."""
    _, num_draws = codes.shape
    row_keys = keys[:, None]
    offsets = np.arange(num_draws, dtype=np.uint64)
    draws = first_draw + offsets
    return random_keys.uniform(row_keys, draws)


def _sorted_by(sort_keys: FloatArray, codes: IntArray) -> IntArray:
    """Sort each row's codes; equal keys leave them in their order."""
    order = np.argsort(sort_keys, axis=1, kind="stable")
    return np.take_along_axis(codes, order, axis=1)
