"""Hard negatives: items that occur together with the target in training rows.

Only training rows get them. Neighbours of the target give it away, so held-out rows get uniform
negatives, the same as under the strategy 'uniform'.
"""

import logging

from dynamicpo.core.choices import SPLITS
from dynamicpo.negatives.cooccurrence import nearest_items
from dynamicpo.negatives.drawing import Draws, RowSampler, SamplingContext, fill_rows
from dynamicpo.negatives.row_orders import shuffle_proposals
from dynamicpo.negatives.weighted_sampler import RowBatch

log = logging.getLogger(__name__)

_NUM_NEAREST = 50  # neighbours that hard negatives are drawn from, at least


def hard_samplers(context: SamplingContext) -> dict[str, RowSampler]:
    """Sample hard negatives for training rows and uniform ones for the others."""
    log.warning(
        "negatives: hard ones for training rows, uniform ones for validation and test "
        "(they would leak)"
    )
    uniform = fill_rows(context.uniform_sampler(), context.num_negatives)
    return dict.fromkeys(SPLITS, uniform) | {"train": _training_sampler(context)}


def _training_sampler(context: SamplingContext) -> RowSampler:
    """Sample some of the target's nearest items, and the others uniformly."""
    sampler = context.uniform_sampler()
    num_negatives = context.num_negatives
    hard_share = context.config.hard_share
    num_hard = round(hard_share * num_negatives)
    # More neighbours than are needed, since rows exclude some of them.
    num_nearest = max(_NUM_NEAREST, 3 * num_hard)
    num_items = len(context.catalogue.item_ids)
    neighbours_of = nearest_items(context.train, num_items, num_nearest)

    def sample(batch: RowBatch) -> Draws:
        neighbours = neighbours_of[batch.targets]
        proposals = shuffle_proposals(batch.keys, neighbours)
        empty = batch.unfilled(num_negatives)
        hard = sampler.accept(batch, empty, proposals, limit=num_hard)
        num_found = int((hard >= 0).sum())
        counts = {"hard_negatives": num_found}
        negatives = sampler.fill(batch, hard)
        return Draws(negatives, counts)

    return sample
