"""Encoded rows on disk, mapped into memory: a million of them take little of it.

A temporary file holds them as an Arrow stream. It has no name, so that nothing is left of it
whatever ends the process. Not by `datasets`, which would keep all pages that were ever read.
"""

import mmap
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import torch.utils.data

TOKEN_IDS = pa.list_(pa.int32())
_CHUNK = 2000  # rows: few enough to be encoded in little memory
# The system maps up to a megabyte around each row that is read.
_ROWS_RESIDENT = 64


class Rows(Protocol):
    """Methods that a trainer needs of a data set."""

    def __len__(self) -> int:
        """Count the rows."""

    # The values of a row are what its collator takes.
    def __getitem__(self, index: int) -> Any:
        """One row, as a dictionary."""


class MappedRows(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows of a mapped Arrow stream as dictionaries of Python values."""

    def __init__(self, mapped: mmap.mmap) -> None:
        """Keep the mapping; rows are converted when they are asked for."""
        self._mapped = mapped
        self._num_read = 0
        buffer = pa.py_buffer(mapped)
        reader = pa.ipc.open_stream(buffer)
        # Its columns are views of the mapping.
        self._table = reader.read_all()

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One row."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        # Not `take`, which would copy whole columns of lists.
        (row,) = self._converted(index, 1)
        return row

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All rows in order, faster than by their indices."""
        for start in range(0, len(self), _CHUNK):
            yield from self._converted(start, _CHUNK)

    def _converted(self, start: int, number: int) -> list[dict[str, Any]]:
        part = self._table.slice(start, number)
        rows: list[dict[str, Any]] = part.to_pylist()
        self._num_read += len(rows)
        if self._num_read >= _ROWS_RESIDENT:
            # They stay in the system's cache, where others' needs come first.
            self._mapped.madvise(mmap.MADV_DONTNEED)
            self._num_read = 0
        return rows


def store_rows(rows: Iterable[Mapping[str, object]], schema: pa.Schema, folder: Path) -> MappedRows:
    """Write rows to a file without a name, and map it.

    Args:
        rows: Rows, taken one after the other.
        schema: Their columns.
        folder: A folder on the disk that has room for them.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        with pa.ipc.new_stream(file, schema) as writer:
            for chunk in _chunks(rows):
                batch = pa.RecordBatch.from_pylist(chunk, schema=schema)
                writer.write_batch(batch)
        file.flush()
        descriptor = file.fileno()
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    return MappedRows(mapped)


def _chunks(rows: Iterable[Mapping[str, object]]) -> Iterator[list[Mapping[str, object]]]:
    chunk: list[Mapping[str, object]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
