"""Interactions to filtered, ordered and split sequences, as ibis expressions for any engine."""

from typing import Any

import ibis
import pandas as pd

from dynamicpo.core import random_keys
from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.reading import Table

SPLIT_SHARES = (0.8, 0.9)
_PRIME = 2**31 - 1
_SHOWN = 3


def filter_interactions(
    connection: Any,
    interactions: Table,
    items: pd.DataFrame,
    config: DataConfig,
    counts: dict[str, Any],
) -> Table:
    """The interactions that count: known items, rating, one of each user and item, k-core.

    Of a user's interactions with one item the first stays: a later one would have its target in its own history,
    which no negative is, so that the candidates would give the answer away.

    Args:
        connection: An ibis connection.
        interactions: `user_id`, `item_id`, `timestamp`, `rating`.
        items: The catalogue, of which `item_id` is used.
        config: The filters.
        counts: Receives what was dropped, by reason.

    Returns:
        `user_id`, `item_id`, `timestamp`, `tie` (the order of interactions with equal timestamps).

    Raises:
        DataError: Too many unknown items, or nothing is left.
    """
    draws = random_keys.bits(random_keys.keys(0, "ties", items["item_id"].tolist()), 0) >> 33
    catalogue = connection.create_table(
        "catalogue", ibis.memtable({"item_id": items["item_id"], "draw": draws.astype("int64")})
    )
    counts["interactions_read"] = _count(interactions)
    known = connection.create_table("known", interactions.inner_join(catalogue, "item_id"))
    counts["dropped_unknown_items"] = counts["interactions_read"] - _count(known)
    _check_unknown(interactions, catalogue, config, counts)
    liked = known.filter(known.rating >= config.min_rating) if config.min_rating else known
    counts["dropped_low_rating"] = _count(known) - _count(liked)
    if not _count(liked):
        raise DataError(
            f"interactions: must leave some after the filters, but of {counts['interactions_read']} "
            f"{counts['dropped_unknown_items']} have unknown items and {counts['dropped_low_rating']} a rating below "
            f"{config.min_rating:g}. Lower min_rating or complete the items."
        )
    first = liked.group_by(["user_id", "item_id", "draw"]).aggregate(
        timestamp=liked.timestamp.min()
    )
    events = liked.select("user_id", "item_id", "timestamp").distinct()
    counts["dropped_duplicates"] = _count(liked) - _count(events)
    counts["dropped_repeats"] = _count(events) - _count(first)
    tie = _mixed(_mixed(first.draw + first.timestamp.floor().cast("int64") % _PRIME) + first.draw)
    ordered = first.select("user_id", "item_id", "timestamp", tie=tie)
    return _core(connection, connection.create_table("core0", ordered), config.k_core, counts)


def _mixed(number: Any) -> Any:
    """A square modulo a prime: a hash that every engine computes alike, which their own ones are not."""
    return (number % _PRIME) * (number % _PRIME) % _PRIME


def _check_unknown(
    interactions: Table, catalogue: Table, config: DataConfig, counts: dict[str, Any]
) -> None:
    total, unknown = counts["interactions_read"], counts["dropped_unknown_items"]
    if unknown <= config.max_unknown_share * total:
        return
    lacking = interactions.anti_join(catalogue, "item_id")
    raise DataError(
        f"interactions: at most {config.max_unknown_share:.2%} may have items that the items table lacks, got "
        f"{unknown / total:.2%} ({unknown} of {total}, such as {_some_ids(lacking)}; the items table has ids such as "
        f"{_some_ids(catalogue)}). Complete the items or raise max_unknown_share."
    )


def _some_ids(table: Table) -> str:
    names = (
        table.select("item_id").distinct().order_by("item_id").limit(_SHOWN).to_pandas()["item_id"]
    )
    return ", ".join(repr(name) for name in names)


def _core(connection: Any, table: Table, least: int, counts: dict[str, Any]) -> Table:
    """Drop users and items with fewer than `least` interactions until none is left."""
    counts["k_core_rounds"] = 0
    before, users, items = (_count(part) for part in (table, *_ids(table)))
    left = 0
    while least > 1 and left != (left := _count(table)):
        counts["k_core_rounds"] += 1
        kept = table
        for name in ("user_id", "item_id"):
            sizes = table.group_by(name).aggregate(size=table.count())
            kept = kept.semi_join(sizes.filter(sizes["size"] >= least), name)
        table = connection.create_table(f"core{counts['k_core_rounds']}", kept)
    counts["dropped_k_core"] = before - _count(table)
    counts["dropped_users"], counts["dropped_items"] = (
        total - _count(ids) for total, ids in zip((users, items), _ids(table), strict=True)
    )
    if not _count(table):
        raise DataError(
            f"interactions: must leave users and items with at least {least} interactions, but of {before} none is "
            f"left. Lower k_core or give more data."
        )
    return table


def _ids(table: Table) -> tuple[Table, Table]:
    return table.select("user_id").distinct(), table.select("item_id").distinct()


def _count(table: Table) -> int:
    return int(table.count().execute())


def sequence(connection: Any, kept: Table, config: DataConfig) -> Table:
    """Each interaction with its `position` in its user's sequence (from 0), its `split` and its `history`.

    Histories are the `max_history` items before, oldest first; null where there is none.
    """
    by_time = ibis.window(group_by="user_id", order_by=["timestamp", "tie", "item_id"])
    numbered = kept.select(
        "user_id", "item_id", "timestamp", position=ibis.row_number().over(by_time)
    )
    rule = _split_by_time if config.split == "time" else _split_by_user
    numbered = connection.create_table("numbered", rule(numbered))
    before = ibis.window(group_by="user_id", order_by="position", preceding=(config.max_history, 1))
    return connection.create_table(
        "sequences", numbered.mutate(history=numbered.item_id.collect().over(before))
    )


def _split_by_time(numbered: Table) -> Table:
    """Equal timestamps never fall into two splits: a split begins with the timestamp at its share of the rows."""
    total = _count(numbered)
    ordered = numbered.order_by("timestamp").timestamp
    first, second = (
        float(ordered.as_table().limit(1, offset=int(total * share)).execute().iloc[0, 0])
        for share in SPLIT_SHARES
    )
    when = numbered.timestamp
    return numbered.mutate(
        split=ibis.cases((when < first, "train"), (when < second, "validation"), else_="test")
    )


def _split_by_user(numbered: Table) -> Table:
    """A user's last interaction is for the test, the one before for validation."""
    after = numbered.count().over(group_by="user_id") - 1 - numbered.position
    return numbered.mutate(
        split=ibis.cases((after == 0, "test"), (after == 1, "validation"), else_="train")
    )


def examples(sequences: Table, split: str, min_history: int) -> Table:
    """A split's examples, ordered by user and position."""
    rows = sequences.filter((sequences.split == split) & (sequences.position >= min_history))
    return rows.order_by(["user_id", "position"]).select(
        example_id=rows.user_id + ":" + rows.position.cast("string"),
        user_id=rows.user_id,
        history=rows.history,
        target=rows.item_id,
        timestamp=rows.timestamp,
    )


def popularity(sequences: Table) -> pd.DataFrame:
    """`item_id` and `popularity`, its interactions in the training split, for each item that is left."""
    counted = sequences.group_by("item_id").aggregate(popularity=(sequences.split == "train").sum())
    frame: pd.DataFrame = counted.to_pandas()
    return frame
