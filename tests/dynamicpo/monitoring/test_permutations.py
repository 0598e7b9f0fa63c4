"""The null of drift: whole users, those of both windows in both."""

import numpy as np
import pandas as pd
import pytest

from dynamicpo.monitoring.permutations import ColumnSample, permutation_test

ROWS = 20


def sample(reference: pd.Series, current: pd.Series, shared_users: bool = False) -> ColumnSample:
    """A column of users with twenty rows each: their values come one after another."""
    first, second = ("u", "u") if shared_users else ("r", "c")
    return ColumnSample(
        "chosen_score",
        reference,
        pd.Series([f"{first}{row // ROWS}" for row in range(len(reference))]),
        current,
        pd.Series([f"{second}{row // ROWS}" for row in range(len(current))]),
    )


def levels(rng: np.random.Generator, num_users: int, shift: float = 0.0) -> pd.Series:
    """Rows that are alike for a user."""
    users = rng.normal(shift, 1, num_users)
    return pd.Series(np.repeat(users, ROWS) + rng.normal(0, 0.1, num_users * ROWS))


def test_alike_rows_of_a_user_are_no_evidence() -> None:
    """Of 40 users of 20 rows each, permuted rows would find drift in nearly every pair."""
    found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        test = permutation_test(sample(levels(rng, 20), levels(rng, 20)), "wasserstein", 199, seed)
        found += test.p <= 0.05
    # 5 of 100 are expected; 12 or more have a probability of .4 %.
    assert found < 12


def test_a_shift_of_all_users_is_found() -> None:
    rng = np.random.default_rng(0)
    test = permutation_test(
        sample(levels(rng, 40), levels(rng, 40, shift=2.0)), "wasserstein", 199, 0
    )
    assert test.p == 1 / 200


def test_users_of_both_windows_are_exchanged_with_themselves() -> None:
    """A small shift within each user is found, where the spread between users would hide it."""
    rng = np.random.default_rng(1)
    reference = levels(rng, 60)
    current = reference + 0.25
    paired = permutation_test(sample(reference, current, shared_users=True), "wasserstein", 199, 0)
    others = permutation_test(sample(reference, current), "wasserstein", 199, 0)
    assert paired.distance == others.distance
    assert paired.p == 1 / 200 < 0.01 < others.p


def test_equal_windows_have_a_p_of_one() -> None:
    values = levels(np.random.default_rng(2), 10)
    assert permutation_test(sample(values, values), "wasserstein", 199, 0).p == 1


def test_users_without_a_value_are_not_counted() -> None:
    values = levels(np.random.default_rng(3), 10)
    missing = values.where(np.arange(len(values)) >= 5 * ROWS)
    test = permutation_test(sample(values, missing), "wasserstein", 199, 0)
    assert (test.reference_users, test.current_users) == (10, 5)
    nothing = permutation_test(sample(values, values * np.nan), "wasserstein", 199, 0)
    assert (nothing.current_users, nothing.p) == (0, 1.0)
    assert np.isnan(nothing.distance)


@pytest.mark.parametrize("method", ["wasserstein", "jensenshannon"])
def test_the_order_of_rows_decides_nothing(method: str) -> None:
    rng = np.random.default_rng(4)
    one = sample(levels(rng, 10).round(1), levels(rng, 12).round(1))
    order = rng.permutation(len(one.current))
    other = one._replace(
        current=one.current.iloc[order].reset_index(drop=True),
        current_users=one.current_users.iloc[order].reset_index(drop=True),
    )
    first, second = (permutation_test(each, method, 199, 0) for each in (one, other))
    assert second.distance == pytest.approx(first.distance)
    assert second.p == first.p
