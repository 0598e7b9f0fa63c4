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
    catalogue = make_catalogue(items)
    rows = encode_rows(train, "train", catalogue)
    num_rows = len(rows.targets)
    history_lengths = np.bincount(rows.history_rows, minlength=num_rows)
    users = np.asarray(rows.users, dtype=object)
    user_ids, _ = pd.factorize(users)
    order = np.lexsort((rows.positions, user_ids))
    continues = _continues(rows, history_lengths, user_ids, order)
    codes = _ordered_items(rows, continues, order)
    # A row adds its target, and its history where it starts a sequence.
    added_lengths = np.where(continues, 1, history_lengths + 1)
    added_lengths = added_lengths[order]
    ends = np.cumsum(added_lengths)
    starts = ends - added_lengths
    is_start = ~continues[order]
    sequences = Sequences(codes, starts[is_start])
    longest = int(history_lengths.max(initial=1))
    return sequences, longest


def _ordered_items(rows: EncodedRows, continues: BoolArray, order: IntArray) -> IntArray:
    """All items that rows add to sequences, in the order of the rows."""
    num_rows = len(order)
    ranks = np.empty(num_rows, dtype=np.int64)
    ranks[order] = np.arange(num_rows)
    history_rows = rows.history_rows
    is_added = ~continues[history_rows]
    added_items = rows.history[is_added]
    added_rows = history_rows[is_added]
    codes = np.concatenate([added_items, rows.targets])
    code_ranks = np.concatenate([ranks[added_rows], ranks])
    # Stable, so that each row's history stays in its order and before the target.
    code_order = np.argsort(code_ranks, kind="stable")
    return codes[code_order]


def _continues(
    rows: EncodedRows, history_lengths: IntArray, user_ids: IntArray, order: IntArray
) -> BoolArray:
    """Mark the rows whose history ends with the target of their user's row before. Shape (N,)."""
    # The item behind the last one is for rows without a history, whose end would lie outside.
    history = np.append(rows.history, -1)
    ends = np.cumsum(history_lengths)
    last_items = history[ends - 1]
    has_history = history_lengths > 0
    last_items = np.where(has_history, last_items, -1)
    later = order[1:]
    earlier = order[:-1]
    same_user = user_ids[later] == user_ids[earlier]
    earlier_targets = rows.targets[earlier]
    follows = last_items[later] == earlier_targets
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
    num_codes = len(codes)
    # Another offset in every epoch: the first item of a window has no context to learn from.
    offsets = rng.integers(0, length, len(starts))
    sequence_index, is_last = _sequence_members(sequences)
    shifts = offsets - starts
    positions = np.arange(num_codes) + shifts[sequence_index]
    items = np.flatnonzero(~is_last)  # nothing follows a sequence's last item
    positions = positions[items]
    # A number for each window that is larger than all of the sequences before.
    keys_a_sequence = num_codes + length
    first_keys = sequence_index[items] * keys_a_sequence
    window_keys = first_keys + positions // length
    _, windows = np.unique(window_keys, return_inverse=True)
    columns = _move_left(positions % length, windows)
    num_windows = int(windows.max(initial=-1)) + 1
    inputs = np.zeros((num_windows, length), dtype=np.int64)
    targets = np.full_like(inputs, IGNORED_TARGET)
    next_items = items + 1
    inputs[windows, columns] = codes[items]
    targets[windows, columns] = codes[next_items]
    return inputs, targets


def _sequence_members(sequences: Sequences) -> tuple[IntArray, BoolArray]:
    """The sequence of each item, and marks of the last ones. Shapes (N,)."""
    codes, starts = sequences
    num_codes = len(codes)
    is_start = np.zeros(num_codes, dtype=bool)
    is_start[starts] = True
    sequence_index = np.cumsum(is_start) - 1
    is_last = np.ones(num_codes, dtype=bool)
    is_last[:-1] = is_start[1:]
    return sequence_index, is_last


def _move_left(columns: IntArray, windows: IntArray) -> IntArray:
    """Move each window to the left edge.

    The first window of a sequence starts at the sequence's offset; moved, it ends in padding.
    """
    is_first = np.diff(windows, prepend=-1) != 0
    first_columns = columns[is_first]
    shifts: IntArray = first_columns[windows]
    return columns - shifts
