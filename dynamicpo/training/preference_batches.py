"""Rows of preference training: token ids, reference log-probabilities and batches."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, overload

import pyarrow as pa
import torch
import torch.utils.data
from torch import Tensor

from dynamicpo.core.records.rows import Row
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.training.batches import LabelledBatch
from dynamicpo.training.row_store import TOKEN_IDS, MappedRows, store_rows
from dynamicpo.training.selected_rows import python_rows

log = logging.getLogger(__name__)
_SOURCE_COLUMNS = ("example_id", "history", "target", "rejected", "candidates")
_ENCODED = pa.schema(
    [
        ("example_id", pa.string()),
        ("prompt_ids", TOKEN_IDS),
        ("answer_ids", pa.list_(TOKEN_IDS)),
    ]
)


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


class PreferenceRows(torch.utils.data.Dataset[PreferenceExample]):
    """The data set: encoded rows on disk, and the reference's log-probabilities in memory.

    Args:
        encoded: Rows of `encode_preference_rows`.
        reference_logps: Shape (N, 1 + K), nats; None where the loss takes no reference.
    """

    def __init__(self, encoded: MappedRows, reference_logps: Tensor | None) -> None:
        """Keep both; they are put together when a row is asked for."""
        self._encoded = encoded
        self._reference_logps = reference_logps

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._encoded)

    def __getitem__(self, index: int) -> PreferenceExample:
        """One row."""
        row = self._encoded[index]
        example: PreferenceExample = {
            "example_id": row["example_id"],
            "prompt_ids": row["prompt_ids"],
            "answer_ids": row["answer_ids"],
        }
        if self._reference_logps is not None:
            example["reference_logps"] = self._reference_logps[index].tolist()
        return example


def encode_preference_rows(
    tables: Iterable[pa.Table], prompts: Prompts, num_negatives: int, folder: Path
) -> MappedRows:
    """Token ids of each row: the target first, then its first K rejected items.

    Args:
        tables: Preference rows.
        prompts: Prompts of the model; counts the history items that are cut.
        num_negatives: K.
        folder: Folder on the disk that they are to be on.
    """
    rows = (_stored(row, prompts, num_negatives) for row in python_rows(tables, _SOURCE_COLUMNS))
    stored = store_rows(rows, _ENCODED, folder)
    if prompts.cut_items:
        log.warning(
            "Preference training: cut %d history items, the oldest, to fit max_length",
            prompts.cut_items,
        )
    return stored


def _stored(row: Mapping[str, Any], prompts: Prompts, num_negatives: int) -> dict[str, object]:
    encoded = encode_preference_row(row, prompts, num_negatives)
    return {"example_id": row["example_id"], **vars(encoded)}


def encode_preference_row(row: Mapping[str, Any], prompts: Prompts, num_negatives: int) -> Row:
    """Token ids of a preference row: the target first, then its first K rejected items."""
    negatives = row["rejected"][:num_negatives]
    answers = [row["target"], *negatives]
    return prompts.row(row["example_id"], row["history"], answers, row["candidates"])


class RowsToScore(Sequence[Row]):
    """Encoded rows as scoring takes them, made when they are asked for."""

    def __init__(self, encoded: MappedRows) -> None:
        """Keep the encoded rows."""
        self._encoded = encoded

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._encoded)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """One row, or some."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return _row(self._encoded[index])

    def __iter__(self) -> Iterator[Row]:
        """All rows in order."""
        return map(_row, self._encoded)


def _row(encoded: Mapping[str, Any]) -> Row:
    return Row(encoded["prompt_ids"], encoded["answer_ids"])


def collate_preferences(examples: list[PreferenceExample]) -> PreferenceBatch:
    """Rows to a batch; padding and packing are left to scoring."""
    rows = [_row(example) for example in examples]
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
