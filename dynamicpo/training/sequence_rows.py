"""Rows of whole sequences: each interaction once in a pass, not once for every later row.

The rows of a training split are sliding windows: one interaction stands in the histories of up to
ten of them, so that a loss on the history learns it ten times a pass.
"""

import numpy as np
import pandas as pd
import pyarrow as pa

from dynamicpo.negatives.catalogue import item_id_array
from dynamicpo.negatives.sequences import IGNORED_TARGET, Sequences, cut_windows, make_sequences


def sequence_rows(items: pd.DataFrame, train: pa.Table, num_passes: int, seed: int) -> pa.Table:
    """Cut users' sequences into rows as long as the longest history, anew for each pass.

    Args:
        items: The items table.
        train: Training rows; what lies between rows that are missing is not put together.
        num_passes: How often each interaction is to be learnt.
        seed: Seed of the cuts.

    Returns:
        Rows with `example_id`, `history` and `target`, pass after pass.
    """
    sequences, longest = make_sequences(items, train)
    item_ids = item_id_array(items)
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(num_passes):
        parts.append(_rows_of_pass(sequences, longest, item_ids, rng, number))
    return pa.concat_tables(parts)


def _rows_of_pass(
    sequences: Sequences,
    longest: int,
    item_ids: pa.Array,
    rng: np.random.Generator,
    number: int,
) -> pa.Table:
    inputs, targets = cut_windows(sequences, longest, rng)
    is_item = targets != IGNORED_TARGET
    lengths = is_item.sum(axis=1)
    ends = np.cumsum(lengths)
    # A window's items are those that predict something; they stand at its beginning.
    bounds = np.append(0, ends).astype(np.int32)
    history = item_ids.take(pa.array(inputs[is_item]))
    # What follows the last of them is the only item of a window that is no history.
    last = lengths - 1
    windows = np.arange(len(inputs))
    target = item_ids.take(pa.array(targets[windows, last]))
    example_ids = pa.array([f"sequence:{number}:{window}" for window in windows], pa.string())
    histories = pa.ListArray.from_arrays(pa.array(bounds), history)
    return pa.table({"example_id": example_ids, "history": histories, "target": target})
