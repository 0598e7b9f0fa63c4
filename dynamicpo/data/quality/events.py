"""Measures of interactions as they were read, before any filter."""

from typing import NamedTuple

import ibis
import ibis.expr.types as ir
import numpy as np

from dynamicpo.core.arrays import IntArray

DAY = 86_400
NUM_PERIODS = 24
_SHOWN_GAPS = 5
# Lower ends of the classes of users by their number of interactions.
USER_CLASSES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Gap(NamedTuple):
    """A time without any interaction, in epoch seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


class EventQuality(NamedTuple):
    """Numbers of interactions.

    Attributes:
        rows: All of them.
        users: Users who have some.
        items: Items that have some, in the catalogue or not.
        first: The earliest time, epoch seconds.
        last: The latest.
        repeated: Those that repeat user, item and time of another.
        future: Those from a time on that has not come yet.
        busy_users: Users with more interactions in one day than a person has.
        busy_rows: All interactions of these users.
        most_in_a_day: The most interactions of one user in one day.
        gaps: The longest times without any.
        by_period: Their number in each of `NUM_PERIODS` equal parts of the time.
        by_class: Users in each of `USER_CLASSES`.
    """

    rows: int
    users: int
    items: int
    first: float
    last: float
    repeated: int
    future: int
    busy_users: int
    busy_rows: int
    most_in_a_day: int
    gaps: list[Gap]
    by_period: list[int]
    by_class: list[int]

    @property
    def seconds(self) -> float:
        """The time from the first to the last."""
        return self.last - self.first


class _Totals(NamedTuple):
    """One query's results."""

    rows: int
    users: int
    items: int
    first: float
    last: float
    future: int


class _Rates(NamedTuple):
    """Interactions by user and day."""

    busy_users: int
    busy_rows: int
    most_in_a_day: int
    by_class: list[int]


def measure_events(interactions: ir.Table, bot_rate: int, future_from: float) -> EventQuality:
    """Measure interactions: `user_id`, `item_id`, `timestamp`.

    Args:
        interactions: The rows that were read.
        bot_rate: The most interactions in a day that a person has.
        future_from: Epoch seconds from which on a time has not come yet.
    """
    totals = _totals(interactions, future_from)
    events = interactions.select("user_id", "item_id", "timestamp")
    num_distinct = int(events.distinct().count().execute())
    rates = _rates(interactions, bot_rate)
    return EventQuality(
        **totals._asdict(),
        **rates._asdict(),
        repeated=totals.rows - num_distinct,
        gaps=_longest_gaps(interactions),
        by_period=_by_period(interactions, totals.first, totals.last),
    )


def _totals(interactions: ir.Table, future_from: float) -> _Totals:
    times = interactions.timestamp
    sums = interactions.aggregate(
        rows=interactions.count(),
        users=interactions.user_id.nunique(),
        items=interactions.item_id.nunique(),
        first=times.min(),
        last=times.max(),
        future=(times >= future_from).sum(),
    )
    (row,) = sums.to_pyarrow().to_pylist()
    return _Totals(**row)


def _rates(interactions: ir.Table, bot_rate: int) -> _Rates:
    day = (interactions.timestamp / DAY).floor()
    days = interactions.group_by("user_id", day=day).aggregate(rows=interactions.count())
    by_user = days.group_by("user_id").aggregate(most=days.rows.max(), total=days.rows.sum())
    # Two numbers a user, which fit into memory where the users' ids do.
    columns = by_user.select("most", "total").to_pyarrow()
    most = columns["most"].to_numpy()
    totals = columns["total"].to_numpy()
    is_busy = most > bot_rate
    return _Rates(
        busy_users=int(is_busy.sum()),
        busy_rows=int(totals[is_busy].sum()),
        most_in_a_day=int(most.max(initial=0)),
        by_class=_class_sizes(totals),
    )


def _class_sizes(totals: IntArray) -> list[int]:
    index = np.searchsorted(USER_CLASSES, totals, side="right") - 1
    sizes: list[int] = np.bincount(index, minlength=len(USER_CLASSES)).tolist()
    return sizes


def _longest_gaps(interactions: ir.Table) -> list[Gap]:
    times = interactions.select(end="timestamp").distinct()
    in_order = ibis.window(order_by="end")
    pairs = times.mutate(start=times.end.lag().over(in_order))
    gaps = pairs.filter(pairs.start.notnull())
    seconds = gaps.end - gaps.start
    ordered = gaps.order_by([seconds.desc(), gaps.start]).limit(_SHOWN_GAPS)
    rows = ordered.to_pyarrow().to_pylist()
    return [Gap(row["start"], row["end"]) for row in rows]


def _by_period(interactions: ir.Table, first: float, last: float) -> list[int]:
    # All at one time: the first period has them.
    length = (last - first) / NUM_PERIODS or 1.0
    number = ((interactions.timestamp - first) / length).floor().cast("int64")
    # The last time of all belongs to the last period.
    periods = interactions.select(period=number.clip(upper=NUM_PERIODS - 1))
    sizes = periods.group_by("period").aggregate(rows=periods.count())
    by_period = [0] * NUM_PERIODS
    for row in sizes.to_pyarrow().to_pylist():
        by_period[row["period"]] = row["rows"]
    return by_period
