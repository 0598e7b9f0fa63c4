"""Popularity, coverage and inequality of recommendations, by hand and at their limits."""

import numpy as np
import pytest
import torch

from dynamicpo.core.errors import DataError
from dynamicpo.metrics.beyond_accuracy import beyond_accuracy


def test_beyond_accuracy_by_hand() -> None:
    # ten items; the most popular two are the head; four recommendations of items 0, 0, 1 and 9
    popularity = np.array([100, 50, 10, 9, 8, 7, 6, 5, 4, 3])
    metrics = beyond_accuracy([0, 0, 1, 9], popularity)
    assert metrics["mean_popularity"] == (100 + 100 + 50 + 3) / 4
    assert metrics["catalogue_coverage"] == 3 / 10
    assert metrics["long_tail_share"] == 1 / 4
    # counts ascending 0 x 7, 1, 1, 2: the sum of (2 i - n - 1) x is 5 + 7 + 2 * 9 = 30, over
    # n * sum = 40
    assert metrics["gini"] == pytest.approx(30 / 40)


def test_gini_of_all_alike_and_of_one_item() -> None:
    assert beyond_accuracy(torch.arange(8), torch.ones(8))["gini"] == pytest.approx(0)
    assert beyond_accuracy([3] * 50, np.ones(8))["gini"] == pytest.approx(1 - 1 / 8)


def test_items_as_popular_as_the_head_are_no_long_tail() -> None:
    assert beyond_accuracy([0, 1, 2, 3, 4], [5, 5, 5, 5, 1])["long_tail_share"] == pytest.approx(
        1 / 5
    )


@pytest.mark.parametrize(
    ("items", "message"), [([], "got none"), ([-1], "catalogue of 3, got -1"), ([3], "got 3")]
)
def test_recommendations_outside_the_catalogue(items: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        beyond_accuracy(np.array(items, dtype=int), np.ones(3))
