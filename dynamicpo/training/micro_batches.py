"""Rows of a step in micro-batches that fit into memory; out of memory halves them.

The rows of a step, and so its gradient, are the same however they are cut, but for rounding.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size

from dynamicpo.core.errors import DataError

log = logging.getLogger(__name__)

# A row of SFT or of preference training, with its `example_id`.
Example = TypeVar("Example", bound=Mapping[str, Any])


class MicroBatches(Generic[Example]):
    """Cuts the rows of each step.

    Args:
        max_rows: Rows of a micro-batch.

    Attributes:
        max_tokens: Tokens of a micro-batch, as memory has run out with more; None: it has not.
    """

    def __init__(self, max_rows: int) -> None:
        """Start without a limit on tokens."""
        self.max_tokens: int | None = None
        self._max_rows = max_rows

    def cut(self, rows: Sequence[Example]) -> list[list[Example]]:
        """Micro-batches in the order of the rows; a row with more tokens than fit is alone."""
        parts: list[list[Example]] = []
        for start in range(0, len(rows), self._max_rows):
            piece = rows[start : start + self._max_rows]
            parts += self._cut_by_tokens(piece)
        return parts

    def _cut_by_tokens(self, rows: Sequence[Example]) -> list[list[Example]]:
        if self.max_tokens is None:
            return [list(rows)]
        parts: list[list[Example]] = []
        used = 0
        for row in rows:
            tokens = num_tokens(row)
            if not parts or used + tokens > self.max_tokens:
                parts.append([])
                used = 0
            parts[-1].append(row)
            used += tokens
        return parts

    def halve(self, rows: Sequence[Example]) -> None:
        """Take half as many tokens from now on, as memory has run out with these rows.

        Args:
            rows: A micro-batch.

        Raises:
            DataError: It is a single row, which can't be cut.
        """
        tokens = sum(map(num_tokens, rows))
        if len(rows) == 1:
            name = rows[0]["example_id"]
            raise DataError(
                f"row {name}: must fit into memory, but its {tokens} tokens alone do not. Lower "
                "max_length or num_negatives, set gradient_checkpointing, or use a larger device."
            )
        self.max_tokens = tokens // 2
        log.warning(
            "out of memory with a micro-batch of %d rows and %d tokens: from now on they have at "
            "most %d tokens; the batch stays as it is",
            len(rows),
            tokens,
            self.max_tokens,
        )


def num_tokens(row: Mapping[str, Any]) -> int:
    """Tokens of a row: prompt and answer, or a prompt and several answers to it."""
    if "input_ids" in row:
        return len(row["input_ids"])
    answer_tokens = sum(map(len, row["answer_ids"]))
    return len(row["prompt_ids"]) + answer_tokens


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a device, or the allocator of the CPU, had no more memory."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
