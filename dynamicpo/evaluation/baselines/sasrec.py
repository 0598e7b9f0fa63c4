"""SASRec, the sequential recommender without language that a practitioner would use instead.

A small causal transformer over item ids, trained on the training rows alone: the rows of a user are put back into
sequences, cut into windows as long as the longest history, and every item is predicted from those before it in its
window with a softmax over all items. Source: Kang and McAuley, "Self-attentive sequential recommendation" (2018); the
softmax in place of one sampled negative as in Klenitskiy and Vasilev, "Turning dross into gold loss" (2023).
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn

from dynamicpo.core.progress import Progress
from dynamicpo.evaluation.baselines.simple import Codes, Scorer, Scores, item_codes
from dynamicpo.models.backbones import COMPACT, BaseModelSpec
from dynamicpo.models.execution import device, execution_context
from dynamicpo.negatives.catalogue import encode_rows, make_catalogue

WIDTH, LAYERS, HEADS, DROPOUT = 64, 2, 2, 0.2
EPOCHS, BATCH, LEARNING_RATE = 20, 64, 5e-3  # looked for on validation rows of MovieLens-100k
_IGNORED = -100  # a target that counts for nothing


class SASRec(nn.Module):
    """Items to the score of every item as the next one.

    Args:
        num_items: Items of the catalogue.
        length: The longest sequence.
    """

    def __init__(self, num_items: int, length: int) -> None:
        """Random weights."""
        super().__init__()
        self.items = nn.Embedding(num_items, WIDTH)
        self.places = nn.Embedding(length, WIDTH)
        nn.init.normal_(self.items.weight, std=WIDTH**-0.5)
        nn.init.normal_(self.places.weight, std=WIDTH**-0.5)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, DROPOUT, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(
            layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False
        )
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, sequences: Tensor) -> Tensor:
        """What each place says of the next item, (B, L, D), of sequences that are filled up at their end, (B, L)."""
        hidden = self.dropout(self.items(sequences) + self.places.weight[: sequences.shape[1]])
        mask = nn.Transformer.generate_square_subsequent_mask(
            sequences.shape[1], device=sequences.device
        )
        result: Tensor = self.blocks(hidden, mask=mask, is_causal=True)
        return result

    def scores(self, hidden: Tensor) -> Tensor:
        """Of every item. Shape (..., I)."""
        return hidden @ self.items.weight.T


class Sequences(NamedTuple):
    """Item codes one after the other, and where each sequence starts. Shapes (N,) and (S,)."""

    codes: Codes
    starts: Codes


def fit_sasrec(items: pd.DataFrame, train: pa.Table, seed: int = 0, epochs: int = EPOCHS) -> Scorer:
    """Train on the training rows.

    Args:
        items: The items table.
        train: The training rows, with `example_id`, `user_id`, `history` and `target`.
        seed: Seed of weights, windows, order and dropout: same seed, same scores.
        epochs: Passes over the rows.

    Returns:
        As `baselines.make_baseline`.

    Raises:
        DataError: An item that is not in the items table.
    """
    index, where = pd.Index(items["item_id"]), device()
    sequences, width = make_sequences(items, train)
    with torch.random.fork_rng(), execution_context(BaseModelSpec(COMPACT)):
        torch.manual_seed(seed)
        model = SASRec(len(items), width).to(where)
        _train(model, sequences, width, epochs, np.random.default_rng(seed))
    model.eval()

    def score(rows: pa.Table) -> Scores:
        histories, lengths = _ends(rows, index, width)
        with torch.no_grad(), execution_context(BaseModelSpec(COMPACT)):
            hidden = model(torch.from_numpy(histories).to(where))[
                torch.arange(len(rows)), np.maximum(lengths - 1, 0)
            ]
            found = model.scores(hidden).cpu().numpy().astype(np.float64)
        return np.where(lengths[:, None] > 0, found, 0.0)

    return score


def make_sequences(items: pd.DataFrame, train: pa.Table) -> tuple[Sequences, int]:
    """The rows of a user as one sequence where each goes on from the one before, and the longest history.

    A row goes on when its history ends with the target of its user's row before; else a sequence starts with its
    history.
    """
    rows = encode_rows(train, "train", make_catalogue(items))
    size = len(rows.targets)
    number = np.bincount(rows.history_rows, minlength=size)
    users = pd.factorize(np.asarray(rows.users, dtype=object))[0]
    order = np.lexsort((rows.positions, users))
    last = np.where(number > 0, np.append(rows.history, -1)[np.cumsum(number) - 1], -1)
    follows = np.zeros(size, dtype=bool)
    follows[order[1:]] = (users[order[1:]] == users[order[:-1]]) & (
        last[order[1:]] == rows.targets[order[:-1]]
    )
    rank = np.empty(size, dtype=np.int64)
    rank[order] = np.arange(size)
    kept = ~follows[rows.history_rows]
    owner = np.concatenate([rank[rows.history_rows[kept]], rank])
    codes = np.concatenate([rows.history[kept], rows.targets])[np.argsort(owner, kind="stable")]
    first = np.flatnonzero(~follows[order])
    before = np.cumsum(np.where(follows, 0, number)[order] + 1)
    starts = before[first] - number[order][first] - 1
    return Sequences(codes, starts), max(int(number.max(initial=0)), 1)


def windows(sequences: Sequences, width: int, rng: np.random.Generator) -> tuple[Codes, Codes]:
    """Sequences cut at random places into windows: items and the items after them, both (W, width).

    Where a window is shorter, the items are 0 and the targets `_IGNORED`.
    """
    codes, starts = sequences
    lengths = np.diff(np.append(starts, len(codes)))
    shift = np.repeat(rng.integers(0, width, len(starts)), lengths)
    place = np.arange(len(codes)) - np.repeat(starts, lengths) + shift
    given = np.ones(len(codes), dtype=bool)
    given[np.cumsum(lengths) - 1] = False  # nothing follows a sequence's last item
    number = np.repeat(np.arange(len(starts)), lengths) * (len(codes) + width) + place // width
    _, row = np.unique(number[given], return_inverse=True)
    column = place[given] % width
    column = column - np.repeat(column[np.flatnonzero(np.diff(row, prepend=-1))], np.bincount(row))
    shape = (int(row.max(initial=-1)) + 1, width)
    inputs, targets = np.zeros(shape, dtype=np.int64), np.full(shape, _IGNORED, dtype=np.int64)
    inputs[row, column] = codes[given]
    targets[row, column] = codes[np.flatnonzero(given) + 1]
    return inputs, targets


def _train(
    model: SASRec, sequences: Sequences, width: int, epochs: int, rng: np.random.Generator
) -> None:
    """AdamW with a warm-up and a cosine schedule; windows are cut anew in every epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01)
    where = next(model.parameters()).device
    with Progress("training SASRec", epochs, "epochs") as counter:
        for epoch in range(epochs):
            inputs, targets = (
                torch.from_numpy(part).to(where) for part in windows(sequences, width, rng)
            )
            order = torch.from_numpy(rng.permutation(len(inputs))).to(where)
            for start in range(0, len(order), BATCH):
                done = (epoch + (start + BATCH) / (len(order) + BATCH)) / epochs
                for group in optimizer.param_groups:
                    group["lr"] = (
                        LEARNING_RATE * min(1.0, 20 * done) * (1 + math.cos(math.pi * done)) / 2
                    )
                part = order[start : start + BATCH]
                counted = targets[part] != _IGNORED
                scores = model.scores(model(inputs[part])[counted])
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(scores, targets[part][counted])
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            counter.advance(1)


def _ends(rows: pa.Table, index: "pd.Index[str]", width: int) -> tuple[Codes, Codes]:
    """The end of each history as codes, filled up with 0 behind it, and its length."""
    codes, row = item_codes(rows["history"], index)
    number = np.bincount(row, minlength=len(rows))
    lengths = np.minimum(number, width)
    place = (
        np.arange(len(codes))
        - np.repeat(np.cumsum(number) - number, number)
        - (number - lengths)[row]
    )
    histories = np.zeros((len(rows), width), dtype=np.int64)
    histories[row[place >= 0], place[place >= 0]] = codes[place >= 0]
    return histories, lengths
