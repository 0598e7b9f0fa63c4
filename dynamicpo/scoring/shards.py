"""Finished shards of long scoring: what is known of some rows, kept for a restart after a kill.

A shard is a file of tensors with a line for each of its rows, in the folder or prefix of one work.
It carries the key of what determines its numbers, so that it needs no guard against a second
process: who computes the same writes the same.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage import exists, fetch, join, put
from dynamicpo.core.storage.addresses import is_remote
from dynamicpo.core.storage.files import delete
from dynamicpo.distributed.collectives import tensors_from_main
from dynamicpo.distributed.group import is_main
from dynamicpo.scoring.tensor_files import read_tensors, warn_of_content, write_tensors

log = logging.getLogger(__name__)

# Work of less is done again as soon as it is read.
WORTH_SECONDS = 10.0
_NUMBERS = "row_numbers"


class ScoredRows(NamedTuple):
    """Rows with what is known of them.

    Attributes:
        numbers: Their numbers among all. Shape (n,).
        columns: By name, each of shape (n, ...).
    """

    numbers: Tensor
    columns: Mapping[str, Tensor]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.numbers)


class Shards:
    """The finished shards of one work; the main process reads and writes them.

    Args:
        place: Their folder or prefix, in which nothing else lies.
        key: Of what determines the numbers.
        every_seconds: The shortest time between two shards.
        check_owner: Called before each; raises where this process should write none.

    Attributes:
        num_taken: Rows that were taken from them.
    """

    def __init__(
        self,
        place: str,
        key: str,
        every_seconds: float,
        check_owner: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the clock."""
        self.num_taken = 0
        self._place = place
        self._key = key
        self._every_seconds = every_seconds
        self._check_owner = check_owner
        self._last_seconds = time.monotonic()
        self._pending: list[ScoredRows] = []
        self._is_writable = True

    def finished(self, num_rows: int, like: Mapping[str, Tensor]) -> ScoredRows:
        """The rows that earlier attempts have finished, in all processes.

        Args:
            num_rows: Number of all rows.
            like: Tensors without rows, of the types and shapes that those of a shard must have.
        """
        no_numbers = torch.zeros(0, dtype=torch.int64)
        none = ScoredRows(no_numbers, like)
        found = [none]
        if is_main():
            found += self._read(num_rows, none)
        own = _tensors(concatenated(found))
        rows = _scored_rows(tensors_from_main(own))
        self.num_taken = len(rows)
        if self.num_taken:
            log.info("%d of %d rows are taken from %s", self.num_taken, num_rows, self._place)
        return rows

    def add(self, rows: ScoredRows) -> None:
        """Take rows that are finished, and write a shard of all since the last when it is time to.

        Raises:
            DataError: Another process has taken over.
        """
        if not is_main() or not self._is_writable:
            return
        self._pending.append(rows)
        if self._waited() >= self._every_seconds:
            self._write_pending()

    def finish(self) -> None:
        """Write the last shard, unless little work is in it: there are no more rows.

        Raises:
            DataError: Another process has taken over.
        """
        least = min(WORTH_SECONDS, self._every_seconds)
        if self._pending and self._waited() >= least:
            self._write_pending()
        self._pending.clear()

    def remove(self) -> None:
        """Delete the shards, whose result is kept elsewhere."""
        if not is_main():
            return
        try:
            delete(self._place)
        except DataError as error:
            log.warning("%s: finished shards are not deleted (%s)", self._place, error)

    def _waited(self) -> float:
        return time.monotonic() - self._last_seconds

    def _write_pending(self) -> None:
        self._check_owner()
        rows = concatenated(self._pending)
        self._write(rows)
        self._pending.clear()
        self._last_seconds = time.monotonic()

    def _read(self, num_rows: int, like: ScoredRows) -> list[ScoredRows]:
        """The shards that are whole and of this work, each row once."""
        with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
            shards = []
            is_known = torch.zeros(num_rows, dtype=torch.bool)
            for path in self._fetch(Path(scratch)):
                rows = self._read_one(path, num_rows, like)
                if rows is None:
                    continue
                # Two processes that worked at once have cut their shards elsewhere.
                is_taken = is_known[rows.numbers].any()
                if not is_taken:
                    is_known[rows.numbers] = True
                    shards.append(rows)
            return shards

    def _read_one(self, path: Path, num_rows: int, like: ScoredRows) -> ScoredRows | None:
        tensors = read_tensors(path, self._key)
        if tensors is None:
            return None
        expected = _tensors(like)
        if not _fits(tensors, num_rows, expected):
            warn_of_content(path)
            return None
        return _scored_rows(tensors)

    def _fetch(self, scratch: Path) -> Sequence[Path]:
        try:
            if not exists(self._place):
                return []
            folder = fetch(self._place, scratch)
            return sorted(folder.glob("[!.]*.safetensors"))
        except (DataError, OSError) as error:
            log.warning("%s: finished shards are not read (%s)", self._place, error)
            return []

    def _write(self, rows: ScoredRows) -> None:
        # No other shard begins with this row, but one that could not be read.
        first = int(rows.numbers[0])
        name = f"{first:08d}.safetensors"
        tensors = _tensors(rows)
        try:
            self._keep(name, tensors)
        except (DataError, SafetensorError, OSError) as error:
            self._is_writable = False
            log.warning("%s: finished shards are not kept (%s)", self._place, error)

    def _keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        if not is_remote(self._place):
            path = Path(self._place) / name
            write_tensors(path, self._key, tensors)
            return
        with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
            path = Path(scratch) / name
            write_tensors(path, self._key, tensors)
            uri = join(self._place, name)
            put(path, uri)


class LongWork(NamedTuple):
    """A work that takes its time.

    Attributes:
        label: Its name in progress reports.
        shards: What an earlier attempt has finished is taken from them, and new rows are added.
    """

    label: str
    shards: Shards | None = None


def rows_left(batches: Sequence[Sequence[int]], numbers: Tensor) -> list[Sequence[int]]:
    """The batches of rows that are not all known by their numbers.

    They stay as they are: with other rows beside it, a row's last bits could be others.
    """
    known = set(numbers.tolist())
    left = []
    for batch in batches:
        is_known = known.issuperset(batch)
        if not is_known:
            left.append(batch)
    return left


def _tensors(rows: ScoredRows) -> dict[str, Tensor]:
    return {**rows.columns, _NUMBERS: rows.numbers}


def _scored_rows(tensors: Mapping[str, Tensor]) -> ScoredRows:
    columns = {**tensors}
    numbers = columns.pop(_NUMBERS)
    return ScoredRows(numbers, columns)


def concatenated(parts: Sequence[ScoredRows]) -> ScoredRows:
    """All rows of several parts."""
    numbers = [part.numbers for part in parts]
    columns = {}
    for name in parts[0].columns:
        tensors = [part.columns[name] for part in parts]
        columns[name] = torch.cat(tensors)
    return ScoredRows(torch.cat(numbers), columns)


def _fits(tensors: Mapping[str, Tensor], num_rows: int, like: Mapping[str, Tensor]) -> bool:
    """Tell whether tensors are those of a shard of so many rows."""
    if tensors.keys() != like.keys():
        return False
    numbers = tensors[_NUMBERS].flatten().tolist()
    for name, tensor in tensors.items():
        expected = like[name]
        shape = (len(numbers), *expected.shape[1:])
        if tensor.shape != shape or tensor.dtype != expected.dtype:
            return False
    different = set(numbers)
    if not numbers or len(different) != len(numbers):
        return False
    return different.issubset(range(num_rows))
