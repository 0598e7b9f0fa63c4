"""Metrics by hand, against ranx, and where scores tie, are missing or make no sense."""

import itertools
import math
import os

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dynamicpo.core.errors import ConfigError, DataError, ShapeError
from dynamicpo.metrics.ranking import (
    answer_metrics,
    beyond_accuracy,
    named_candidate,
    normalised,
    ranking_metrics,
    row_metrics,
    substring_candidate,
    target_ranks,
)

os.environ["NUMBA_DISABLE_JIT"] = "1"  # compiling ranx takes a minute, its plain Python a moment
from ranx import Qrels, Run, evaluate  # noqa: E402


def random_scores(
    rows: int = 200, candidates: int = 20, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, candidates)), rng.integers(0, candidates, rows)


def ranx_metrics(
    scores: NDArray[np.float64], targets: NDArray[np.int64], names: list[str]
) -> dict[str, float]:
    qrels = Qrels({str(row): {str(target): 1} for row, target in enumerate(targets)})
    run = Run(
        {
            str(row): {str(item): score for item, score in enumerate(line)}
            for row, line in enumerate(scores)
        }
    )
    return {name: float(value) for name, value in evaluate(qrels, run, names).items()}


def test_by_hand() -> None:
    # ranks 1, 2 and 4 of 4
    scores = [[0.9, 0.1, 0.2, 0.3], [0.5, 0.6, 0.1, 0.2], [4.0, 3.0, 2.0, 1.0]]
    found = ranking_metrics(np.array(scores), np.array([0, 0, 3]), ks=(1, 3))
    assert found == pytest.approx(
        {
            "hit_ratio_at_1": 1 / 3,
            "hit_ratio_at_3": 2 / 3,
            "ndcg_at_1": 1 / 3,
            "ndcg_at_3": (1 + 1 / math.log2(3)) / 3,
            "mrr": (1 + 1 / 2 + 1 / 4) / 3,
            "num_nan_scores": 0.0,
        }
    )


def test_agrees_with_ranx() -> None:
    scores, targets = random_scores()
    names = [f"{kind}@{k}" for kind in ("hit_rate", "ndcg") for k in (1, 3, 5, 10)] + ["mrr"]
    theirs = ranx_metrics(scores, targets, names)
    ours = ranking_metrics(scores, targets)
    for name, value in theirs.items():
        ours_name = name.replace("hit_rate", "hit_ratio").replace("@", "_at_")
        assert ours[ours_name] == pytest.approx(value, abs=1e-12), name


def test_ties_are_the_mean_of_ranx_over_every_order_of_the_tied() -> None:
    # five candidates, three of them tied with the target at 0.5 below one better
    scores, target = np.array([0.5, 0.9, 0.5, 0.5, 0.1]), 2
    names = ["hit_rate@1", "hit_rate@2", "hit_rate@3", "ndcg@2", "ndcg@3", "mrr"]
    orders = []
    for order in itertools.permutations([0, 2, 3]):
        broken = scores.copy()
        broken[list(order)] += np.array([2e-3, 1e-3, 0.0])
        orders.append(ranx_metrics(broken[None], np.array([target]), names))
    ours = ranking_metrics(scores[None], np.array([target]), ks=(1, 2, 3))
    for name in names:
        expected = np.mean([found[name] for found in orders])
        assert ours[name.replace("hit_rate", "hit_ratio").replace("@", "_at_")] == pytest.approx(
            expected
        ), name


def test_equal_scores_are_worth_chance_wherever_the_target_stands() -> None:
    for target in (0, 7, 19):
        found = ranking_metrics(np.zeros((1, 20)), np.array([target]))
        assert found["hit_ratio_at_1"] == pytest.approx(1 / 20)
        assert found["hit_ratio_at_10"] == pytest.approx(1 / 2)
        assert found["mrr"] == pytest.approx(sum(1 / rank for rank in range(1, 21)) / 20)


def test_rows_keep_what_ties_allow() -> None:
    rows = row_metrics([0, 1, 0], [0, 2, 1], num_candidates=4, ks=(1, 2))
    assert rows["hit_ratio_at_1"].tolist() == pytest.approx([1, 0, 1 / 2])
    assert rows["hit_ratio_at_2"].tolist() == pytest.approx([1, 1 / 3, 1])
    assert rows["mrr"].tolist() == pytest.approx([1, (1 / 2 + 1 / 3 + 1 / 4) / 3, 3 / 4])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_torch_and_numpy_agree(dtype: torch.dtype) -> None:
    scores, targets = random_scores(50)
    tensor = torch.tensor(scores, dtype=dtype).requires_grad_()
    same = tensor.detach().double().numpy()
    assert ranking_metrics(tensor, torch.tensor(targets)) == ranking_metrics(same, targets)


def test_order_of_candidates_and_a_growing_map_of_scores_change_nothing() -> None:
    scores, targets = random_scores(60)
    scores = np.round(scores, 1)  # with ties
    order = np.random.default_rng(1).permutation(20)
    expected = ranking_metrics(scores, targets)
    assert ranking_metrics(scores[:, order], np.argsort(order)[targets]) == pytest.approx(expected)
    assert ranking_metrics(np.exp(scores), targets) == pytest.approx(expected)


def test_a_missing_score_ranks_worst_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    nan = math.nan
    scores = np.array([[nan, 1.0, 2.0], [nan, nan, nan], [1.0, nan, 0.0], [-math.inf, nan, nan]])
    ranks = target_ranks(scores, np.array([0, 0, 0, 0]))
    assert ranks.better.tolist() == [2, 2, 0, 0]
    assert ranks.tied.tolist() == [0, 0, 0, 0]
    found = ranking_metrics(scores, np.array([0, 0, 0, 0]), ks=(1,))
    assert found["hit_ratio_at_1"] == 1 / 2
    assert found["mrr"] == pytest.approx((1 / 3 + 1 / 3 + 1 + 1) / 4)
    assert found["num_nan_scores"] == 7
    assert "7 of 12 scores are NaN and rank worst" in caplog.text


@pytest.mark.parametrize("k", [0, 21])
def test_a_cut_off_above_the_candidates_is_an_error(k: int) -> None:
    with pytest.raises(
        ConfigError, match=f"ks: must be between 1 and the 20 candidates, got {k}. Lower K."
    ):
        ranking_metrics(*random_scores(3), ks=(1, k))


@pytest.mark.parametrize(
    ("scores", "targets", "error", "message"),
    [
        (
            np.zeros((0, 20)),
            np.zeros(0, dtype=int),
            DataError,
            r"scores: needs rows and candidates, got \(0, 20\)",
        ),
        (
            np.zeros(20),
            np.zeros(20, dtype=int),
            ShapeError,
            r"scores: must be \(N, A\), got \(20,\)",
        ),
        (
            np.zeros((2, 20)),
            np.zeros(3, dtype=int),
            ShapeError,
            r"target_index: must be \(2,\) to fit scores",
        ),
        (
            np.zeros((2, 20)),
            np.array([0, 20]),
            DataError,
            r"target_index: row 1 must be in 0..19, got 20",
        ),
        (
            np.zeros((2, 20)),
            np.array([-1, 0]),
            DataError,
            r"target_index: row 0 must be in 0..19, got -1",
        ),
        (
            np.zeros((2, 20)),
            np.zeros(2),
            DataError,
            r"target_index: must be whole numbers, got float64",
        ),
    ],
)
def test_input_that_makes_no_sense(
    scores: NDArray[np.float64], targets: NDArray[np.int64], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ranking_metrics(scores, targets)


def test_normalisation() -> None:
    assert normalised("  \u201cThe  Matrix\u201d. ") == normalised("the matrix") == "the matrix"
    assert normalised("\uff21lien") == "alien"
    assert normalised("Help!") != normalised("Help")


TITLES = ["Alien", "Aliens", "The Thing", "Heat (1995)"]


@pytest.mark.parametrize(
    ("answer", "exact", "substring"),
    [
        ("Alien", 0, 0),
        (" alien.\n", 0, 0),
        ("Aliens", 1, -1),  # holds "Alien" too
        ("I recommend The Thing", -1, 2),
        ("Heat", -1, -1),
        ("The Thing or Heat (1995)", -1, -1),
        ("", -1, -1),
        ("Predator", -1, -1),
    ],
)
def test_which_candidate_an_answer_names(answer: str, exact: int, substring: int) -> None:
    assert named_candidate(answer, TITLES) == exact
    assert substring_candidate(answer, TITLES) == substring


def test_an_answer_that_fits_two_candidates_names_none() -> None:
    assert named_candidate("Heat", ["Heat", "heat ", "Alien"]) == -1
    assert named_candidate(" ", ["", "Alien"]) == -1


def test_hit_ratio_over_all_and_over_valid_rows() -> None:
    # right, wrong, not valid, right, not valid
    found = answer_metrics([2, 1, -1, 0, -1], [2, 0, 1, 0, 0])
    assert found == pytest.approx(
        {
            "valid_ratio": 3 / 5,
            "generated_hit_ratio_at_1": 2 / 5,
            "generated_hit_ratio_at_1_valid_rows": 2 / 3,
        }
    )


def test_answers_without_a_valid_one() -> None:
    assert answer_metrics(np.array([-1, -1]), np.array([0, 1]), suffix="_substring") == {
        "valid_ratio_substring": 0,
        "generated_hit_ratio_at_1_substring": 0,
        "generated_hit_ratio_at_1_valid_rows_substring": 0,
    }
    with pytest.raises(DataError, match="named: needs at least one row, got none"):
        answer_metrics([], [])
    with pytest.raises(ShapeError, match=r"named: must have one entry a row, \(1,\), got \(2,\)"):
        answer_metrics([0, 1], [0])


def test_beyond_accuracy_by_hand() -> None:
    # ten items; the most popular two are the head; four recommendations of items 0, 0, 1 and 9
    popularity = np.array([100, 50, 10, 9, 8, 7, 6, 5, 4, 3])
    found = beyond_accuracy([0, 0, 1, 9], popularity)
    assert found["mean_popularity"] == (100 + 100 + 50 + 3) / 4
    assert found["catalogue_coverage"] == 3 / 10
    assert found["long_tail_share"] == 1 / 4
    # counts ascending 0 x 7, 1, 1, 2: sum of (2 i - n - 1) x = 5 + 7 + 2 * 9 = 30, over n * sum = 40
    assert found["gini"] == pytest.approx(30 / 40)


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
