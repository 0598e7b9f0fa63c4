"""Metrics by hand, against ranx, and where scores tie, are missing or make no sense."""

import itertools
import math
import os

import numpy as np
import pytest
import torch

from dynamicpo.core.arrays import FloatArray, IntArray
from dynamicpo.core.errors import ConfigError, DataError, ShapeError
from dynamicpo.metrics.ranking import ranking_metrics, row_metrics, target_ranks

os.environ["NUMBA_DISABLE_JIT"] = "1"  # compiling ranx takes a minute, its plain Python a moment
from ranx import Qrels, Run, evaluate  # noqa: E402


def random_scores(
    rows: int = 200, candidates: int = 20, seed: int = 0
) -> tuple[FloatArray, IntArray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, candidates)), rng.integers(0, candidates, rows)


def ranx_metrics(scores: FloatArray, targets: IntArray, names: list[str]) -> dict[str, float]:
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
    metrics = ranking_metrics(np.array(scores), np.array([0, 0, 3]), ks=(1, 3))
    assert metrics == pytest.approx(
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
        expected = np.mean([metrics[name] for metrics in orders])
        assert ours[name.replace("hit_rate", "hit_ratio").replace("@", "_at_")] == pytest.approx(
            expected
        ), name


def test_equal_scores_are_worth_chance_wherever_the_target_stands() -> None:
    for target in (0, 7, 19):
        metrics = ranking_metrics(np.zeros((1, 20)), np.array([target]))
        assert metrics["hit_ratio_at_1"] == pytest.approx(1 / 20)
        assert metrics["hit_ratio_at_10"] == pytest.approx(1 / 2)
        assert metrics["mrr"] == pytest.approx(sum(1 / rank for rank in range(1, 21)) / 20)


def test_each_row_has_the_mean_over_its_ties() -> None:
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
    metrics = ranking_metrics(scores, np.array([0, 0, 0, 0]), ks=(1,))
    assert metrics["hit_ratio_at_1"] == 1 / 2
    assert metrics["mrr"] == pytest.approx((1 / 3 + 1 / 3 + 1 + 1) / 4)
    assert metrics["num_nan_scores"] == 7
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
    scores: FloatArray, targets: IntArray, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ranking_metrics(scores, targets)
