"""Filtered interactions to ordered and split sequences, as ibis expressions for any engine."""

import ibis
import ibis.expr.types as ir
import pandas as pd

from dynamicpo.core.config import DataConfig
from dynamicpo.data.filters import count_rows
from dynamicpo.data.windows import window_of

# The shares of the interactions, by time, at which validation and test begin.
_VALIDATION_START = 0.8
_TEST_START = 0.9


def build_sequences(
    connection: ibis.BaseBackend, interactions: ir.Table, config: DataConfig
) -> ir.Table:
    """Give each interaction its position in its user's sequence, its split and its history.

    Args:
        connection: An ibis connection.
        interactions: `user_id`, `item_id`, `timestamp`, `tie_break`.
        config: The rule of the split and the length of histories.

    Returns:
        `user_id`, `item_id`, `timestamp`, `position` (from 0), `split`, and `history`: the
        `max_history` items before, oldest first; null where there is none.
    """
    by_time = ibis.window(
        group_by="user_id",
        order_by=["timestamp", "tie_break", "item_id"],
    )
    numbered = interactions.select(
        "user_id",
        "item_id",
        "timestamp",
        position=ibis.row_number().over(by_time),
    )
    # A table of its own: the history's window is over positions, which are a window's result.
    numbered = connection.create_table("numbered", _with_split(numbered, config))
    before = ibis.window(
        group_by="user_id",
        order_by="position",
        preceding=(config.max_history, 1),
    )
    histories = numbered.item_id.collect().over(before)
    sequences = numbered.mutate(history=histories)
    return connection.create_table("sequences", sequences)


def _with_split(numbered: ir.Table, config: DataConfig) -> ir.Table:
    if config.split == "time":
        return _split_by_time(numbered)
    if config.split == "dates":
        return numbered.mutate(split=window_of(numbered.timestamp, config))
    return _split_by_user(numbered)


def _split_by_time(numbered: ir.Table) -> ir.Table:
    """Split 8:1:1 by time; equal timestamps never fall into two splits.

    A split begins with the timestamp at its share of the interactions.
    """
    # Timestamps that some interaction has; a quantile would lie between two of them.
    total = count_rows(numbered)
    validation_index = int(total * _VALIDATION_START)
    test_index = int(total * _TEST_START)
    ordered = numbered.order_by("timestamp").timestamp
    validation_start = _value_at(ordered, validation_index)
    test_start = _value_at(ordered, test_index)
    split = ibis.cases(
        (numbered.timestamp < validation_start, "train"),
        (numbered.timestamp < test_start, "validation"),
        else_="test",
    )
    return numbered.mutate(split=split)


def _value_at(ordered: ir.FloatingColumn, index: int) -> float:
    row = ordered.as_table().limit(1, offset=index).execute()
    return float(row.iloc[0, 0])


def _split_by_user(numbered: ir.Table) -> ir.Table:
    """Keep a user's last interaction for the test and the one before for validation."""
    user_length = numbered.count().over(group_by="user_id")
    num_after = user_length - 1 - numbered.position
    split = ibis.cases(
        (num_after == 0, "test"),
        (num_after == 1, "validation"),
        else_="train",
    )
    return numbered.mutate(split=split)


def select_examples(sequences: ir.Table, split: str, min_history: int) -> ir.Table:
    """Select a split's examples, ordered by user and position."""
    in_split = sequences.split == split
    has_history = sequences.position >= min_history
    rows = sequences.filter(in_split & has_history)
    ordered = rows.order_by(["user_id", "position"])
    # The position in the id tells later stages what of a user's items came before the row.
    example_ids = rows.user_id + ":" + rows.position.cast("string")
    return ordered.select(
        example_id=example_ids,
        user_id=rows.user_id,
        history=rows.history,
        target=rows.item_id,
        timestamp=rows.timestamp,
    )


def training_popularity(sequences: ir.Table) -> pd.DataFrame:
    """Count for each item that is left, `item_id`, its interactions in training: `popularity`."""
    # Training alone: popularity in held-out splits would tell of their targets.
    is_training = sequences.split == "train"
    by_item = sequences.group_by("item_id")
    num_in_training = is_training.sum()
    counts = by_item.aggregate(popularity=num_in_training)
    frame: pd.DataFrame = counts.to_pandas()
    return frame
