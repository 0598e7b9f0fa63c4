"""The network of SASRec, and the histories that it reads."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from dynamicpo.core.arrays import BoolArray, IntArray
from dynamicpo.evaluation.baselines.simple import encode_items
from dynamicpo.models.execution import device

_HIDDEN_SIZE = 64
_NUM_LAYERS = 2
_NUM_HEADS = 2
# Chosen on validation rows of MovieLens-100k.
_DROPOUT = 0.2


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

    @property
    def max_length(self) -> int:
        """The longest sequence."""
        return self.positions.num_embeddings

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


class Histories(NamedTuple):
    """The newest items of each row's history.

    Attributes:
        codes: Padded with 0 at the end. Shape (N, L).
        lengths: Their number. Shape (N,).
    """

    codes: IntArray
    lengths: IntArray

    @property
    def is_known(self) -> BoolArray:
        """Mark the rows that have a history. Shape (N,)."""
        return np.asarray(self.lengths > 0)


def score_items(model: SASRec, histories: Histories) -> Tensor:
    """Scores of every item after each history, without gradients. Shape (N, I)."""
    sequences = torch.from_numpy(histories.codes).to(device())
    row_index = torch.arange(len(histories.codes))
    last = np.maximum(histories.lengths - 1, 0)
    with torch.no_grad():
        hidden = model(sequences)
        last_hidden = hidden[row_index, last]
        return model.scores(last_hidden)


def recent_items(rows: pa.Table, item_ids: pa.Array, max_length: int) -> Histories:
    """The newest items of each history, padded with 0 at the end, and their number."""
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
    return Histories(histories, lengths)
