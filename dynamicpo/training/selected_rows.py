"""The rows of a split that a training takes, read file by file: all at once are gigabytes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dynamicpo.core.arrays import IntArray
from dynamicpo.core.records.rows import read_parts

_CONVERTED = 2000  # rows whose Python values are in memory at once


@dataclass(frozen=True)
class SelectedRows:
    """Rows of a split, in the order of its files.

    Attributes:
        folder: Output of negative sampling.
        split: The split's name.
        numbers: The rows' numbers in the split, ascending.
    """

    folder: Path
    split: str
    numbers: IntArray

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.numbers)

    def tables(self) -> Iterator[pa.Table]:
        """The rows of each file."""
        start = 0
        for part in read_parts(self.folder, self.split):
            stop = start + len(part)
            first, last = np.searchsorted(self.numbers, [start, stop])
            yield part.take(self.numbers[first:last] - start)
            start = stop

    def table(self) -> pa.Table:
        """All rows at once."""
        return pa.concat_tables(self.tables())


def python_rows(tables: Iterable[pa.Table], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of tables as dictionaries, of which few are in memory at once."""
    for table in tables:
        chosen = table.select(list(columns))
        for start in range(0, len(chosen), _CONVERTED):
            yield from chosen.slice(start, _CONVERTED).to_pylist()
