"""Encoded rows for the trainer: `datasets` where it is installed, pyarrow where it is not.

Bare GPU machines and other people's code often lack `datasets`. A trainer needs no more of it than
a length and rows by their indices.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import torch.utils.data


class Rows(Protocol):
    """Methods that a trainer needs of a data set: those of `datasets.Dataset` and `ArrowRows`."""

    def __len__(self) -> int:
        """Count the rows."""

    # The values of a row are what its collator takes; neither library has a type for them.
    def __getitem__(self, index: int) -> Any:
        """One row, as a dictionary."""


class ArrowRows(torch.utils.data.Dataset[dict[str, object]]):
    """Rows of an Arrow table as dictionaries of Python values."""

    def __init__(self, table: pa.Table) -> None:
        """Keep the table; rows are converted when they are asked for."""
        self._table = table

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._table)

    def __getitem__(self, index: int) -> dict[str, object]:
        """One row."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, object]]:
        """The rows of a batch: torch's data loader asks for all of them at once."""
        rows: list[dict[str, object]] = self._table.take(list(indices)).to_pylist()
        return rows


def store_rows(columns: Mapping[str, Sequence[object]]) -> Rows:
    """Make a data set of columns of equal lengths."""
    lists = dict(columns)
    if importlib.util.find_spec("datasets") is None:
        return ArrowRows(pa.table(lists))
    # Imported where it is used: it takes a second, and may not be there.
    from datasets import Dataset

    rows: Rows = Dataset.from_dict(lists)
    return rows
