"""Columns of a window that are compared with those of another, a row each."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np
import pandas as pd

from dynamicpo.core.arrays import FloatArray, IntArray
from dynamicpo.core.user_hashes import user_hash
from dynamicpo.monitoring.windows import Window

TRAINING_WINDOW = "training window"
HELD_OUT_WINDOW = "held-out window"
USER = "user"
DATA_COLUMNS = {
    "user_activity": "a user's rows in the window for each day on which there are any",
    "popularity_bucket": "the target's rank among the reference's items, by the training rows of "
    "other users",
    "category": "the target's category; all but the reference's 20 most frequent are one",
}
ROW_COLUMNS = {
    "history_length": "items in the row's history",
    "unseen_share": (
        "share of the history and the target that the reference's training rows never show"
    ),
}
SIGNALS = {
    "chosen_score": "the model's log-probability of the target, nats",
    "margin": "that of the target minus that of the best negative, nats",
    "hit": "HitRatio@1 of the row, the expected value under ties",
}
COLUMN_MEANINGS = {**DATA_COLUMNS, **ROW_COLUMNS, **SIGNALS}
TEXT_COLUMNS = ("popularity_bucket", "category")
# Shares of the items, the most popular first, at which buckets end.
_BUCKET_ENDS = (0.01, 0.05, 0.2, 0.5, 1.0)
_UNSEEN = "unseen"
_BUCKETS = ("top 1 %", "top 5 %", "top 20 %", "top 50 %", "others", _UNSEEN)
NO_CATEGORY = "none"
_OTHER_CATEGORIES = "other"
# The distance of a sample from its own distribution grows with the number of categories.
_NUM_CATEGORIES = 20


class ReferenceItems(NamedTuple):
    """A reference's view of items.

    Attributes:
        trained: The items that its training rows show.
        popularity: Interactions of each item in the training split.
        categories: The most frequent categories of its training window's targets.
    """

    trained: Set[str]
    popularity: Mapping[str, int]
    categories: Collection[str]


def reference_items(items: pd.DataFrame, trained: Set[str], training: Window) -> ReferenceItems:
    """A reference's view of items.

    Args:
        items: Its items table.
        trained: The items of its training rows.
        training: Its training window.
    """
    categories = _target_categories(training)
    frequent = _most_frequent(categories)
    counts = items["popularity"].tolist()
    popularity = dict(zip(items["item_id"], counts, strict=True))
    return ReferenceItems(trained, popularity, frequent)


def training_columns(window: Window, items: ReferenceItems) -> pd.DataFrame:
    """The columns of rows that count in the popularity of their own targets.

    A user's own interaction is left out: else every other user's targets would look less popular.
    """
    return _data_columns(window, items, num_own=1)


def data_columns(window: Window, items: ReferenceItems) -> pd.DataFrame:
    """The columns that are compared with the training window, buckets by the reference.

    Not by each window's own popularity: a change of what is popular would then not show.
    """
    return _data_columns(window, items, num_own=0)


def _data_columns(window: Window, items: ReferenceItems, num_own: int) -> pd.DataFrame:
    targets = window.rows["target"].to_pylist()
    categories = pd.Series(_target_categories(window), dtype=object)
    is_frequent = categories.isin(list(items.categories))
    # New targets have no popularity in the reference, whatever they have today.
    popularity = np.array([items.popularity.get(target, 0) for target in targets])
    others = np.maximum(popularity - num_own, 0)
    users = pd.Series(hashed_users(window), dtype=object)
    return pd.DataFrame(
        {
            USER: users,
            "user_activity": once_a_user(users, window.user_activity),
            "popularity_bucket": popularity_buckets(others, [*items.popularity.values()]),
            "category": categories.where(is_frequent, _OTHER_CATEGORIES),
        }
    )


def once_a_user(users: pd.Series, values: "pd.Series[float]") -> "pd.Series[float]":
    """Values of users at their first rows only: busy users are no more than one each."""
    return values.where(~users.duplicated())


def row_columns(window: Window, trained: Set[str]) -> pd.DataFrame:
    """The columns that are compared with the held-out window, but for the model's signals.

    Training rows show no item that training rows do not show, and their histories are shorter.
    """
    histories = window.rows["history"].to_pylist()
    targets = window.rows["target"].to_pylist()
    return pd.DataFrame(
        {
            USER: hashed_users(window),
            "history_length": [float(len(history)) for history in histories],
            "unseen_share": _unseen_shares(histories, targets, trained),
        }
    )


def hashed_users(window: Window) -> list[str]:
    """The hash of each row's user."""
    users = window.rows["user_id"].to_pylist()
    unique_users = set(users)
    hashes = {user: user_hash(user) for user in unique_users}
    return [hashes[user] for user in users]


def _unseen_shares(
    histories: Sequence[Sequence[str]], targets: Sequence[str], trained: Set[str]
) -> FloatArray:
    shares = []
    for history, target in zip(histories, targets, strict=True):
        items = [*history, target]
        is_unseen = [item not in trained for item in items]
        share = np.mean(is_unseen)
        shares.append(share)
    return np.array(shares, dtype=np.float64)


def _target_categories(window: Window) -> list[str]:
    items = window.items
    item_categories = items["category"].fillna("")
    categories = dict(zip(items["item_id"], item_categories, strict=True))
    targets = window.rows["target"].to_pylist()
    target_categories = [categories.get(target, "") for target in targets]
    return [_without_markup(category) for category in target_categories]


def _without_markup(category: str) -> str:
    """A category that no page takes for markup; Evidently escapes none."""
    harmless = category.replace("<", "‹").replace(">", "›")
    return harmless or NO_CATEGORY


def _most_frequent(categories: Sequence[str]) -> list[str]:
    counts = Counter(categories)
    # By name where counts are equal, so that the order of rows decides nothing.
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    return ordered[:_NUM_CATEGORIES]


def popularity_buckets(popularity: IntArray, catalogue: Sequence[int]) -> list[str]:
    """The bucket of each number of interactions, by its rank in the catalogue.

    Args:
        popularity: The numbers. Shape (N,).
        catalogue: The interactions of every item. Shape (I,).
    """
    ascending = np.sort(catalogue)
    num_items = len(ascending)
    # Equally popular items share the best rank, and so their bucket.
    num_not_above = np.searchsorted(ascending, popularity, side="right")
    ranks = num_items - num_not_above + 1
    relative_ranks = ranks / max(num_items, 1)
    indices = np.searchsorted(_BUCKET_ENDS, relative_ranks)
    # An item less popular than the last one of the catalogue.
    last = len(_BUCKET_ENDS) - 1
    indices = np.minimum(indices, last)
    is_seen = popularity > 0
    return [
        _BUCKETS[index] if seen else _UNSEEN for index, seen in zip(indices, is_seen, strict=True)
    ]
