"""Random orders within rows, each row's by its own key, and which draw numbers each use takes."""

import numpy as np

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import IntArray, KeyArray

# A row has one stream of draws. Each use has a range of its own, so that no two share a draw;
# the range from 0 on belongs to the draws of `WeightedSampler`.
PROPOSAL_DRAWS = np.uint64(1 << 32)
RESERVOIR_DRAWS = np.uint64(2 << 32)
_CANDIDATE_DRAWS = np.uint64(3 << 32)
_REJECTED_DRAWS = np.uint64(4 << 32)


def shuffle_proposals(keys: KeyArray, codes: IntArray, tiers: IntArray | None = None) -> IntArray:
    """Shuffle each row's codes; -1 stays behind.

    Args:
        keys: Each row's key. Shape (N,).
        codes: Shape (N, P).
        tiers: All of a lower tier come before those of a higher one. Shape (N, P).
    """
    draws = PROPOSAL_DRAWS + np.arange(codes.shape[1], dtype=np.uint64)
    sort_keys = random_keys.uniform(keys[:, None], draws)
    if tiers is not None:
        sort_keys = sort_keys + tiers  # draws are below 1, so tiers never mix
    sort_keys = np.where(codes >= 0, sort_keys, np.inf)
    order = np.argsort(sort_keys, axis=1, kind="stable")
    return np.take_along_axis(codes, order, axis=1)


def shuffle_candidates(keys: KeyArray, codes: IntArray) -> IntArray:
    """Shuffle each row's candidates, so that the target stands anywhere. Shape (N, A)."""
    return _shuffle(keys, codes, _CANDIDATE_DRAWS)


def shuffle_rejected(keys: KeyArray, codes: IntArray) -> IntArray:
    """Shuffle each row's rejected items, independently of its candidates. Shape (N, K)."""
    return _shuffle(keys, codes, _REJECTED_DRAWS)


def _shuffle(keys: KeyArray, codes: IntArray, first_draw: np.uint64) -> IntArray:
    draws = first_draw + np.arange(codes.shape[1], dtype=np.uint64)
    sort_keys = random_keys.uniform(keys[:, None], draws)
    order = np.argsort(sort_keys, axis=1, kind="stable")
    return np.take_along_axis(codes, order, axis=1)
