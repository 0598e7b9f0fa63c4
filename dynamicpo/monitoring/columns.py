"""Columns of a window that are compared with those of another."""

from collections import Counter
from collections.abc import Collection, Sequence, Set
from typing import NamedTuple

import numpy as np
import pandas as pd

from dynamicpo.core.arrays import FloatArray
from dynamicpo.monitoring.windows import Window

COLUMN_MEANINGS = {
    "history_length": "items in the row's history",
    "user_activity": "the user's rows in the window for each day on which the user has any",
    "popularity_bucket": "the target's rank among the reference's items, by training popularity",
    "category": "the target's category; all but the reference's 20 most frequent are one",
    "unseen_share": (
        "share of the history and the target that the reference's training rows never show"
    ),
    "chosen_score": "the model's log-probability of the target, nats",
}
TEXT_COLUMNS = ("popularity_bucket", "category")
# Shares of the items, the most popular first, at which buckets end.
_BUCKET_ENDS = (0.01, 0.05, 0.2, 0.5, 1.0)
_UNSEEN = "unseen"
_BUCKETS = ("top 1 %", "top 5 %", "top 20 %", "top 50 %", "others", _UNSEEN)
_NO_CATEGORY = "none"
_OTHER_CATEGORIES = "other"
# The distance of a sample from its own distribution grows with the number of categories.
_NUM_CATEGORIES = 20


class ComparedColumns(NamedTuple):
    """Columns of two windows, a row each.

    Attributes:
        reference: Columns of the reference.
        current: The same columns of the current window.
    """

    reference: pd.DataFrame
    current: pd.DataFrame


def compared_columns(
    reference: Window, current: Window, trained_items: Set[str]
) -> ComparedColumns:
    """Compute the columns of two windows, buckets and categories by the reference.

    A column of categories is left out where none is known.

    Args:
        reference: Rows of the reference's training split.
        current: Rows to compare with them.
        trained_items: The items that the reference's training rows show.
    """
    # Not each window's own: a change of what is popular would then not show.
    buckets = _popularity_buckets(reference.items)
    reference_categories = _target_categories(reference)
    frequent = _most_frequent(reference_categories)
    columns = ComparedColumns(
        reference=_window_columns(reference, trained_items, buckets, frequent),
        current=_window_columns(current, trained_items, buckets, frequent),
    )
    categories = pd.concat([columns.reference["category"], columns.current["category"]])
    if (categories == _NO_CATEGORY).all():
        return ComparedColumns(
            reference=columns.reference.drop(columns="category"),
            current=columns.current.drop(columns="category"),
        )
    return columns


def _window_columns(
    window: Window,
    trained_items: Set[str],
    buckets: dict[str, str],
    frequent: Collection[str],
) -> pd.DataFrame:
    histories = window.rows["history"].to_pylist()
    targets = window.rows["target"].to_pylist()
    lengths = [float(len(history)) for history in histories]
    categories = pd.Series(_target_categories(window))
    is_frequent = categories.isin(frequent)
    # New targets have no popularity in the reference, whatever they have today.
    target_buckets = [buckets.get(target, _UNSEEN) for target in targets]
    return pd.DataFrame(
        {
            "history_length": lengths,
            "user_activity": window.user_activity,
            "popularity_bucket": target_buckets,
            "category": categories.where(is_frequent, _OTHER_CATEGORIES),
            "unseen_share": _unseen_shares(histories, targets, trained_items),
        }
    )


def _unseen_shares(
    histories: Sequence[Sequence[str]], targets: Sequence[str], trained_items: Set[str]
) -> FloatArray:
    shares = []
    for history, target in zip(histories, targets, strict=True):
        items = [*history, target]
        is_unseen = [item not in trained_items for item in items]
        shares.append(np.mean(is_unseen))
    return np.array(shares, dtype=np.float64)


def _target_categories(window: Window) -> list[str]:
    item_categories = window.items["category"].fillna("")
    categories = dict(zip(window.items["item_id"], item_categories, strict=True))
    targets = window.rows["target"].to_pylist()
    target_categories = [categories.get(target, "") for target in targets]
    return [_without_markup(category) for category in target_categories]


def _without_markup(category: str) -> str:
    """A category that no page takes for markup; Evidently escapes none."""
    harmless = category.replace("<", "‹").replace(">", "›")
    return harmless or _NO_CATEGORY


def _most_frequent(categories: Sequence[str]) -> list[str]:
    counts = Counter(categories)
    # By name where counts are equal, so that the order of rows decides nothing.
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    return ordered[:_NUM_CATEGORIES]


def _popularity_buckets(items: pd.DataFrame) -> dict[str, str]:
    """The bucket of each item, by its rank in popularity."""
    popularity = items["popularity"]
    # Equally popular items share the best rank, and so their bucket.
    ranks = popularity.rank(method="min", ascending=False)
    relative_ranks = ranks / max(len(items), 1)
    bucket_indices = np.searchsorted(_BUCKET_ENDS, relative_ranks)
    bucket_names = np.array(_BUCKETS)[bucket_indices]
    is_seen = popularity > 0
    names = np.where(is_seen, bucket_names, _UNSEEN)
    return dict(zip(items["item_id"], names.tolist(), strict=True))
