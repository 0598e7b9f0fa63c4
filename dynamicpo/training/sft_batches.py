"""Rows of supervised fine-tuning: token ids, labels, batches and their loss."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from dynamicpo.distributed.collectives import total
from dynamicpo.distributed.group import rank, world_size
from dynamicpo.prompts.encoding import Prompts, TokenKind
from dynamicpo.scoring.shared_prefix import token_logps
from dynamicpo.training.batches import IGNORED_LABEL, BatchLoss, LabelledBatch
from dynamicpo.training.row_store import TOKEN_IDS, MappedRows, Rows, store_rows
from dynamicpo.training.selected_rows import python_rows

log = logging.getLogger(__name__)
# Kinds of tokens that carry the loss, by the names that users choose from.
_COUNTED_KINDS: dict[str, tuple[TokenKind, ...]] = {
    "answer": ("answer",),
    "history": ("answer", "history"),
}
_ENCODED = pa.schema([("example_id", pa.string()), ("input_ids", TOKEN_IDS), ("labels", TOKEN_IDS)])


class SFTExample(TypedDict):
    """A row of the data set: prompt and answer, and for each token itself or "ignored"."""

    example_id: str
    input_ids: list[int]
    labels: list[int]


class SFTBatch(LabelledBatch):
    """A padded batch, of shape (B, T).

    Labels stand one to the left of their tokens: each position has the token that it predicts.
    `positions` are the flat ones whose label counts, `targets` these labels. Both have shape (N,).
    """

    input_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    targets: Tensor


def encode_sft_rows(
    tables: Iterable[pa.Table], prompts: Prompts, loss_on: str, folder: Path
) -> MappedRows:
    """The data set of `SFTExample`s.

    Args:
        tables: Preference rows.
        prompts: Prompts of the model; counts the history items that are cut.
        loss_on: Tokens that carry the loss, "answer" or "history".
        folder: Folder on the disk that they are to be on.
    """
    columns = ["example_id", "history", "target"]
    # Long lists, which take longer to convert than all else.
    columns += ["candidates"] if prompts.settings.list_candidates else []
    counted_kinds = _COUNTED_KINDS[loss_on]
    rows = (_encoded(row, prompts, counted_kinds) for row in python_rows(tables, columns))
    stored = store_rows(rows, _ENCODED, folder)
    if prompts.cut_items:
        log.warning(
            "SFT: cut %d history items, the oldest ones, to fit into max_length", prompts.cut_items
        )
    return stored


def _encoded(
    row: Mapping[str, Any], prompts: Prompts, counted_kinds: Sequence[TokenKind]
) -> SFTExample:
    example_id = row["example_id"]
    candidates = row.get("candidates", ())
    tokens, kinds = prompts.training_row(example_id, row["history"], row["target"], candidates)
    labels = _labels(tokens, kinds, counted_kinds)
    return {"example_id": example_id, "input_ids": tokens, "labels": labels}


def longest_row(rows: Iterable[Mapping[str, Any]]) -> int:
    """The most tokens of a row, prompt and answer; 0 without rows."""
    return max((len(row["input_ids"]) for row in rows), default=0)


def _labels(
    tokens: Sequence[int], kinds: Sequence[TokenKind], counted_kinds: Sequence[TokenKind]
) -> list[int]:
    return [
        token if kind in counted_kinds else IGNORED_LABEL
        for token, kind in zip(tokens, kinds, strict=True)
    ]


def collate_sft(rows: list[SFTExample]) -> SFTBatch:
    """Rows to a batch, padded at the end."""
    length = max(len(row["input_ids"]) for row in rows)
    shape = (len(rows), length)
    # Padding is masked, so that any token id will do.
    token_ids = np.zeros(shape, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORED_LABEL, dtype=np.int64)
    for index, row in enumerate(rows):
        size = len(row["input_ids"])
        token_ids[index, :size] = row["input_ids"]
        attention_mask[index, :size] = 1
        next_labels = row["labels"][1:]
        labels[index, : size - 1] = next_labels
    # Found here, on the host: on a GPU their number would have to be waited for.
    flat_labels = labels.reshape(-1)
    positions = np.flatnonzero(flat_labels != IGNORED_LABEL)
    return {
        "input_ids": torch.from_numpy(token_ids),
        "attention_mask": torch.from_numpy(attention_mask),
        "labels": torch.from_numpy(labels),
        "positions": torch.from_numpy(positions),
        "targets": torch.from_numpy(flat_labels[positions]),
    }


def cross_entropy(model: nn.Module, batch: SFTBatch) -> BatchLoss:
    """Cross-entropy, summed over the tokens that count."""
    # The head runs only where a token counts: its logits take more memory than all else.
    positions = batch["positions"]
    # Each of these positions predicts one token.
    prediction_index = torch.arange(len(positions), device=positions.device)
    logps = token_logps(
        model,
        batch["input_ids"],
        batch["attention_mask"],
        positions,
        prediction_index,
        batch["targets"],
    )
    return BatchLoss(-logps.sum(), {})


@torch.no_grad()
def mean_cross_entropy(model: nn.Module, rows: Rows, batch_size: int) -> float:
    """Mean cross-entropy over all tokens that count, nats; dropout is off meanwhile."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    summed = torch.zeros((), dtype=torch.float64, device=device)
    num_tokens = 0
    # Every n-th batch, where there are n processes.
    for start in range(rank() * batch_size, len(rows), world_size() * batch_size):
        stop = min(start + batch_size, len(rows))
        batch = collate_sft([rows[index] for index in range(start, stop)])
        summed += cross_entropy(model, _to_device(batch, device)).total
        num_tokens += len(batch["targets"])
    model.train(was_training)
    return total(float(summed)) / total(num_tokens)


def _to_device(batch: SFTBatch, device: torch.device) -> SFTBatch:
    return {
        "input_ids": batch["input_ids"].to(device),
        "attention_mask": batch["attention_mask"].to(device),
        "labels": batch["labels"].to(device),
        "positions": batch["positions"].to(device),
        "targets": batch["targets"].to(device),
    }
