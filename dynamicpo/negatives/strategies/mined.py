"""Negatives that a fine-tuned model mines: items that it ranks high after the row's history.

Only training rows get them: a list of the model's best items would measure the model against
itself, so held-out rows get those of another strategy.
"""

import logging

import numpy as np

from dynamicpo.core.arrays import Float32Array, IntArray, KeyArray
from dynamicpo.core.row_numbers import numbered_blocks
from dynamicpo.negatives.drawing import ItemScorer, RowSampler, SamplingContext, proposed_first
from dynamicpo.negatives.row_orders import sample_by_logps
from dynamicpo.negatives.strategies.held_out import with_training_sampler
from dynamicpo.negatives.weighted_sampler import RowBatch

log = logging.getLogger(__name__)


def mined_samplers(context: SamplingContext) -> dict[str, RowSampler]:
    """Sample training rows' negatives by a model's probabilities among its best items."""
    score_items = context.score_items
    assert score_items is not None  # the stage has refused that
    log.warning(
        "negatives: mined ones for training rows, %s ones for validation and test",
        context.config.held_out_strategy,
    )
    sampler = _training_sampler(context, score_items)
    return with_training_sampler(context, sampler)


def _training_sampler(context: SamplingContext, score_items: ItemScorer) -> RowSampler:
    """Sample without replacement among the best; where too few are allowed, any follow."""
    pool_size = context.config.model_pool

    def propose(batch: RowBatch) -> IntArray:
        return _proposals(batch, score_items, pool_size)

    return proposed_first(context, propose, context.num_negatives, "mined_negatives")


def _proposals(batch: RowBatch, score_items: ItemScorer, pool_size: int) -> IntArray:
    """The best items of each row, in a random order by their probabilities. Shape (N, P)."""
    blocks = []
    for rows, logps in numbered_blocks(score_items(batch.numbers)):
        keys = batch.keys[rows]
        blocks.append(_block_proposals(keys, logps, pool_size))
    # Without rows there is no block.
    return np.concatenate(blocks) if blocks else batch.unfilled(1)


def _block_proposals(keys: KeyArray, logps: Float32Array, pool_size: int) -> IntArray:
    """Proposals of some rows, from the log-probabilities of every item."""
    # NaN would come before all numbers.
    is_nan = np.isnan(logps)
    comparable = np.where(is_nan, -np.inf, logps).astype(np.float64)
    order = np.argsort(-comparable, axis=1, kind="stable")
    best = order[:, :pool_size].astype(np.int64)
    best_logps = np.take_along_axis(comparable, best, axis=1)
    return sample_by_logps(keys, best, best_logps)
