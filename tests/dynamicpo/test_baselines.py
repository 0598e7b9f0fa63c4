"""Baselines: numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dynamicpo.baselines import BASELINES, baseline_scores
from dynamicpo.errors import ConfigError, DataError

ITEMS = pd.DataFrame({"item_id": ["a", "b", "c", "d"], "popularity": [5, 1, 0, 7]})
TRAIN = pa.table({"history": [["a", "b"], ["a"], ["a"]], "target": ["c", "c", "d"]})
ROWS = pa.table({"history": [["a"], ["b", "a"], ["d"]], "candidates": [["c", "d"], ["d", "c"], ["b", "a"]]})


def test_random_ties_everything() -> None:
    assert baseline_scores("random", ROWS, ITEMS, TRAIN).tolist() == [[0, 0], [0, 0], [0, 0]]


def test_popularity_is_the_training_count() -> None:
    assert baseline_scores("popularity", ROWS, ITEMS, TRAIN).tolist() == [[0, 7], [7, 0], [1, 5]]


def test_cooccurrence_sums_the_cosines_over_the_history() -> None:
    # meetings: a-c twice, b-c once, a-d once; in all a 3, b 1, c 3, d 1
    a_c, b_c, a_d = 2 / math.sqrt(9), 1 / math.sqrt(3), 1 / math.sqrt(3)
    expected = [[a_c, a_d], [a_d, a_c + b_c], [0, a_d]]
    assert baseline_scores("cooccurrence", ROWS, ITEMS, TRAIN) == pytest.approx(np.array(expected))


def test_an_item_seen_twice_in_a_history_counts_twice() -> None:
    rows = pa.table({"history": [["a", "a"]], "candidates": [["c", "d"]]})
    once = baseline_scores("cooccurrence", ROWS, ITEMS, TRAIN)[0]
    assert baseline_scores("cooccurrence", rows, ITEMS, TRAIN)[0] == pytest.approx(2 * once)


def test_cooccurrence_without_training_rows_ties_everything() -> None:
    assert not baseline_scores("cooccurrence", ROWS, ITEMS, TRAIN.slice(0, 0)).any()


@pytest.mark.parametrize("name", BASELINES)
def test_an_unknown_item_is_named(name: str) -> None:
    rows = pa.table({"history": [["a"]], "candidates": [["b", "x"]]})
    with pytest.raises(DataError, match="row 0: every item must be in items.parquet, got 'x'"):
        baseline_scores(name, rows, ITEMS, TRAIN)


def test_lists_of_unequal_length_are_refused() -> None:
    rows = pa.table({"history": [["a"], ["a"]], "candidates": [["b", "c"], ["b"]]})
    with pytest.raises(DataError, match="all rows must have as many.*got 1 to 2"):
        baseline_scores("random", rows, ITEMS, TRAIN)


def test_an_unknown_baseline_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'popularity'"):
        baseline_scores("popular", ROWS, ITEMS, TRAIN)
