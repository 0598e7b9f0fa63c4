"""Metrics of one model, ranks on disk, and paired differences."""

from pathlib import Path

import numpy as np
import pytest

from dynamicpo.core.errors import DataError
from dynamicpo.evaluation.paired_comparisons import paired_comparisons
from dynamicpo.evaluation.rankings import rank_listed
from dynamicpo.evaluation.result_files import read_result, write_result
from dynamicpo.evaluation.results import (
    EvaluatedRows,
    GeneratedAnswers,
    ModelResult,
    RankedItems,
    make_result,
)

ROWS = EvaluatedRows(
    "test", [f"r{row}" for row in range(4)], ["u", "u", "v", "w"], np.array([0, 1, 2, 0])
)
SCORES = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [np.nan, 0.0, 0.0]])
CODES = np.array([[0, 1, 2], [0, 1, 2], [3, 1, 2], [0, 1, 3]])
ITEMS = RankedItems(["a", "b", "c", "d"], np.array([9, 5, 1, 0]))


def result(
    scores: np.ndarray = SCORES, answers: GeneratedAnswers | None = None, rows: EvaluatedRows = ROWS
) -> ModelResult:
    return make_result(
        rows,
        rank_listed(scores, rows.target_index, CODES[: len(scores)]),
        ITEMS,
        200,
        0,
        answers,
    )


def test_ranks_by_hand_with_ties_and_nan() -> None:
    """First, last, anywhere, and last for a NaN."""
    scored = result()
    assert scored.better.tolist() == [0, 2, 0, 2]
    assert scored.tied.tolist() == [0, 0, 2, 0]
    assert scored.mean_rank.tolist() == [1, 3, 2, 3]
    assert scored.rank_counts() == pytest.approx([1 + 1 / 3, 1 / 3, 2 + 1 / 3])
    assert scored.best == ["a", "a", "d", "b"]


def test_metrics_are_flat_and_named_by_split() -> None:
    metrics = result().metrics
    assert metrics["test_hit_ratio_at_1"] == pytest.approx((1 + 1 / 3) / 4)
    assert metrics["test_mrr"] == pytest.approx((1 + 1 / 3 + (1 + 1 / 2 + 1 / 3) / 3 + 1 / 3) / 4)
    assert metrics["test_hit_ratio_at_3"] == 1.0
    assert "test_hit_ratio_at_5" not in metrics  # three candidates only
    assert 0 <= metrics["test_hit_ratio_at_1_low"] < metrics["test_hit_ratio_at_1"]
    assert metrics["test_hit_ratio_at_1"] < metrics["test_hit_ratio_at_1_high"] <= 1
    assert (metrics["test_rows"], metrics["test_users"], metrics["test_nan_scores"]) == (4, 3, 1)
    assert metrics["test_mean_popularity"] == (9 + 9 + 0 + 5) / 4


def test_one_user_has_no_interval() -> None:
    rows = EvaluatedRows("test", ROWS.example_ids, ["u"] * 4, ROWS.target_index)
    metrics = result(rows=rows).metrics
    assert metrics["test_hit_ratio_at_1_low"] is None
    assert metrics["test_hit_ratio_at_1"] == pytest.approx(1 / 3)


def test_generated_answers_count_over_all_and_over_valid_rows() -> None:
    answers = GeneratedAnswers(
        ["a", "b", "", "?"], np.array([0, 0, -1, -1]), np.array([0, 1, -1, -1])
    )
    metrics = result(answers=answers).metrics
    assert metrics["test_valid_ratio"] == 0.5
    assert metrics["test_generated_hit_ratio_at_1"] == 0.25
    assert metrics["test_generated_hit_ratio_at_1_valid_rows"] == 0.5
    assert metrics["test_generated_hit_ratio_at_1_substring"] == 0.5
    assert metrics["test_generated_hit_ratio_at_1_valid_rows_substring"] == 1.0
    assert metrics["test_valid_ratio_low"] <= 0.5 <= metrics["test_valid_ratio_high"]


@pytest.mark.parametrize(
    "answers",
    [None, GeneratedAnswers(["a", "b", "", "?"], np.array([0, 0, -1, -1]), np.full(4, -1))],
)
def test_what_is_written_is_read_again(answers: GeneratedAnswers | None, tmp_path: Path) -> None:
    written = result(answers=answers)
    write_result(tmp_path / "model", written, answers)
    read = read_result(tmp_path / "model", "test")
    assert read.metrics == written.metrics
    assert [*read.metrics].index("test_hit_ratio_at_1") < [*read.metrics].index(
        "test_hit_ratio_at_3"
    )
    np.testing.assert_array_equal(read.scores, written.scores)
    assert read.mean_rank.tolist() == written.mean_rank.tolist()
    assert read.best == written.best
    assert read.num_candidates.tolist() == [3, 3, 3, 3]
    assert read.rows.users == ROWS.users and read.rows.example_ids == ROWS.example_ids


def test_a_missing_or_cut_file_is_named(tmp_path: Path) -> None:
    write_result(tmp_path / "model", result())
    content = (tmp_path / "model" / "ranks.parquet").read_bytes()
    (tmp_path / "model" / "ranks.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="ranks.parquet: must be as a stage wrote it"):
        read_result(tmp_path / "model", "test")
    with pytest.raises(DataError, match="must hold metrics.json and ranks.parquet"):
        read_result(tmp_path / "other", "test")


def result_of_quality(quality: float, num_rows: int = 300, seed: int = 0) -> ModelResult:
    """Rows of 30 users whose target is scored higher the better the quality."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(num_rows, 3))
    scores[:, 0] += quality
    names = [str(row) for row in range(num_rows)]
    rows = EvaluatedRows(
        "test",
        names,
        [str(row % 30) for row in range(num_rows)],
        np.zeros(num_rows, dtype=np.int64),
    )
    ranking = rank_listed(scores, rows.target_index, np.tile([0, 1, 2], (num_rows, 1)))
    return make_result(rows, ranking, ITEMS, 400, 0)


def test_every_model_is_paired_with_the_first_with_sft_and_with_baselines() -> None:
    results = {
        "random": result_of_quality(0),
        "popularity": result_of_quality(0.2, seed=1),
        "a": result_of_quality(0),
        "sft": result_of_quality(0.1),
        "b": result_of_quality(2),
    }
    comparisons = paired_comparisons(results, ["a", "sft", "b"], 400, 0)
    pairs = {(entry["a"], entry["b"]) for entry in comparisons}
    assert {frozenset(pair) for pair in pairs} == {
        frozenset(pair)
        for pair in [
            ("sft", "a"),
            ("b", "a"),
            ("b", "sft"),
            ("a", "popularity"),
            ("sft", "popularity"),
        ]
        + [("b", "popularity")]
    }
    assert len(pairs) == len(comparisons) == 6


def test_a_clear_difference_is_clear_and_an_absent_one_is_not() -> None:
    results = {
        "popularity": result_of_quality(0.0, seed=1),
        "a": result_of_quality(0.0),
        "b": result_of_quality(2.0),
    }
    comparisons = {
        (entry["a"], entry["b"]): entry for entry in paired_comparisons(results, ["a", "b"], 400, 0)
    }
    clear, none = comparisons["b", "a"], comparisons["a", "popularity"]
    hits = [results[name].metrics["test_hit_ratio_at_1"] for name in "ba"]
    assert clear["difference"] == pytest.approx(hits[0] - hits[1])
    assert clear["low"] > 0 and clear["p_holm"] < 0.05 and clear["won"] > clear["lost"] == 0
    assert none["low"] < 0 < none["high"] and none["p_holm"] > 0.05
    assert all(entry["p_holm"] >= entry["p"] for entry in comparisons.values())
    assert clear["metric"] == "test_hit_ratio_at_1"


def test_a_clear_difference_stays_clear_among_many() -> None:
    """With 60 comparisons the smallest p of 400 resamples would be 60 * 2 / 401 = .3 after Holm."""
    models = {f"m{number}": result_of_quality(2.0, seed=number) for number in range(60)}
    comparisons = paired_comparisons(
        {"popularity": result_of_quality(0.0, seed=99), **models},
        ["m0"],
        400,
        0,
        [(name, "popularity") for name in models],
    )
    assert len(comparisons) == 60
    assert max(entry["p_holm"] for entry in comparisons) < 0.05


def test_one_user_has_differences_without_intervals() -> None:
    rows = EvaluatedRows("test", ROWS.example_ids, ["u"] * 4, ROWS.target_index)
    results = {"popularity": result(rows=rows), "a": result(-SCORES, rows=rows)}
    (entry,) = paired_comparisons(results, ["a"], 200, 0)
    assert entry["p"] is entry["p_holm"] is entry["low"] is None
    assert (entry["won"], entry["lost"]) == (1, 1)


def test_baselines_alone_are_not_compared() -> None:
    assert paired_comparisons({"popularity": result()}, [], 200, 0) == []
