"""SASRec, the sequential recommender without language that a practitioner would use instead.

A small causal transformer over item ids, trained on the training rows (history to target) with a softmax over all
items. Source: Kang and McAuley, "Self-attentive sequential recommendation" (2018); with the softmax in place of one
sampled negative, as Klenitskiy and Vasilev, "Turning dross into gold loss" (2023), found clearly better.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn

from dynamicpo import keyed
from dynamicpo.baselines import Codes, Scorer, Scores, item_codes
from dynamicpo.modeling import COMPACT, Base, device, running
from dynamicpo.progress import Progress

WIDTH, LAYERS, HEADS, DROPOUT = 64, 2, 2, 0.2
EPOCHS, BATCH, LEARNING_RATE = 12, 256, 2e-3


class SASRec(nn.Module):
    """Histories to the score of every item.

    Args:
        num_items: Items of the catalogue.
        length: The longest history; of longer ones the end is read.
    """

    def __init__(self, num_items: int, length: int) -> None:
        """Random weights."""
        super().__init__()
        self.items = nn.Embedding(num_items, WIDTH)
        self.places = nn.Embedding(length, WIDTH)  # counted from the end: the newest item has one place
        nn.init.normal_(self.items.weight, std=WIDTH**-0.5)
        nn.init.normal_(self.places.weight, std=WIDTH**-0.5)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, DROPOUT, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, histories: Tensor, lengths: Tensor) -> Tensor:
        """Scores, (B, I), of histories that are filled up at their end, (B, L), and of lengths >= 1, (B,)."""
        place = (lengths[:, None] - 1 - torch.arange(histories.shape[1], device=histories.device)).clamp(min=0)
        hidden = self.dropout(self.items(histories) + self.places(place))
        mask = nn.Transformer.generate_square_subsequent_mask(histories.shape[1], device=histories.device)
        hidden = self.blocks(hidden, mask=mask, is_causal=True)
        return hidden[torch.arange(len(lengths)), lengths - 1] @ self.items.weight.T


def fit_sasrec(items: pd.DataFrame, train: pa.Table, seed: int = 0, epochs: int = EPOCHS) -> Scorer:
    """Train on the training rows.

    Args:
        items: The items table.
        train: The training rows, with `example_id`, `history` and `target`.
        seed: Seed of weights, order and dropout: same seed, same scores.
        epochs: Passes over the rows.

    Returns:
        As `baselines.make_baseline`.

    Raises:
        DataError: An item that is not in the items table.
    """
    index, where = pd.Index(items["item_id"]), device()
    longest = max((len(history) for history in train["history"].to_pylist()), default=1)
    histories, lengths = _padded(train, index, max(longest, 1))
    kept = np.flatnonzero(lengths)
    targets = item_codes(train["target"], index)[0]
    order = kept[keyed.ranking(seed, "sasrec", np.asarray(train["example_id"].to_pylist(), dtype=object)[kept])]
    columns = [torch.from_numpy(column[order]).to(where) for column in (histories, lengths, targets)]
    with torch.random.fork_rng(), running(Base(COMPACT)):
        torch.manual_seed(seed)
        model = SASRec(len(items), max(longest, 1)).to(where)
        _train(model, columns, epochs)
    model.eval()

    def score(rows: pa.Table) -> Scores:
        histories, lengths = _padded(rows, index, max(longest, 1))
        with torch.no_grad(), running(Base(COMPACT)):
            given = torch.from_numpy(histories).to(where), torch.from_numpy(np.maximum(lengths, 1)).to(where)
            found = model(*given).cpu().numpy().astype(np.float64)
        return np.where(lengths[:, None] > 0, found, 0.0)

    return score


def _train(model: SASRec, columns: Sequence[Tensor], epochs: int) -> None:
    """AdamW with a cosine schedule."""
    number = len(columns[0])
    steps = epochs * math.ceil(number / BATCH)
    if not steps:
        return
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    with Progress("training SASRec", steps) as counter:
        for _ in range(epochs):
            order = torch.randperm(number)
            for start in range(0, number, BATCH):
                histories, lengths, targets = (column[order[start : start + BATCH]] for column in columns)
                loss = nn.functional.cross_entropy(model(histories, lengths), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                counter.advance(1)


def _padded(rows: pa.Table, index: "pd.Index[str]", width: int) -> tuple[Codes, Codes]:
    """The end of each history as codes, filled up with 0 behind it, and its length."""
    codes, row = item_codes(rows["history"], index)
    number = np.bincount(row, minlength=len(rows))
    lengths = np.minimum(number, width)
    place = np.arange(len(codes)) - np.repeat(np.cumsum(number) - number, number) - (number - lengths)[row]
    histories = np.zeros((len(rows), width), dtype=np.int64)
    histories[row[place >= 0], place[place >= 0]] = codes[place >= 0]
    return histories, lengths
