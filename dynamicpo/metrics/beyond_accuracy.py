"""Metrics of a set of recommendations beyond accuracy: popularity, coverage, inequality."""

import numpy as np
from numpy.typing import ArrayLike

from dynamicpo.core.arrays import BoolArray, FloatArray, IntArray
from dynamicpo.core.errors import DataError
from dynamicpo.metrics.arrays import TensorLike, as_array

HEAD_SHARE = 0.2  # of the catalogue, by popularity; the rest is the long tail


def beyond_accuracy(
    recommended: ArrayLike | TensorLike,
    popularity: ArrayLike | TensorLike,
    head_share: float = HEAD_SHARE,
) -> dict[str, float]:
    """Popularity, coverage and inequality of the recommended items, whether right or not.

    Args:
        recommended: Items recommended, as indices into the catalogue; any shape, at least one.
        popularity: Interactions of every item of the catalogue in the training split. Shape (I,).
        head_share: Share of the catalogue, by popularity, that is not long tail. Items as popular
            as the last of these belong to them too.

    Returns:
        `mean_popularity` (interactions per recommended item), `catalogue_coverage` (share of the
        catalogue recommended at least once), `gini` (inequality of how often items are recommended,
        over the entire catalogue: 0 equal, 1 - 1/I a single item), `long_tail_share` (of the
        recommendations).

    Raises:
        DataError: Nothing recommended, or an index outside the catalogue.
    """
    items = as_array(recommended).reshape(-1)
    interactions = as_array(popularity)
    catalogue_size = len(interactions)
    _check_items(items, catalogue_size)
    # Items that are never recommended count, too, for coverage and inequality.
    times_recommended = np.bincount(items, minlength=catalogue_size)
    popularities = interactions[items]
    is_tail = is_long_tail(interactions, head_share)[items]
    return {
        "mean_popularity": float(popularities.mean()),
        "catalogue_coverage": float((times_recommended > 0).mean()),
        "gini": _gini(times_recommended),
        "long_tail_share": float(is_tail.mean()),
    }


def is_long_tail(popularity: ArrayLike, head_share: float = HEAD_SHARE) -> BoolArray:
    """Tell for every item of a catalogue whether it is long tail.

    Args:
        popularity: Interactions of every item. Shape (I,).
        head_share: As in `beyond_accuracy`.

    Returns:
        Shape (I,).
    """
    interactions = np.asarray(popularity)
    return interactions < _least_of_head(interactions, head_share)


def _least_of_head(interactions: FloatArray, head_share: float) -> float:
    """Interactions of the least popular item of the head, which holds at least one item."""
    size = len(interactions)
    head_size = max(1, round(head_share * size))
    ascending = np.sort(interactions)
    return float(ascending[size - head_size])


def _gini(counts: IntArray) -> float:
    """The Gini coefficient of n counts x, by its formula for ascending ones.

    It is the sum of (2 i - n - 1) x_i over n times the sum of x, with i from 1.
    """
    ascending = np.sort(counts)
    size = len(ascending)
    position = np.arange(1, size + 1)
    weights = 2 * position - size - 1
    weighted = weights * ascending
    total = size * ascending.sum()
    return float(weighted.sum() / total)


def _check_items(items: IntArray, catalogue_size: int) -> None:
    if not len(items):
        raise DataError(
            "recommended: needs at least one item, got none. Evaluate a split that has rows."
        )
    # The smallest and the largest are enough to see whether any is outside.
    for item in (items.min(), items.max()):
        if not 0 <= item < catalogue_size:
            raise DataError(
                f"recommended: must be indices into a catalogue of {catalogue_size}, got {item}. "
                "Drop invalid ones."
            )
