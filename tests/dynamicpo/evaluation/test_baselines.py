"""Baselines: numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.evaluation.baselines.simple import SIMPLE_BASELINES, make_baseline, score_blocks

ITEMS = pd.DataFrame({"item_id": ["a", "b", "c", "d"], "popularity": [5, 1, 0, 7]})
TRAIN = pa.table({"history": [["a", "b"], ["a"], ["a"]], "target": ["c", "c", "d"]})


def baseline_scores(name: str, rows: pa.Table, items: pd.DataFrame, train: pa.Table) -> np.ndarray:
    """The scores of the rows' candidates."""
    scores = np.concatenate(list(score_blocks(make_baseline(name, items, train), rows, len(items))))
    codes = [
        [items["item_id"].tolist().index(item) for item in row]
        for row in rows["candidates"].to_pylist()
    ]
    return np.take_along_axis(scores, np.array(codes), axis=1)


ROWS = pa.table(
    {"history": [["a"], ["b", "a"], ["d"]], "candidates": [["c", "d"], ["d", "c"], ["b", "a"]]}
)


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


def test_every_item_is_scored_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SIMPLE_BASELINES:
        scorer = make_baseline(name, ITEMS, TRAIN)
        assert scorer(ROWS).shape == (3, 4)
        monkeypatch.setattr("dynamicpo.evaluation.baselines.simple._CELLS_AT_ONCE", 8)
        blocks = list(score_blocks(scorer, ROWS, 4))
        assert [len(block) for block in blocks] == [2, 1]
        np.testing.assert_array_equal(np.concatenate(blocks), scorer(ROWS))


def test_an_unknown_item_is_named() -> None:
    rows = pa.table({"history": [["a"], ["b", "x"]]})
    with pytest.raises(DataError, match="row 1: every item must be in items.parquet, got 'x'"):
        make_baseline("cooccurrence", ITEMS, TRAIN)(rows)
    with pytest.raises(DataError, match="row 1: every item must be in items.parquet, got 'y'"):
        make_baseline(
            "cooccurrence", ITEMS, pa.table({"history": [["a"], ["b"]], "target": ["c", "y"]})
        )


def test_an_unknown_baseline_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'popularity'"):
        make_baseline("popular", ITEMS, TRAIN)
