"""Users' sequences put together again from training rows, and windows of them to train on."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from dynamicpo.core.arrays import BoolArray, IntArray
from dynamicpo.negatives.catalogue import EncodedRows, encode_rows, make_catalogue

IGNORED_TARGET = -100  # a target that counts for nothing, by the convention of torch


class Sequences(NamedTuple):
    """Item codes one after the other, and the start of each sequence. Shapes (N,) and (S,)."""

    codes: IntArray
    starts: IntArray


def make_sequences(items: pd.DataFrame, train: pa.Table) -> tuple[Sequences, int]:
    """Put the rows of each user together again.

    A row continues its user's row before when its history ends with the target of that; then it
    adds its target alone. Otherwise a sequence starts with its history.

    Returns:
        The sequences, and the length of the longest history, at least 1.
    """
    rows = encode_rows(train, "train", make_catalogue(items))
    num_rows = len(rows.targets)
    history_lengths = np.bincount(rows.history_rows, minlength=num_rows)
    user_ids, _ = pd.factorize(np.asarray(rows.users, dtype=object))
    order = np.lexsort((rows.positions, user_ids))
    continues = _continues(rows, history_lengths, user_ids, order)
    rank = np.empty(num_rows, dtype=np.int64)
    rank[order] = np.arange(num_rows)
    # Each row's history comes before its target, as the sort by rank is stable.
    in_history = ~continues[rows.history_rows]
    history_ranks = rank[rows.history_rows[in_history]]
    codes = np.concatenate([rows.history[in_history], rows.targets])
    code_order = np.argsort(np.concatenate([history_ranks, rank]), kind="stable")
    added_lengths = np.where(continues, 0, history_lengths)[order] + 1
    ends = np.cumsum(added_lengths)
    is_start = ~continues[order]
    starts = ends[is_start] - added_lengths[is_start]
    longest = max(int(history_lengths.max(initial=0)), 1)
    return Sequences(codes[code_order], starts), longest


def _continues(
    rows: EncodedRows, history_lengths: IntArray, user_ids: IntArray, order: IntArray
) -> BoolArray:
    """Mark the rows whose history ends with the target of their user's row before. Shape (N,)."""
    # The item behind the last one is for rows without a history, whose end would lie outside.
    history_ends = np.append(rows.history, -1)[np.cumsum(history_lengths) - 1]
    last_items = np.where(history_lengths > 0, history_ends, -1)
    later = order[1:]
    earlier = order[:-1]
    same_user = user_ids[later] == user_ids[earlier]
    follows = last_items[later] == rows.targets[earlier]
    continues = np.zeros(len(order), dtype=bool)
    continues[later] = same_user & follows
    return continues


def cut_windows(
    sequences: Sequences, length: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Cut sequences into windows, each sequence from a random offset on.

    Returns:
        Items, and the items that follow them, both (W, length). Where a window is shorter, the
        items are 0 and the targets `IGNORED_TARGET`.
    """
    codes, starts = sequences
    lengths = np.diff(np.append(starts, len(codes)))
    sequence_index = np.repeat(np.arange(len(starts)), lengths)
    offsets = rng.integers(0, length, len(starts))
    positions = np.arange(len(codes)) - starts[sequence_index] + offsets[sequence_index]
    has_next = np.ones(len(codes), dtype=bool)
    has_next[np.cumsum(lengths) - 1] = False  # nothing follows a sequence's last item
    # A number for each window that is larger than all of the sequences before.
    window_keys = sequence_index * (len(codes) + length) + positions // length
    _, windows = np.unique(window_keys[has_next], return_inverse=True)
    columns = positions[has_next] % length
    # The first window of a sequence starts at the offset: moved to the left, it ends in padding.
    window_starts = np.flatnonzero(np.diff(windows, prepend=-1))
    first_columns = columns[window_starts]
    columns = columns - first_columns[windows]
    shape = (int(windows.max(initial=-1)) + 1, length)
    inputs = np.zeros(shape, dtype=np.int64)
    targets = np.full(shape, IGNORED_TARGET, dtype=np.int64)
    inputs[windows, columns] = codes[has_next]
    targets[windows, columns] = codes[np.flatnonzero(has_next) + 1]
    return inputs, targets
