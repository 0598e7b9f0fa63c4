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
    num_negatives = context.num_negatives
    size = stratum_size(context.config.num_candidates)
    popularity = context.catalogue.popularity
    strata = make_strata(popularity, size)
    stratum_of = strata.stratum_of

    def sample(batch: RowBatch) -> Draws:
        target_strata = stratum_of[batch.targets]
        similar_items = strata.items[target_strata]
        distances = strata.distances[target_strata]
        proposals = shuffle_proposals(batch.keys, similar_items, tiers=distances)
        empty = batch.unfilled(num_negatives)
        matched = sampler.accept(batch, empty, proposals, limit=num_negatives)
        negatives = sampler.fill(batch, matched)
        negative_strata = stratum_of[negatives]
        is_matched = negative_strata == target_strata[:, None]
        num_matched = int(is_matched.sum())
        counts = {"matched_negatives": num_matched}
        return Draws(negatives, counts)

    return dict.fromkeys(SPLITS, sample)


def make_strata(popularity: IntArray, size: int) -> Strata:
    """Cut the catalogue into strata of `size` items; the last one takes what is left over."""
    # By item id where items are equally popular, as the catalogue is sorted by it.
    order = np.argsort(-popularity, kind="stable")
    num_items = len(order)
    num_strata = max(1, num_items // size)
    last_stratum = num_strata - 1
    ranks = np.arange(num_items)
    stratum_by_rank = np.minimum(ranks // size, last_stratum)
    stratum_of = np.empty_like(stratum_by_rank)
    stratum_of[order] = stratum_by_rank
    neighbourhoods = _neighbourhoods(stratum_by_rank, num_strata)
    width = max(len(ranks) for ranks in neighbourhoods)
    shape = num_strata, width
    items = np.full(shape, -1, dtype=np.int64)
    distances = np.zeros_like(items)
    for stratum, ranks in enumerate(neighbourhoods):
        count = len(ranks)
        steps = stratum_by_rank[ranks] - stratum
        items[stratum, :count] = order[ranks]
        distances[stratum, :count] = np.abs(steps)
    return Strata(stratum_of, items, distances)


def _neighbourhoods(stratum_by_rank: IntArray, num_strata: int) -> list[IntArray]:
    """The ranks of each stratum together with those of the strata beside it."""
    strata = np.arange(num_strata + 1)
    edges = np.searchsorted(stratum_by_rank, strata)
    neighbourhoods = []
    for stratum in range(num_strata):
        first = max(stratum - 1, 0)
        end = min(stratum + 2, num_strata)
        ranks = np.arange(edges[first], edges[end])
        neighbourhoods.append(ranks)
    return neighbourhoods
