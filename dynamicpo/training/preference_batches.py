"""Rows of preference training: token ids, reference log-probabilities and batches."""

import logging
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import pyarrow as pa
import torch
from torch import Tensor

from dynamicpo.core.records.rows import Row
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.training.row_store import Rows, store_rows
from dynamicpo.training.trainer import LabelledBatch

log = logging.getLogger(__name__)
_COLUMNS = ["example_id", "history", "target", "rejected", "candidates"]


class PreferenceExample(TypedDict):
    """A row of the data set: a prompt and its 1 + K answers, the target first.

    `reference_logps` is missing where the loss takes no reference.
    """

    example_id: str
    prompt_ids: list[int]
    answer_ids: list[list[int]]
    reference_logps: NotRequired[list[float]]


class PreferenceBatch(LabelledBatch):
    """A batch of B rows.

    `labels` has an entry for each row, all of which count: the step's loss is the mean over rows.
    `reference_logps` has shape (B, 1 + K), nats, and is missing where the loss takes no reference.
    """

    rows: list[Row]
    example_ids: list[str]
    reference_logps: NotRequired[Tensor]


def encode_preference_rows(rows: pa.Table, prompts: Prompts, num_negatives: int) -> list[Row]:
    """Token ids of each row: the target first, then its first K rejected items.

    Args:
        rows: Preference rows.
        prompts: Prompts of the model; counts the history items that are cut.
        num_negatives: K.
    """
    encoded = []
    for row in rows.select(_COLUMNS).to_pylist():
        negatives = row["rejected"][:num_negatives]
        encoded.append(
            prompts.row(
                row["example_id"],
                row["history"],
                [row["target"], *negatives],
                row["candidates"],
            )
        )
    if prompts.cut_items:
        log.warning(
            "Preference training: cut %d history items, the oldest, to fit max_length",
            prompts.cut_items,
        )
    return encoded


def make_dataset(
    example_ids: Sequence[str], rows: Sequence[Row], reference_logps: Tensor | None
) -> Rows:
    """The data set of `PreferenceExample`s."""
    columns: dict[str, Sequence[object]] = {
        "example_id": example_ids,
        "prompt_ids": [row.prompt_ids for row in rows],
        "answer_ids": [row.answer_ids for row in rows],
    }
    if reference_logps is not None:
        columns["reference_logps"] = reference_logps.tolist()
    return store_rows(columns)


def collate_preferences(examples: list[PreferenceExample]) -> PreferenceBatch:
    """Rows to a batch; padding and packing are left to scoring."""
    # The data set stores lists alone, so that rows are made again here.
    rows = [Row(example["prompt_ids"], example["answer_ids"]) for example in examples]
    batch: PreferenceBatch = {
        "rows": rows,
        "example_ids": [example["example_id"] for example in examples],
        "labels": torch.zeros(len(examples), dtype=torch.long),
    }
    if "reference_logps" in examples[0]:
        batch["reference_logps"] = torch.tensor(
            [example["reference_logps"] for example in examples]
        )
    return batch
