"""SASRec, the sequential recommender without language that a practitioner would use instead.

A small causal transformer over item ids, trained on the training rows alone: the rows of a user are
put together into sequences, cut into windows as long as the longest history, and every item is
predicted from those before it in its window with a softmax over all items. It gets the care that
fine-tuning gets: dropout, and an end where held-out answers get no likelier.

Source: Kang and McAuley, "Self-attentive sequential recommendation" (2018); the softmax in place of
one sampled negative as in Klenitskiy and Vasilev, "Turning dross into gold loss" (2023).
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import FloatArray
from dynamicpo.evaluation.baselines.sasrec_model import (
    Histories,
    SASRec,
    recent_items,
    score_items,
)
from dynamicpo.evaluation.baselines.sasrec_training import EPOCHS, HeldOutRows, train_sasrec
from dynamicpo.evaluation.baselines.simple import encode_items
from dynamicpo.models.backbones import COMPACT, BaseModelSpec
from dynamicpo.models.execution import device, execution_context
from dynamicpo.negatives.catalogue import item_id_array
from dynamicpo.negatives.sequences import make_sequences

if TYPE_CHECKING:
    from dynamicpo.training.checkpoints.saving import Checkpoints

# More would cost as much as training itself.
_HELD_OUT_ROWS = 4000
# In one thread, as a small model of ours: then the scores don't depend on the processors.
_BASE = BaseModelSpec(COMPACT)


class SASRecScorer:
    """Scores all items as the next one of a history.

    Attributes:
        model: The trained network.
    """

    def __init__(self, model: SASRec, item_ids: pa.Array) -> None:
        """Take a network and the items of its codes."""
        self.model = model.eval()
        self._item_ids = item_ids

    def __call__(self, rows: pa.Table) -> FloatArray:
        """Score all items for rows with a `history`. Shape (N, I)."""
        histories = recent_items(rows, self._item_ids, self.model.max_length)
        with execution_context(_BASE):
            scores = score_items(self.model, histories).cpu()
        # Without a history there is nothing to predict from: all items are alike.
        has_history = histories.is_known[:, None]
        float_scores: FloatArray = scores.numpy().astype(np.float64)
        return np.where(has_history, float_scores, 0.0)


def fit_sasrec(
    items: pd.DataFrame,
    train: pa.Table,
    seed: int = 0,
    epochs: int = EPOCHS,
    validation: pa.Table | None = None,
    checkpoints: "Checkpoints | None" = None,
) -> SASRecScorer:
    """Train SASRec on the training rows.

    Args:
        items: The items table.
        train: The training rows, with `example_id`, `user_id`, `history` and `target`.
        seed: Seed of weights, windows, order and dropout: same seed, same scores.
        epochs: Passes over the rows, at most.
        validation: Rows that training stops by; none, or none with a history: all epochs.
        checkpoints: Of an earlier attempt, to go on from, and of this one.

    Returns:
        Its scorer.

    Raises:
        DataError: An item that is not in the items table, or a checkpoint that can't be used.
    """
    item_ids = item_id_array(items)
    sequences, max_length = make_sequences(items, train)
    held_out = _held_out_rows(validation, item_ids, max_length, seed)
    # Weights and dropout draw from torch's global state, which is left as it was.
    with torch.random.fork_rng(), execution_context(_BASE):
        torch.manual_seed(seed)
        model = SASRec(len(items), max_length)
        model.to(device())
        rng = np.random.default_rng(seed)
        train_sasrec(model, sequences, max_length, epochs, rng, held_out, checkpoints)
    return SASRecScorer(model, item_ids)


def _held_out_rows(
    validation: pa.Table | None, item_ids: pa.Array, max_length: int, seed: int
) -> HeldOutRows | None:
    """Some of the validation rows that have a history; None where there is none."""
    if validation is None or not len(validation):
        return None
    example_ids = validation["example_id"].to_pylist()
    order = random_keys.random_order(seed, "sasrec", example_ids)
    rows = validation.take(np.sort(order[:_HELD_OUT_ROWS]))
    codes, lengths = recent_items(rows, item_ids, max_length)
    targets, _ = encode_items(rows["target"], item_ids)
    is_known = lengths > 0
    if not is_known.any():
        return None
    histories = Histories(codes[is_known], lengths[is_known])
    return HeldOutRows(histories, targets[is_known])
