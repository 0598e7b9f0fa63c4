"""Ranks among all items, by hand and against the listed way."""

import numpy as np
import pytest

from dynamicpo.core import random_keys
from dynamicpo.evaluation.rankings import concatenate_rankings, rank_all, rank_listed
from dynamicpo.metrics.ranking import target_ranks

NAN = np.nan
SCORES = np.array([[3.0, 9.0, 2.0, 3.0], [1.0, NAN, 0.0, 1.0], [NAN, 5.0, NAN, 7.0]])
TARGETS = np.array([0, 2, 0])
KEYS = random_keys.keys(0, "test", [str(row) for row in range(50)])
MASK = np.array([[True, False, True, True], [True, True, True, False], [True, True, False, True]])


def test_what_is_no_candidate_is_not_counted() -> None:
    ranking = rank_all(SCORES, TARGETS, MASK, KEYS[:3])
    assert ranking.better.tolist() == [0, 1, 2]  # a NaN of the target's own is last among three
    assert ranking.tied.tolist() == [1, 0, 0]
    assert ranking.best[0] in (0, 3) and ranking.best[1:].tolist() == [0, 3]
    assert ranking.num_candidates.tolist() == [3, 3, 3]
    np.testing.assert_array_equal(
        ranking.scores, [[3, 3], [0, 1], [NAN, 7]]
    )  # of the target and of the best
    assert ranking.num_nan == 2  # those of candidates


def test_all_items_are_ranked_as_a_list_of_all_of_them() -> None:
    random = np.random.default_rng(0)
    scores = np.round(random.normal(size=(50, 12)), 1)
    scores[np.arange(50), random.integers(0, 12, 50)] = 9  # no equals at the top
    targets = random.integers(0, 12, 50)
    ranking = rank_all(scores, targets, np.ones((50, 12), dtype=bool), KEYS)
    listed = rank_listed(scores, targets, np.tile(np.arange(12), (50, 1)))
    for name in ("better", "tied", "best", "num_candidates"):
        np.testing.assert_array_equal(getattr(ranking, name), getattr(listed, name))
    codes = np.tile(np.arange(12), (25, 1))
    parts = (slice(25), slice(25, 50))
    halves = concatenate_rankings(
        [rank_listed(scores[part], targets[part], codes) for part in parts]
    )
    np.testing.assert_array_equal(halves.better, listed.better)
    np.testing.assert_array_equal(halves.scores, listed.scores)


def test_a_mask_takes_candidates_out() -> None:
    ranks = target_ranks([[1.0, 2.0, 1.0, 3.0]], [0], [[True, True, True, False]])
    assert (ranks.better.item(), ranks.tied.item()) == (1, 1)
    assert target_ranks([[1.0, 2.0, 1.0, 3.0]], [0]).better.item() == 2
    assert target_ranks([[NAN, 2.0]], [0], [[True, False]]).better.item() == 0


@pytest.mark.parametrize("code", [0, 3])
def test_the_best_of_all_items_is_recommended(code: int) -> None:
    scores = np.zeros((1, 4))
    scores[0, code] = 1
    assert (
        rank_all(scores, np.array([1]), np.ones((1, 4), dtype=bool), KEYS[:1]).best.item() == code
    )


def test_of_equals_one_is_recommended_at_random() -> None:
    """A model that knows nothing would recommend the first item of the table to everybody."""
    mask = np.tile([False, True, True, True], (50, 1))
    best = rank_all(np.zeros((50, 4)), np.ones(50, dtype=int), mask, KEYS).best
    assert {*best.tolist()} == {1, 2, 3} and np.bincount(best).max() < 30
    halves = [
        rank_all(np.zeros((25, 4)), np.ones(25, dtype=int), mask[:25], part).best
        for part in (KEYS[:25], KEYS[25:])
    ]
    np.testing.assert_array_equal(np.concatenate(halves), best)
    nothing = rank_all(np.full((50, 4), NAN), np.ones(50, dtype=int), mask, KEYS).best
    assert {*nothing.tolist()} == {1, 2, 3}
