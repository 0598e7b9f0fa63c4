"""Popularity-matched negatives: items about as popular as the target.

The catalogue is sorted by training popularity (equals by item id) and cut into strata of one size.
Every item of a stratum has the same chance to be listed beside any other, so a list does not tell
which of its items is the target by its rank among the others, as a list of the target's nearest
neighbours in popularity would.
"""

from typing import NamedTuple

import numpy as np

from dynamicpo.core.arrays import IntArray
from dynamicpo.core.choices import SPLITS
from dynamicpo.negatives.drawing import Draws, RowSampler, SamplingContext
from dynamicpo.negatives.row_orders import shuffle_proposals
from dynamicpo.negatives.weighted_sampler import RowBatch

# Large enough that a list shows a third of its stratum, small enough that the items are alike.
_STRATUM_LISTS = 3


class Strata(NamedTuple):
    """Strata of the catalogue by popularity.

    Attributes:
        stratum_of: Each item's stratum, 0 the most popular. Shape (I,).
        items: Of each stratum its items and those of the strata beside it, -1 behind them.
            Shape (S, P).
        distances: For each of these how many strata it is away. Shape (S, P).
    """

    stratum_of: IntArray
    items: IntArray
    distances: IntArray


def stratum_size(num_candidates: int) -> int:
    """Items of a stratum, for lists of so many candidates."""
    return _STRATUM_LISTS * num_candidates


def matched_samplers(context: SamplingContext) -> dict[str, RowSampler]:
    """Sample items of the target's stratum in every split.

    Where too few of a stratum are allowed, items of those beside it follow, and then any.
    """
    sampler = context.uniform_sampler()
    size = stratum_size(context.config.num_candidates)
    strata = make_strata(context.catalogue.popularity, size)

    def sample(batch: RowBatch) -> Draws:
        target_strata = strata.stratum_of[batch.targets]
        proposals = shuffle_proposals(
            batch.keys, strata.items[target_strata], tiers=strata.distances[target_strata]
        )
        empty = batch.unfilled(context.num_negatives)
        matched = sampler.accept(batch, empty, proposals, limit=context.num_negatives)
        negatives = sampler.fill(batch, matched)
        is_matched = strata.stratum_of[negatives] == target_strata[:, None]
        return Draws(negatives, {"matched_negatives": int(is_matched.sum())})

    return dict.fromkeys(SPLITS, sample)


def make_strata(popularity: IntArray, size: int) -> Strata:
    """Cut the catalogue into strata of `size` items; the last one takes what is left over."""
    order = np.argsort(-popularity, kind="stable")
    num_strata = max(1, len(order) // size)
    stratum_by_rank = np.minimum(np.arange(len(order)) // size, num_strata - 1)
    stratum_of = np.empty_like(stratum_by_rank)
    stratum_of[order] = stratum_by_rank
    edges = np.searchsorted(stratum_by_rank, np.arange(num_strata + 1))
    spans = []
    for stratum in range(num_strata):
        start = edges[max(stratum - 1, 0)]
        stop = edges[min(stratum + 2, num_strata)]
        spans.append((start, stop))
    width = max(stop - start for start, stop in spans)
    items = np.full((num_strata, width), -1, dtype=np.int64)
    distances = np.zeros_like(items)
    for stratum, (start, stop) in enumerate(spans):
        items[stratum, : stop - start] = order[start:stop]
        distances[stratum, : stop - start] = np.abs(stratum_by_rank[start:stop] - stratum)
    return Strata(stratum_of, items, distances)
