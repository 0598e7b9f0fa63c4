"""Intervals hold what they promise: coverage, users as the unit, the same bytes for a seed."""

import math
from unittest import mock

import numpy as np
import pytest

from dynamicpo.core.arrays import FloatArray, IntArray
from dynamicpo.core.errors import ConfigError, DataError, ShapeError
from dynamicpo.metrics import bootstrap, intervals
from dynamicpo.metrics.intervals import (
    Interval,
    clustered_interval,
    clustered_intervals,
    detectable_difference,
    holm,
    paired_difference,
)

ValuesAndUsers = tuple[FloatArray, IntArray]


def hits(
    num_users: int, rng: np.random.Generator, mean: float = 0.3, per_user: float = 6
) -> ValuesAndUsers:
    """Rows of users who differ in how often they are hit: rows of one user are alike."""
    rate = rng.beta(3 * mean, 3 * (1 - mean), num_users)
    users = np.repeat(np.arange(num_users), rng.poisson(per_user, num_users) + 1)
    return (rng.random(len(users)) < rate[users]).astype(float), users


@pytest.mark.parametrize("num_users", [30, 122])
def test_intervals_cover_the_truth_as_often_as_they_say(num_users: int) -> None:
    rng = np.random.default_rng(0)
    bounds = [
        clustered_interval(*hits(num_users, rng), resamples=400, seed=seed) for seed in range(1000)
    ]
    covered = np.mean(
        [low <= 0.3 <= high for low, high in bounds if low is not None and high is not None]
    )
    assert 0.93 <= covered <= 0.97


def test_intervals_by_row_would_promise_too_much() -> None:
    rng = np.random.default_rng(0)
    drawn = [hits(50, rng) for _ in range(200)]
    by_row = [
        clustered_interval(rows, np.arange(len(rows)), 400, seed)
        for seed, (rows, _) in enumerate(drawn)
    ]
    assert (
        np.mean(
            [low <= 0.3 <= high for low, high in by_row if low is not None and high is not None]
        )
        < 0.85
    )


def test_p_values_are_below_five_percent_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    p_values = []
    for seed in range(400):
        # both models are right on these, but for half of the rows each
        shared, users = hits(60, rng)
        a, b = (
            np.where(rng.random(len(users)) < 0.5, shared, rng.random(len(users)) < 0.3)
            for _ in "ab"
        )
        p_values.append(paired_difference(a, b, users, 400, seed).p)
    assert 0.02 <= np.mean([p < 0.05 for p in p_values if p is not None]) <= 0.08


def test_agrees_with_a_plain_loop_over_resamples() -> None:
    values, users = hits(40, np.random.default_rng(2))
    rng, means = np.random.default_rng(3), []
    for _ in range(4000):
        drawn = rng.integers(0, 40, 40)
        means.append(np.concatenate([values[users == user] for user in drawn]).mean())
    low, high = np.quantile(means, [0.025, 0.975])
    # t quantile of 39 degrees of freedom, normal quantile
    factor = math.sqrt(40 / 39) * 2.022691 / 1.959964
    interval = clustered_interval(values, users, 20_000)
    mean = values.mean()
    assert interval.low == pytest.approx(mean + factor * (low - mean), abs=0.006)
    assert interval.high == pytest.approx(mean + factor * (high - mean), abs=0.006)


def test_drawing_kinds_of_users_equals_drawing_users() -> None:
    # One row a user: two kinds only, so the multinomial way is taken. A touch of noise makes all
    # users differ.
    values = (np.arange(2000) % 4 == 0).astype(float)
    noisy = values + np.linspace(0, 1e-9, 2000)
    with mock.patch.object(bootstrap, "_draw_block", wraps=bootstrap._draw_block) as by_user:
        kinds = clustered_interval(values, np.arange(2000), 4000)
        assert by_user.call_count == 0
        users = clustered_interval(noisy, np.arange(2000), 4000)
        assert by_user.call_count > 0
    exact = 1.96 * math.sqrt(0.25 * 0.75 / 2000)
    for interval in (kinds, users):
        assert interval.low == pytest.approx(0.25 - exact, abs=0.0015)
        assert interval.high == pytest.approx(0.25 + exact, abs=0.0015)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(4, 2.776445), (9, 2.262157), (29, 2.045230), (121, 1.979764)]
)
def test_student_quantiles(freedom: int, quantile: float) -> None:
    num_users = freedom + 1
    factor = intervals._expansion_factor(np.arange(num_users))
    t = factor * 1.959964 / math.sqrt(num_users / freedom)
    assert t == pytest.approx(quantile, rel=1e-6)


def test_few_users_spread_the_replicates() -> None:
    # Ten users: sqrt(10 / 9), and 2.262157 / 1.959964 for nine degrees of freedom; within the
    # rows' 0..2.
    factor = math.sqrt(10 / 9) * 2.262157 / 1.959964
    replicates, rows = np.array([0.9, 1.0, 1.2, 2.0]), np.array([0.0, 2.0, 1.0, 1.0])
    spread = intervals._expanded(replicates, rows, intervals._expansion_factor(np.arange(10)))
    assert spread.tolist() == pytest.approx([1 - 0.1 * factor, 1, 1 + 0.2 * factor, 2], rel=1e-4)


@pytest.mark.parametrize("num_users", [40, 4000])
def test_same_seed_same_interval(num_users: int) -> None:
    values = (np.arange(num_users) % 3 == 0).astype(float)  # few kinds of users
    first = clustered_interval(values, np.arange(num_users), 500, seed=7)
    assert clustered_interval(values, np.arange(num_users), 500, seed=7) == first
    assert clustered_interval(values, np.arange(num_users), 500, seed=8) != first


def test_same_seed_same_interval_whatever_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, users = hits(3000, np.random.default_rng(4))
    values = values + np.random.default_rng(5).random(len(values))
    first = clustered_interval(values, users, 500, seed=7)
    pool = bootstrap.ThreadPoolExecutor
    monkeypatch.setattr(bootstrap, "ThreadPoolExecutor", lambda: pool(max_workers=1))
    assert clustered_interval(values, users, 500, seed=7) == first
    assert clustered_interval(values, users, 500, seed=8) != first


def test_names_of_users_do_not_matter() -> None:
    values, users = hits(50, np.random.default_rng(6))
    names = np.array([f"user {user:03d}" for user in users])
    assert clustered_interval(values, names, 500) == clustered_interval(values, users, 500)
    assert clustered_interval(values.tolist(), names.tolist(), 500) == clustered_interval(
        values, users, 500
    )


def test_several_metrics_share_their_resamples() -> None:
    values, users = hits(50, np.random.default_rng(7))
    by_name = clustered_intervals({"hit": values, "miss": 1 - values, "same": values}, users, 500)
    assert by_name["hit"] == by_name["same"]
    assert by_name["hit"].low is not None and by_name["miss"].high is not None
    assert by_name["hit"].low == pytest.approx(1 - by_name["miss"].high)


def test_bounds_stay_within_the_rows() -> None:
    low, high = clustered_interval([1.0, 0.0, 0.0, 0.0, 0.0], [0, 1, 2, 3, 4], 500)
    assert low == 0
    assert high is not None and 0.2 < high <= 1
    assert clustered_interval([0.5] * 6, [0, 0, 1, 1, 2, 2], 500) == (0.5, 0.5)


def test_one_user_has_no_interval_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert clustered_interval([0.0, 1.0, 1.0], ["u", "u", "u"]) == Interval(None, None)
    assert "intervals: not available, all 3 rows are of one user" in caplog.text
    difference = paired_difference([1.0, 1.0], [0.0, 1.0], ["u", "u"])
    assert difference == (0.5, None, None, None)


def test_a_clear_difference_and_none() -> None:
    values, users = hits(200, np.random.default_rng(8))
    better = np.maximum(values, (np.arange(len(values)) % 3 == 0).astype(float))
    difference = paired_difference(better, values, users, 999)
    assert difference.difference == pytest.approx(float((better - values).mean()))
    assert difference.low is not None and 0 < difference.low < difference.difference
    assert difference.p == 2 / 1000
    swapped = paired_difference(values, better, users, 999)
    assert swapped[:3] == pytest.approx(
        (-difference[0], -(difference[2] or 0), -(difference[1] or 0))
    )
    assert paired_difference(values, values, users, 999) == (0, 0, 0, 1)


def test_pairing_sees_what_separate_intervals_do_not() -> None:
    values, users = hits(100, np.random.default_rng(9))
    better = values.copy()
    better[::25] = 1
    one, other = clustered_interval(values, users, 999), clustered_interval(better, users, 999)
    assert one.high is not None and other.low is not None and one.high > other.low
    p = paired_difference(better, values, users, 999).p
    assert p is not None and p < 0.05


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04: 4 x .01, 3 x .02, 2 x .03, 1 x .04, then never falling
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.6, 0.001]) == pytest.approx([0.6, 0.002])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
    with pytest.raises(DataError, match="p_values: must lie in 0..1"):
        holm([0.5, math.nan])


@pytest.mark.parametrize(
    ("values", "users", "resamples", "error", "message"),
    [
        ([], [], 500, DataError, "values: need at least one row, got 0"),
        ([1.0], ["a", "b"], 500, ShapeError, r"values: must be \(2,\)"),
        ([[1.0], [2.0]], ["a", "b"], 500, ShapeError, r"values: must be \(2,\).*got \(2, 1\)"),
        (
            [1.0, math.nan],
            ["a", "b"],
            500,
            DataError,
            "values: must be finite, 1 of 2 rows are not",
        ),
        ([1.0, 2.0], ["a", "b"], 99, ConfigError, "resamples: must be >= 100, got 99"),
    ],
)
def test_input_that_makes_no_sense(
    values: list[float], users: list[str], resamples: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        clustered_interval(values, users, resamples)


def test_detectable_difference_is_seen_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    users = np.arange(120)
    detectable = detectable_difference(-1.96 * 120**-0.5, 1.96 * 120**-0.5)
    zeros = np.zeros(120)
    lows = []
    for seed in range(500):
        rows = rng.normal(detectable, 1.0, 120)
        lows.append(paired_difference(rows, zeros, users, resamples=400, seed=seed).low)
    found = np.mean([low > 0 for low in lows if low is not None])
    assert 0.75 < found < 0.85


def test_nothing_is_detectable_without_an_interval() -> None:
    assert math.isinf(detectable_difference(None, None))
