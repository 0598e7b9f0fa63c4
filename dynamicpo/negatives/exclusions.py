"""Titles that a row's negatives must not be: its history, its user's past, or all its user's items.

Exclusions count from a logical timestamp on, which is twice a position: an item in the history of
the row at position p is known from 2p - 1 on, the row's target from 2p on. A row at position p
excludes what is known before 2p.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from dynamicpo.core.arrays import BoolArray, IntArray
from dynamicpo.negatives.catalogue import Catalogue, EncodedRows

_ALWAYS = -1  # the timestamp of what is excluded whatever the row's position


@dataclass(frozen=True)
class Exclusions:
    """Excluded titles by owner (a row, or a user), each from a logical timestamp on.

    Attributes:
        keys: owner * num_titles + title id, sorted.
        timestamps: From which timestamp on each counts, in the order of `keys`.
        count_keys: owner * span + timestamp + 1, sorted: to count an owner's exclusions.
        span: Larger than any timestamp + 1.
        num_titles: Number of titles.
    """

    keys: IntArray
    timestamps: IntArray
    count_keys: IntArray
    span: int
    num_titles: int

    def contains(self, owners: IntArray, timestamps: IntArray, title_ids: IntArray) -> BoolArray:
        """Mark titles that are excluded for their owners at the timestamps (broadcast)."""
        wanted = owners * self.num_titles + title_ids
        if not len(self.keys):
            return np.zeros(wanted.shape, dtype=bool)
        index = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        is_known = self.keys[index] == wanted
        is_earlier = self.timestamps[index] < timestamps
        return np.asarray(is_known & is_earlier)

    def count(self, owners: IntArray, timestamps: IntArray) -> IntArray:
        """Count the titles that are excluded for each owner at its timestamp."""
        first = np.searchsorted(self.count_keys, owners * self.span)
        end_keys = owners * self.span + np.minimum(timestamps + 1, self.span)
        return np.searchsorted(self.count_keys, end_keys) - first

    def pairs(self, owners: IntArray, timestamps: IntArray) -> tuple[IntArray, IntArray]:
        """List all that is excluded for each owner at its timestamp.

        Returns:
            Indices into `owners`, and as many title ids.
        """
        first = np.searchsorted(self.keys, owners * self.num_titles)
        end = np.searchsorted(self.keys, (owners + 1) * self.num_titles)
        index, rows = concatenated_ranges(first, end - first)
        counts = self.timestamps[index] < timestamps[rows]
        return rows[counts], self.keys[index[counts]] % self.num_titles


class RowExclusions(NamedTuple):
    """Exclusions of several splits, and under which owner and timestamp each row finds its own.

    Attributes:
        excluded: Of all rows or users.
        owners: For each split the owner of each row.
        timestamps: For each split the timestamp of each row.
    """

    excluded: Exclusions
    owners: list[IntArray]
    timestamps: list[IntArray]


def concatenated_ranges(starts: IntArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
    """Concatenate the ranges start .. start + length - 1 without a loop.

    Returns:
        The numbers of all ranges, and for each number the index of its range.
    """
    range_index = np.repeat(np.arange(len(starts)), lengths)
    # What to add to a running number to get to the range's own: its start less all before it.
    shifts = starts - (np.cumsum(lengths) - lengths)
    numbers = np.arange(len(range_index)) + np.repeat(shifts, lengths)
    return numbers, range_index


def effective_exclusion(config: Mapping[str, object]) -> str:
    """Read from a configuration of negative sampling what its negatives exclude.

    Published lists leave out the history, whatever `exclude` says.
    """
    if config.get("strategy") == "published":
        return "window"
    return str(config.get("exclude", "window"))


def make_exclusions(
    exclude: str, splits: Sequence[EncodedRows], catalogue: Catalogue
) -> RowExclusions:
    """Find out what is excluded for the rows of all splits.

    Args:
        exclude: 'window', 'past' or 'all'. A user's past and all of a user's items are taken from
            the rows of all splits.
        splits: The rows of every split.
        catalogue: The items.
    """
    offsets = np.cumsum([0, *(len(rows.example_ids) for rows in splits)])
    owners = _owners(exclude, splits)
    timestamps = 2 * np.concatenate([rows.positions for rows in splits])
    history = np.concatenate([rows.history for rows in splits])
    history_rows = np.concatenate(
        [rows.history_rows + offset for rows, offset in zip(splits, offsets[:-1], strict=True)]
    )
    items = history
    item_owners = owners[history_rows]
    item_timestamps = timestamps[history_rows] - 1
    if exclude != "window":
        targets = np.concatenate([rows.targets for rows in splits])
        items = np.concatenate([history, targets])
        item_owners = np.concatenate([item_owners, owners])
        item_timestamps = np.concatenate([item_timestamps, timestamps])
    if exclude != "past":
        item_timestamps = np.full_like(item_timestamps, _ALWAYS)
    title_ids = catalogue.title_ids[items]
    excluded = _index(item_owners, title_ids, item_timestamps, catalogue.num_titles)
    return RowExclusions(
        excluded, np.split(owners, offsets[1:-1]), np.split(timestamps, offsets[1:-1])
    )


def _owners(exclude: str, splits: Sequence[EncodedRows]) -> IntArray:
    """Number the rows of all splits, or their users where these own the exclusions."""
    if exclude == "window":
        return np.arange(sum(len(rows.example_ids) for rows in splits), dtype=np.int64)
    users = np.concatenate([np.asarray(rows.users, dtype=object) for rows in splits])
    user_ids, _ = pd.factorize(users)
    return user_ids.astype(np.int64)


def _index(
    owners: IntArray, title_ids: IntArray, timestamps: IntArray, num_titles: int
) -> Exclusions:
    """Sort exclusions for binary search, each owner's title with its earliest timestamp only."""
    keys = owners * num_titles + title_ids
    order = np.lexsort((timestamps, keys))
    is_first = np.flatnonzero(np.diff(keys[order], prepend=-1))
    first = order[is_first]
    span = int(timestamps.max(initial=0)) + 3
    count_keys = np.sort(owners[first] * span + timestamps[first] + 1)
    return Exclusions(keys[first], timestamps[first], count_keys, span, num_titles)
