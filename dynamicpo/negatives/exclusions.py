"""Titles that a row's negatives must not be: its history, its user's past, or all its user's items.

Where users repeat items, a row excludes nothing but its target, which is never a negative.

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
        keys = self.keys
        wanted = owners * self.num_titles + title_ids
        if not len(keys):
            return np.zeros(wanted.shape, dtype=bool)
        index = np.searchsorted(keys, wanted)
        # A key behind all others would be looked up outside.
        last = len(keys) - 1
        index = np.minimum(index, last)
        nearest = keys[index]
        is_known = nearest == wanted
        known_from = self.timestamps[index]
        is_earlier = known_from < timestamps
        is_excluded: BoolArray = is_known & is_earlier
        return is_excluded

    def count(self, owners: IntArray, timestamps: IntArray) -> IntArray:
        """Count the titles that are excluded for each owner at its timestamp."""
        span = self.span
        count_keys = self.count_keys
        first_keys = owners * span
        # Keys hold the timestamp + 1: those below this one are earlier than the row.
        offsets = timestamps + 1
        capped = np.minimum(offsets, span)  # an owner's keys end where the next one's begin
        end_keys = first_keys + capped
        first = np.searchsorted(count_keys, first_keys)
        end = np.searchsorted(count_keys, end_keys)
        return end - first

    def pairs(self, owners: IntArray, timestamps: IntArray) -> tuple[IntArray, IntArray]:
        """List all that is excluded for each owner at its timestamp.

        Returns:
            Indices into `owners`, and as many title ids.
        """
        keys = self.keys
        num_titles = self.num_titles
        first_keys = owners * num_titles
        end_keys = first_keys + num_titles
        first = np.searchsorted(keys, first_keys)
        end = np.searchsorted(keys, end_keys)
        num_keys = end - first
        index, rows = concatenated_ranges(first, num_keys)
        known_from = self.timestamps[index]
        row_timestamps = timestamps[rows]
        is_earlier = known_from < row_timestamps
        index = index[is_earlier]
        rows = rows[is_earlier]
        row_keys = keys[index]
        return rows, row_keys % num_titles


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
    num_ranges = len(starts)
    range_index = np.repeat(np.arange(num_ranges), lengths)
    # A running number over all ranges becomes one of its own range by a shift.
    num_before = np.cumsum(lengths) - lengths
    shifts = starts - num_before
    running_numbers = np.arange(len(range_index))
    numbers = running_numbers + np.repeat(shifts, lengths)
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
        exclude: 'window', 'past', 'all' or 'target'. A user's past and all of a user's items are
            taken from the rows of all splits; 'target' excludes nothing here.
        splits: The rows of every split.
        catalogue: The items.
    """
    sizes = [len(rows.targets) for rows in splits]
    split_ends = np.cumsum(sizes)
    split_starts = split_ends - sizes
    owners = _owners(exclude, splits)
    positions = np.concatenate([rows.positions for rows in splits])
    timestamps = 2 * positions
    history_rows = []
    for rows, start in zip(splits, split_starts, strict=True):
        history_rows.append(rows.history_rows + start)
    excluded = _index_items(
        exclude,
        splits,
        catalogue,
        owners,
        timestamps,
        np.concatenate(history_rows),
    )
    boundaries = split_ends[:-1]
    return RowExclusions(
        excluded=excluded,
        owners=np.split(owners, boundaries),
        timestamps=np.split(timestamps, boundaries),
    )


def _index_items(
    exclude: str,
    splits: Sequence[EncodedRows],
    catalogue: Catalogue,
    owners: IntArray,
    timestamps: IntArray,
    history_rows: IntArray,
) -> Exclusions:
    """Collect the items that are excluded for each owner, with the timestamps they count from."""
    if exclude == "target":
        nothing = np.empty(0, dtype=np.int64)
        return _index(nothing, nothing, nothing, catalogue.num_titles)
    items = np.concatenate([rows.history for rows in splits])
    item_owners = owners[history_rows]
    item_timestamps = timestamps[history_rows] - 1
    if exclude != "window":
        targets = np.concatenate([rows.targets for rows in splits])
        items = np.concatenate([items, targets])
        item_owners = np.concatenate([item_owners, owners])
        item_timestamps = np.concatenate([item_timestamps, timestamps])
    if exclude != "past":
        item_timestamps = np.full_like(item_timestamps, _ALWAYS)
    title_ids = catalogue.title_ids[items]
    return _index(item_owners, title_ids, item_timestamps, catalogue.num_titles)


def _owners(exclude: str, splits: Sequence[EncodedRows]) -> IntArray:
    """Number the rows of all splits, or their users where these own the exclusions."""
    if exclude in ("window", "target"):
        num_rows = sum(len(rows.targets) for rows in splits)
        return np.arange(num_rows, dtype=np.int64)
    users: list[str] = []
    for rows in splits:
        users += rows.users
    user_array = np.asarray(users, dtype=object)
    user_ids, _ = pd.factorize(user_array)
    return user_ids.astype(np.int64)


def _index(
    owners: IntArray, title_ids: IntArray, timestamps: IntArray, num_titles: int
) -> Exclusions:
    """Sort exclusions for binary search, each owner's title with its earliest timestamp only."""
    keys = owners * num_titles + title_ids
    order = np.lexsort((timestamps, keys))
    is_first = np.diff(keys[order], prepend=-1) != 0
    first = order[is_first]
    first_timestamps = timestamps[first]
    latest = int(timestamps.max(initial=0))
    span = latest + 3
    # Plus one, as "always" is the timestamp -1.
    count_keys = owners[first] * span + first_timestamps + 1
    return Exclusions(
        keys=keys[first],
        timestamps=first_timestamps,
        count_keys=np.sort(count_keys),
        span=span,
        num_titles=num_titles,
    )
