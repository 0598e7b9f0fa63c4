"""Keyed draws: fixed numbers, the right distribution, nothing but the key matters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dynamicpo.core import random_keys


def test_bits_are_splitmix64() -> None:
    """The first outputs of the published generator for the seed 1234567."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert (
        random_keys.bits(
            np.array([1234567], dtype=np.uint64), np.arange(5, dtype=np.uint64)
        ).tolist()
        == expected
    )


def test_keys_are_fixed_for_good() -> None:
    """Numbers on disk depend on these: they must never change."""
    assert random_keys.keys(0, "negatives/train", ["u1:3", "u2:3"]).tolist() == [
        6677298030183337878,
        14930071710842327103,
    ]


def test_seed_purpose_and_id_each_matter() -> None:
    names = [
        (seed, purpose, name)
        for seed in (0, 1, 10)
        for purpose in ("a", "b", "a/0")
        for name in ("x", "0x", "")
    ]
    keys = [random_keys.keys(seed, purpose, [name])[0] for seed, purpose, name in names]
    assert len({*keys}) == len(names)


@given(st.lists(st.text(), unique=True, min_size=1), st.randoms())
@settings(max_examples=40, deadline=None)
def test_key_depends_on_its_id_alone(ids: list[str], random: "np.random.Generator") -> None:
    mixed = list(ids)
    random.shuffle(mixed)
    together = dict(zip(mixed, random_keys.keys(3, "p", mixed).tolist(), strict=True))
    assert [together[name] for name in ids] == [random_keys.keys(3, "p", [name])[0] for name in ids]


def test_uniform_numbers_are_uniform_over_keys_and_over_draws() -> None:
    keys = random_keys.keys(0, "test", [f"id{number}" for number in range(2000)])
    numbers = random_keys.uniform(keys[:, None], np.arange(50, dtype=np.uint64))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for flat in (numbers.ravel(), numbers[:, 0], numbers[0]):
        assert stats.kstest(flat, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:, 0], numbers[:, 1])[0, 1]) < 0.1
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.1


@pytest.mark.parametrize("high", [1, 2, 20, 1000])
def test_integers_are_uniform_and_below_their_bound(high: int) -> None:
    keys = random_keys.keys(1, "test", [f"id{number}" for number in range(400)])
    numbers = random_keys.integers(keys[:, None], np.arange(100, dtype=np.uint64), high)
    counts = np.bincount(numbers.ravel(), minlength=high)
    assert len(counts) == high
    assert high == 1 or stats.chisquare(counts).pvalue > 1e-3


def test_random_order_is_a_permutation_that_ignores_the_order_it_came_in() -> None:
    ids = [f"id{number}" for number in range(500)]
    order = random_keys.random_order(0, "rows", ids)
    assert sorted(order) == list(range(500))
    backwards = random_keys.random_order(0, "rows", ids[::-1])
    assert [ids[index] for index in order] == [ids[::-1][index] for index in backwards]
    assert stats.spearmanr(order, np.arange(500)).pvalue > 1e-3
    assert order.tolist() != random_keys.random_order(1, "rows", ids).tolist()


def test_nothing_to_draw_for() -> None:
    assert random_keys.keys(0, "p", []).shape == (0,)
    assert random_keys.random_order(0, "p", []).shape == (0,)
