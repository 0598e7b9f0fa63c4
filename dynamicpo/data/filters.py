"""Filters of interactions, as ibis expressions for any engine."""

from typing import NamedTuple

import ibis
import ibis.expr.types as ir
import pandas as pd

from dynamicpo.core import random_keys
from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.messages import quoted
from dynamicpo.data.windows import AFTER, BEFORE, window_of

_PRIME = 2**31 - 1
_SHOWN_IDS = 3


class FilteredInteractions(NamedTuple):
    """Interactions that are left after filters.

    Attributes:
        table: `user_id`, `item_id`, `timestamp`, `tie_break`.
        counts: Numbers of what was dropped, by reason.
    """

    table: ir.Table
    counts: dict[str, int]


def count_rows(table: ir.Table) -> int:
    """The number of rows, by a query."""
    return int(table.count().execute())


def filter_interactions(
    connection: ibis.BaseBackend,
    interactions: ir.Table,
    item_ids: "pd.Series[str]",
    config: DataConfig,
) -> FilteredInteractions:
    """Keep the interactions that count: known items, rating, repeats, k-core.

    Of a user's interactions with one item one stays, by `repeats` the first or the last: others
    would have their target in their own history, which no negative is, so that the candidates would
    give the answer away. With all repeats negatives may come from the history, too.

    Args:
        connection: An ibis connection.
        interactions: `user_id`, `item_id`, `timestamp`, `rating`.
        item_ids: The items of the catalogue.
        config: The filters.

    Raises:
        DataError: Too many unknown items, or nothing is left.
    """
    catalogue = _catalogue_table(connection, item_ids)
    num_read = count_rows(interactions)
    interactions, late = _without_late(interactions, config)
    with_draws = interactions.inner_join(catalogue, "item_id")
    known = connection.create_table("known", with_draws)
    num_known = count_rows(known)
    num_late = late.get("dropped_late", 0)
    counts = {
        "interactions_read": num_read,
        "dropped_unknown_items": num_read - num_late - num_known,
        **late,
    }
    _check_unknown(interactions, catalogue, config, counts)
    # A rating may be missing where none is asked for, and no missing one would pass a comparison.
    liked = known
    if config.min_rating:
        is_liked = known.rating >= config.min_rating
        liked = known.filter(is_liked)
    num_liked = count_rows(liked)
    if late.get("dropped_late") == num_read:
        raise _all_late(config, num_read)
    counts["dropped_low_rating"] = num_known - num_liked
    if not num_liked:
        raise _nothing_left(config, counts)
    kept = _kept_interactions(liked, config.repeats)
    events = liked.select("user_id", "item_id", "timestamp")
    num_distinct = count_rows(events.distinct())
    counts["dropped_duplicates"] = num_liked - num_distinct
    num_kept = count_rows(kept)
    counts["dropped_repeats"] = num_distinct - num_kept
    if config.split == "dates":
        core = core_of_training(connection, kept, config)
    else:
        core = k_core(connection, kept, config.k_core)
    all_counts = counts | core.counts
    return FilteredInteractions(core.table, all_counts)


def _without_late(interactions: ir.Table, config: DataConfig) -> tuple[ir.Table, dict[str, int]]:
    """Leave out what came at or after the last date, and count it."""
    if config.split != "dates":
        return interactions, {}
    is_late = window_of(interactions.timestamp, config) == AFTER
    late = interactions.filter(is_late)
    num_late = count_rows(late)
    return interactions.filter(~is_late), {"dropped_late": num_late}


def _catalogue_table(connection: ibis.BaseBackend, item_ids: "pd.Series[str]") -> ir.Table:
    """The items, each with 31 random bits for the order of ties."""
    keys = random_keys.keys(seed=0, purpose="ties", ids=item_ids.tolist())
    draws = random_keys.bits(keys, draws=0)
    # 31 bits, so that squares fit into the 64-bit integers of every engine.
    short_draws = (draws >> 33).astype("int64")
    items = ibis.memtable(
        {
            "item_id": item_ids,
            "draw": short_draws,
        }
    )
    return connection.create_table("catalogue", items)


def _kept_interactions(liked: ir.Table, repeats: str) -> ir.Table:
    """A user's first, last or all interactions with each item, with their `tie_break`."""
    # An item has one draw; it is among the keys so that it stays a column.
    keys = ["user_id", "item_id", "draw"]
    if repeats == "all":
        # Equal rows are one event that was logged twice: nothing could tell which came first.
        kept = liked.select(*keys, "timestamp").distinct()
    else:
        times = liked.timestamp
        one_time = times.max() if repeats == "last" else times.min()
        kept = liked.group_by(keys).aggregate(timestamp=one_time)
    return kept.select(
        "user_id",
        "item_id",
        "timestamp",
        tie_break=_tie_break(kept.draw, kept.timestamp),
    )


def _tie_break(draw: ir.IntegerValue, timestamp: ir.FloatingValue) -> ir.IntegerValue:
    """A hash of item and timestamp: the order of interactions with equal timestamps.

    With the item alone, two items would always come in the same order, which could be learnt.
    """
    seconds = timestamp.floor().cast("int64")
    mixed = _squared(draw + seconds % _PRIME)
    return _squared(mixed + draw)


def _squared(number: ir.IntegerValue) -> ir.IntegerValue:
    """A square modulo a prime: a hash that all engines compute alike, unlike those they offer."""
    remainder = number % _PRIME
    return remainder * remainder % _PRIME


def _check_unknown(
    interactions: ir.Table, catalogue: ir.Table, config: DataConfig, counts: dict[str, int]
) -> None:
    total = counts["interactions_read"]
    unknown = counts["dropped_unknown_items"]
    if unknown <= config.max_unknown_share * total:
        return
    missing = interactions.anti_join(catalogue, "item_id")
    raise DataError(
        f"interactions: at most {config.max_unknown_share:.2%} may have items that the items table "
        f"lacks, got {unknown / total:.2%} ({unknown} of {total}, such as {_some_ids(missing)}; "
        f"the items table has ids such as {_some_ids(catalogue)}). Complete the items or raise "
        "max_unknown_share."
    )


def _nothing_left(config: DataConfig, counts: dict[str, int]) -> DataError:
    return DataError(
        f"interactions: must leave some after the filters, but of {counts['interactions_read']} "
        f"{counts['dropped_unknown_items']} have unknown items and "
        f"{counts['dropped_low_rating']} a rating below {config.min_rating:g}. "
        "Lower min_rating or complete the items."
    )


def _all_late(config: DataConfig, num_read: int) -> DataError:
    return DataError(
        f"interactions: some must be before data_until ({config.data_until}), but all {num_read} "
        "are later. Change the dates, or the times' unit (time_format)."
    )


def _some_ids(table: ir.Table) -> str:
    # Sorted, so that the same files give the same message.
    distinct = table.select("item_id").distinct()
    ordered = distinct.order_by("item_id")
    frame = ordered.limit(_SHOWN_IDS).to_pandas()
    return ", ".join(quoted(item_id) for item_id in frame["item_id"])


def k_core(
    connection: ibis.BaseBackend, interactions: ir.Table, min_count: int
) -> FilteredInteractions:
    """Drop users and items with fewer than `min_count` interactions until none is left.

    Raises:
        DataError: No interaction is left.
    """
    # Each round is a table of its own: as one expression, the query would grow with the rounds.
    table = connection.create_table("core0", interactions)
    num_before = count_rows(table)
    num_users = _count_distinct(table, "user_id")
    num_items = _count_distinct(table, "item_id")
    rounds = 0
    previous = 0
    remaining = num_before
    # One round is not enough: without its rare items a user may be rare, and the reverse.
    while min_count > 1 and remaining != previous:
        rounds += 1
        table = connection.create_table(f"core{rounds}", _drop_rare(table, min_count))
        previous = remaining
        remaining = count_rows(table)
    if not remaining:
        raise DataError(
            f"interactions: must leave users and items with at least {min_count} interactions, but "
            f"of {num_before} none is left. Lower k_core or give more data."
        )
    counts = {
        "k_core_rounds": rounds,
        "dropped_k_core": num_before - remaining,
        "dropped_users": num_users - _count_distinct(table, "user_id"),
        "dropped_items": num_items - _count_distinct(table, "item_id"),
    }
    return FilteredInteractions(table, counts)


def core_of_training(
    connection: ibis.BaseBackend, interactions: ir.Table, config: DataConfig
) -> FilteredInteractions:
    """Take the k-core of the training window alone, with what comes before and after it.

    Later windows are kept whole: users and items that are new in them are what a model meets. What
    comes before the first date serves as history, of users and items that are in a window.

    Raises:
        DataError: No interaction is left in training.
    """
    windows = interactions.mutate(window=window_of(interactions.timestamp, config))
    windows = connection.create_table("windows", windows)
    training = windows.filter(windows.window == "train").drop("window")
    if not count_rows(training):
        raise _no_training(interactions, config)
    core = k_core(connection, training, config.k_core)
    held_out = windows.filter(windows.window.isin(["validation", "test"])).drop("window")
    targets = connection.create_table("targets", core.table.union(held_out))
    before = windows.filter(windows.window == BEFORE).drop("window")
    history = before.semi_join(targets, "user_id").semi_join(targets, "item_id")
    counts = core.counts | {
        "history_interactions": count_rows(history),
        "dropped_history": count_rows(before) - count_rows(history),
        "new_users": _count_distinct(held_out.anti_join(core.table, "user_id"), "user_id"),
        "new_items": _count_distinct(held_out.anti_join(core.table, "item_id"), "item_id"),
    }
    table = connection.create_table("core_and_windows", targets.union(history))
    return FilteredInteractions(table, counts)


def _no_training(interactions: ir.Table, config: DataConfig) -> DataError:
    """Make the error for dates between which nothing happened."""
    times = interactions.timestamp
    ends = interactions.aggregate(first=times.min(), last=times.max())
    ((first, last),) = ends.to_pandas().itertuples(index=False)
    start = f"from {config.data_from}" if config.data_from else "from the start"
    return DataError(
        f"interactions: some must be in training, {start} until {config.train_until}, but none is; "
        f"those before the last date are from {_utc(first)} until {_utc(last)} (UTC). "
        "Change data_from and train_until, or the times' unit (time_format)."
    )


def _utc(seconds: float) -> str:
    moment = pd.Timestamp(seconds, unit="s")
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _drop_rare(table: ir.Table, min_count: int) -> ir.Table:
    """Drop users and items that are rare in the table, both counted before either is dropped."""
    frequent = table
    for name in ("user_id", "item_id"):
        groups = table.group_by(name)
        group_size = table.count()
        sizes = groups.aggregate(num_interactions=group_size)
        is_frequent = sizes.num_interactions >= min_count
        frequent_ids = sizes.filter(is_frequent)
        frequent = frequent.semi_join(frequent_ids, name)
    return frequent


def _count_distinct(table: ir.Table, name: str) -> int:
    return count_rows(table.select(name).distinct())
