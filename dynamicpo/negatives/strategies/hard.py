"""Hard negatives: items that occur together with the target in training rows.

Only training rows get them. Neighbours of the target give it away, so held-out rows get those of
another strategy.
"""

import logging

from dynamicpo.core.arrays import IntArray
from dynamicpo.negatives.cooccurrence import nearest_items
from dynamicpo.negatives.drawing import RowSampler, SamplingContext, proposed_first
from dynamicpo.negatives.row_orders import shuffle_proposals
from dynamicpo.negatives.strategies.held_out import with_training_sampler
from dynamicpo.negatives.weighted_sampler import RowBatch

log = logging.getLogger(__name__)

_NUM_NEAREST = 50  # neighbours that hard negatives are drawn from, at least


def hard_samplers(context: SamplingContext) -> dict[str, RowSampler]:
    """Sample hard negatives for training rows and those of another strategy for the others."""
    log.warning(
        "negatives: hard ones for training rows, %s ones for validation and test (they would leak)",
        context.config.held_out_strategy,
    )
    sampler = _training_sampler(context)
    return with_training_sampler(context, sampler)


def _training_sampler(context: SamplingContext) -> RowSampler:
    """Sample some of the target's nearest items, and the others uniformly."""
    hard_share = context.config.hard_share
    num_hard = round(hard_share * context.num_negatives)
    # More neighbours than are needed, since rows exclude some of them.
    num_nearest = max(_NUM_NEAREST, 3 * num_hard)
    num_items = len(context.catalogue.item_ids)
    neighbours_of = nearest_items(context.train, num_items, num_nearest)

    def propose(batch: RowBatch) -> IntArray:
        neighbours = neighbours_of[batch.targets]
        return shuffle_proposals(batch.keys, neighbours)

    return proposed_first(context, propose, num_hard, "hard_negatives")
