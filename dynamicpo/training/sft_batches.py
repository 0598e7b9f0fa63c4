"""Rows of supervised fine-tuning: token ids, labels, batches and their loss."""

import logging
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from dynamicpo.prompts.encoding import Prompts, TokenKind
from dynamicpo.scoring.shared_prefix import token_logps
from dynamicpo.training.row_store import Rows, store_rows
from dynamicpo.training.trainer import IGNORED_LABEL, BatchLoss, LabelledBatch

log = logging.getLogger(__name__)
# Kinds of tokens that carry the loss, by the names that users choose from.
_COUNTED_KINDS: dict[str, tuple[TokenKind, ...]] = {
    "answer": ("answer",),
    "history": ("answer", "history"),
}


class SFTExample(TypedDict):
    """A row of the data set: prompt and answer, and for each token itself or "ignored"."""

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


def encode_sft_rows(rows: pa.Table, prompts: Prompts, loss_on: str) -> Rows:
    """The data set of `SFTExample`s.

    Args:
        rows: Preference rows.
        prompts: Prompts of the model; counts the history items that are cut.
        loss_on: Tokens that carry the loss, "answer" or "history".
    """
    list_candidates = prompts.settings.list_candidates
    columns = ["example_id", "history", "target"]
    # Long lists, which take longer to convert than all else.
    columns += ["candidates"] if list_candidates else []
    counted_kinds = _COUNTED_KINDS[loss_on]
    token_ids = []
    labels = []
    for row in rows.select(columns).to_pylist():
        candidates = row["candidates"] if list_candidates else ()
        tokens, kinds = prompts.training_row(
            row["example_id"], row["history"], row["target"], candidates
        )
        token_ids.append(tokens)
        labels.append(_labels(tokens, kinds, counted_kinds))
    if prompts.cut_items:
        log.warning(
            "SFT: cut %d history items, the oldest ones, to fit into max_length", prompts.cut_items
        )
    return store_rows({"input_ids": token_ids, "labels": labels})


def longest_row(rows: Rows) -> int:
    """The most tokens of a row, prompt and answer; 0 without rows."""
    return max((len(rows[index]["input_ids"]) for index in range(len(rows))), default=0)


def _labels(
    tokens: Sequence[int], kinds: Sequence[TokenKind], counted_kinds: Sequence[TokenKind]
) -> list[int]:
    labels = []
    for token, kind in zip(tokens, kinds, strict=True):
        is_counted = kind in counted_kinds
        label = token if is_counted else IGNORED_LABEL
        labels.append(label)
    return labels


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
    total = torch.zeros((), dtype=torch.float64, device=device)
    num_tokens = 0
    for start in range(0, len(rows), batch_size):
        stop = min(start + batch_size, len(rows))
        batch = collate_sft([rows[index] for index in range(start, stop)])
        total += cross_entropy(model, _to_device(batch, device)).total
        num_tokens += len(batch["targets"])
    model.train(was_training)
    return float(total) / num_tokens


def _to_device(batch: SFTBatch, device: torch.device) -> SFTBatch:
    return {
        "input_ids": batch["input_ids"].to(device),
        "attention_mask": batch["attention_mask"].to(device),
        "labels": batch["labels"].to(device),
        "positions": batch["positions"].to(device),
        "targets": batch["targets"].to(device),
    }
