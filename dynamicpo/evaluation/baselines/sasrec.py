"""SASRec, the sequential recommender without language that a practitioner would use instead.

A small causal transformer over item ids, trained on the training rows alone: the rows of a user are
put together into sequences, cut into windows as long as the longest history, and every item is
predicted from those before it in its window with a softmax over all items.

Source: Kang and McAuley, "Self-attentive sequential recommendation" (2018); the softmax in place of
one sampled negative as in Klenitskiy and Vasilev, "Turning dross into gold loss" (2023).
"""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn

from dynamicpo.core.arrays import FloatArray, IntArray
from dynamicpo.core.progress import Progress
from dynamicpo.evaluation.baselines.simple import Scorer, encode_items
from dynamicpo.models.backbones import COMPACT, BaseModelSpec
from dynamicpo.models.execution import device, execution_context
from dynamicpo.negatives.catalogue import item_id_array
from dynamicpo.negatives.sequences import (
    IGNORED_TARGET,
    Sequences,
    cut_windows,
    make_sequences,
)

_HIDDEN_SIZE = 64
_NUM_LAYERS = 2
_NUM_HEADS = 2
_DROPOUT = 0.2
# Tuned on validation rows of MovieLens-100k.
_EPOCHS = 20
_BATCH_SIZE = 64
_LEARNING_RATE = 5e-3
_WARM_UP_PARTS = 20  # the warm-up takes one of so many equal parts of training


class SASRec(nn.Module):
    """Sequences of items to a score of every item as the next one.

    Args:
        num_items: Items of the catalogue.
        max_length: The longest sequence.
    """

    def __init__(self, num_items: int, max_length: int) -> None:
        """Draw random weights."""
        super().__init__()
        self.items = nn.Embedding(num_items, _HIDDEN_SIZE)
        self.positions = nn.Embedding(max_length, _HIDDEN_SIZE)
        # The same embeddings score the items at the end: with torch's unit variance a score would
        # start with a standard deviation of sqrt(hidden size), and the softmax nearly one-hot.
        nn.init.normal_(self.items.weight, std=_HIDDEN_SIZE**-0.5)
        nn.init.normal_(self.positions.weight, std=_HIDDEN_SIZE**-0.5)
        layer = nn.TransformerEncoderLayer(
            _HIDDEN_SIZE,
            _NUM_HEADS,
            4 * _HIDDEN_SIZE,
            _DROPOUT,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        final_norm = nn.LayerNorm(_HIDDEN_SIZE)
        # Nested tensors, a fast path for padding masks, exist for post-norm layers alone; for
        # others torch warns of them.
        self.blocks = nn.TransformerEncoder(
            layer, _NUM_LAYERS, final_norm, enable_nested_tensor=False
        )
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, sequences: Tensor) -> Tensor:
        """Hidden states that predict the next item, at each position.

        No padding mask is needed: sequences are padded at their end, where a causal mask hides the
        padding from all items.

        Args:
            sequences: Item codes. Shape (B, L).

        Returns:
            Shape (B, L, D).
        """
        _, length = sequences.shape
        items = self.items(sequences)
        positions = self.positions.weight[:length]
        embedded = self.dropout(items + positions)
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=sequences.device)
        hidden: Tensor = self.blocks(embedded, mask=mask, is_causal=True)
        return hidden

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores of every item. Shape (..., I)."""
        return hidden @ self.items.weight.T


def fit_sasrec(
    items: pd.DataFrame, train: pa.Table, seed: int = 0, epochs: int = _EPOCHS
) -> Scorer:
    """Train SASRec on the training rows.

    Args:
        items: The items table.
        train: The training rows, with `example_id`, `user_id`, `history` and `target`.
        seed: Seed of weights, windows, order and dropout: same seed, same scores.
        epochs: Passes over the rows.

    Returns:
        As `simple.make_baseline`.

    Raises:
        DataError: An item that is not in the items table.
    """
    item_ids = item_id_array(items)
    sequences, max_length = make_sequences(items, train)
    # In one thread, as a small model of ours: then the scores don't depend on the processors.
    base = BaseModelSpec(COMPACT)
    # Weights and dropout draw from torch's global state, which is left as it was.
    with torch.random.fork_rng(), execution_context(base):
        torch.manual_seed(seed)
        model = SASRec(len(items), max_length)
        model.to(device())
        rng = np.random.default_rng(seed)
        _train(model, sequences, max_length, epochs, rng)
    model.eval()

    def score(rows: pa.Table) -> FloatArray:
        histories, lengths = _recent_items(rows, item_ids, max_length)
        sequences = _on_device(histories)
        row_index = torch.arange(len(rows))
        last = np.maximum(lengths - 1, 0)
        with torch.no_grad(), execution_context(base):
            hidden = model(sequences)
            last_hidden = hidden[row_index, last]
            scores = model.scores(last_hidden).cpu()
        # Without a history there is nothing to predict from: all items are alike.
        has_history = lengths[:, None] > 0
        float_scores: FloatArray = scores.numpy().astype(np.float64)
        return np.where(has_history, float_scores, 0.0)

    return score


def _train(
    model: SASRec, sequences: Sequences, length: int, epochs: int, rng: np.random.Generator
) -> None:
    """Train with AdamW; windows are cut anew in every epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), _LEARNING_RATE, weight_decay=0.01)
    with Progress("training SASRec", epochs, "epochs") as progress:
        for epoch in range(epochs):
            items, next_items, order = _epoch_windows(sequences, length, rng)
            num_windows = len(order)
            for start in range(0, num_windows, _BATCH_SIZE):
                end = start + _BATCH_SIZE
                # Less than 1 after the last batch, so that its learning rate is not 0.
                epoch_share = end / (num_windows + _BATCH_SIZE)
                share = (epoch + epoch_share) / epochs
                _set_learning_rate(optimizer, share)
                batch = order[start:end]
                _step(model, optimizer, items[batch], next_items[batch])
            progress.advance(1)


def _epoch_windows(
    sequences: Sequences, length: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut the windows of an epoch: items, the items that follow, and an order of the windows.

    They are few: all of them go to the device at once, and not batch by batch.
    """
    inputs, targets = cut_windows(sequences, length, rng)
    num_windows = len(inputs)
    order = rng.permutation(num_windows)
    return _on_device(inputs), _on_device(targets), _on_device(order)


def _on_device(array: IntArray) -> Tensor:
    return torch.from_numpy(array).to(device())


def _step(
    model: SASRec, optimizer: torch.optim.Optimizer, items: Tensor, next_items: Tensor
) -> None:
    """Take one step of gradient descent on a batch of windows, (B, L) both."""
    # Padding is dropped before it is scored: the scores of all items are the largest tensor.
    is_counted = next_items != IGNORED_TARGET
    hidden = model(items)
    scores = model.scores(hidden[is_counted])
    targets = next_items[is_counted]
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(scores, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = model.parameters()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def _set_learning_rate(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """Set a linear warm-up and a cosine decay to 0, at a share of all steps."""
    warm_up = min(1.0, _WARM_UP_PARTS * progress)
    cosine = math.cos(math.pi * progress)
    learning_rate = _LEARNING_RATE * warm_up * (1 + cosine) / 2
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _recent_items(rows: pa.Table, item_ids: pa.Array, max_length: int) -> tuple[IntArray, IntArray]:
    """The newest items of each history, padded with 0 at the end, and their number.

    Returns:
        Shapes (N, max_length) and (N,).
    """
    codes, code_rows = encode_items(rows["history"], item_ids)
    num_rows = len(rows)
    full_lengths = np.bincount(code_rows, minlength=num_rows)
    lengths = np.minimum(full_lengths, max_length)
    # The newest items of a history are the last ones.
    ends = np.cumsum(full_lengths)
    recent_starts = ends - lengths
    columns = np.arange(len(codes)) - recent_starts[code_rows]
    is_recent = columns >= 0
    columns = columns[is_recent]
    code_rows = code_rows[is_recent]
    histories = np.zeros((num_rows, max_length), dtype=np.int64)
    histories[code_rows, columns] = codes[is_recent]
    return histories, lengths
