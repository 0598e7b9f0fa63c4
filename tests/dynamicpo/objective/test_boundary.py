"""The boundary selection is the exact optimum, and the dynamic beta its formula, at every edge."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.testing import assert_close

from dynamicpo.core.errors import ShapeError
from dynamicpo.objective.boundary import (
    MARGIN_EARLY,
    MARGIN_NEWER,
    boundary_negatives,
    dynamic_betas,
)


def select(
    values: list[float], chosen: float = 0.0, dtype: torch.dtype = torch.float64
) -> list[int]:
    """Columns of the boundary negatives of one row.

    With a chosen item at 0, negative values do not violate.
    """
    mask = boundary_negatives(
        torch.tensor([chosen], dtype=dtype), torch.tensor([values], dtype=dtype)
    )
    return mask[0].nonzero()[:, 0].tolist()


def random_rows(
    rows: int, num_negatives: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Log-probabilities like those of titles: around -60, a few nats apart."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, num_negatives, generator=generator, dtype=torch.float64) * 8 - 60).to(
        dtype
    )


def sum_of_squares(values: np.ndarray) -> float:
    return float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0


def inertia(values: np.ndarray, top: np.ndarray) -> float:
    """Sum of squares of a top cluster and the best two clusters of what it leaves."""
    rest = np.sort(values[~top])
    cuts = [sum_of_squares(rest[:i]) + sum_of_squares(rest[i:]) for i in range(1, len(rest))]
    return sum_of_squares(values[top]) + min(cuts)


def brute_force(values: np.ndarray) -> tuple[list[int], float]:
    """The top cluster of the best of all partitions into three, and its lead over the next.

    Partitions need not be contiguous. Of equally good ones it takes the largest top cluster.
    """
    labels = np.array(list(itertools.product(range(3), repeat=len(values))))
    members = labels[:, None, :] == np.arange(3)[None, :, None]
    sizes = members.sum(2)
    labels, members, sizes = (part[(sizes > 0).all(1)] for part in (labels, members, sizes))
    means = np.where(members, values, 0).sum(2) / sizes
    totals = (np.where(members, values - means[:, :, None], 0) ** 2).sum((1, 2))
    equal = [
        (a, b) for a, b in itertools.combinations(range(len(values)), 2) if values[a] == values[b]
    ]
    together = [labels[:, a] == labels[:, b] for a, b in equal]
    totals = np.where(np.all(together, axis=0), totals, np.inf) if together else totals
    best = np.flatnonzero(totals <= totals.min() + 1e-9)
    tops = [np.flatnonzero(members[index, means[index].argmax()]).tolist() for index in best]
    others = totals[totals > totals.min() + 1e-9]
    return max(tops, key=len), float(others.min(initial=np.inf) - totals.min())


def test_violations_are_the_boundary_and_a_tie_is_one() -> None:
    assert select([-3.0, -1.0, -2.0, -9.0], chosen=-2.0) == [1, 2]


def test_without_violation_the_top_cluster_is_the_boundary() -> None:
    assert select([-1.0, -5.0, -1.2, -9.0, -5.1, -9.2]) == [0, 2]


@pytest.mark.parametrize(
    ("values", "boundary"),
    [
        ([-4.0], [0]),  # K = 1
        ([-4.0, -4.0, -4.0], [0, 1, 2]),  # one distinct value: all
        ([-4.0, -2.0, -4.0, -2.0], [1, 3]),  # two: the upper one
        ([-4.0, -2.0], [1]),
        ([-3.0, -2.0, -1.0], [2]),  # three: each its own cluster
        (
            [-4.0, -3.0, -2.0, -1.0],
            [2, 3],
        ),  # three equally good partitions: the largest top cluster
        ([-64.3, -63.3, -62.3, -61.3], [2, 3]),  # the same where the values are rounded
        ([-5.0, -4.0, -3.0, -2.0, -1.0], [3, 4]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_or_evenly_spaced_values(
    values: list[float], boundary: list[int], dtype: torch.dtype
) -> None:
    assert select(values, dtype=dtype) == boundary


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("spacing", "top"), [([3.0, 2.0, 1.0, 0.0], 2), ([4.0, 3.0, 2.0, 1.0, 0.0], 2)]
)
def test_rounding_of_the_values_does_not_undo_a_tie(
    spacing: list[float], top: int, dtype: torch.dtype
) -> None:
    shifts = torch.linspace(-120, -5, 500, dtype=torch.float64)
    rows = (torch.tensor(spacing, dtype=torch.float64) * 0.7 + shifts[:, None]).to(dtype)
    mask = boundary_negatives(torch.zeros(500, dtype=dtype), rows)
    assert bool((mask == (torch.arange(len(spacing)) < top)).all())


@pytest.mark.parametrize("num_negatives", [3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clusters_are_the_best_of_all_partitions(num_negatives: int, dtype: torch.dtype) -> None:
    rows = random_rows(12, num_negatives, seed=num_negatives, dtype=dtype)
    ours = boundary_negatives(torch.zeros(12, dtype=dtype), rows)
    for values, mask in zip(rows.double().numpy(), ours, strict=True):
        top, gap = brute_force(values)
        if dtype == torch.float64 or gap > 1e-3:
            assert mask.nonzero()[:, 0].tolist() == top


@pytest.mark.parametrize("num_negatives", [4, 5, 6, 7])
def test_clusters_are_the_best_where_values_repeat(num_negatives: int) -> None:
    generator = torch.Generator().manual_seed(num_negatives)
    rows = -torch.randint(1, 7, (40, num_negatives), generator=generator).double()
    ours = boundary_negatives(torch.zeros(40, dtype=torch.float64), rows)
    checked = 0
    for values, mask in zip(rows.numpy(), ours, strict=True):
        if len(np.unique(values)) >= 3:
            assert mask.nonzero()[:, 0].tolist() == brute_force(values)[0]
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("num_negatives", [19, 50, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_never_a_higher_sum_of_squares_than_scikit_learn(
    num_negatives: int, dtype: torch.dtype
) -> None:
    rows = random_rows(6, num_negatives, seed=1, dtype=dtype)
    ours = boundary_negatives(torch.zeros(6, dtype=dtype), rows).numpy()
    for values, top in zip(rows.double().numpy(), ours, strict=True):
        theirs = KMeans(3, n_init=20, random_state=0).fit(values[:, None]).inertia_
        assert inertia(values, top) <= theirs * (1 + (1e-12 if dtype == torch.float64 else 1e-4))


def test_float32_finds_the_clusters_of_float64() -> None:
    rows = random_rows(400, 19, seed=2, dtype=torch.float32)
    single = boundary_negatives(torch.zeros(400), rows)
    double = boundary_negatives(torch.zeros(400, dtype=torch.float64), rows.double())
    differ = (single != double).any(1)
    for values, one, other in zip(
        rows[differ].double().numpy(), single[differ], double[differ], strict=True
    ):
        assert math.isclose(
            inertia(values, one.numpy()), inertia(values, other.numpy()), rel_tol=1e-5
        )
    assert int(differ.sum()) <= 1


@pytest.mark.parametrize("outlier", [-1e3, -1e5])
def test_a_far_outlier_does_not_blur_the_other_clusters(outlier: float) -> None:
    assert select([-1.0, -2.0, -2.2, outlier], dtype=torch.float32) == [0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    rows = random_rows(50, 12, seed=3).to(dtype)
    expected = boundary_negatives(torch.zeros(50), rows.float())
    assert torch.equal(boundary_negatives(torch.zeros(50, dtype=dtype), rows), expected)


@pytest.mark.parametrize("garbage", [0.0, 1e30, -math.inf, math.nan])
def test_a_masked_negative_equals_an_absent_one(garbage: float) -> None:
    counted = random_rows(60, 9, seed=4)
    chosen = counted.amax(1) + torch.linspace(-8, 8, 60, dtype=torch.float64)
    columns = torch.tensor([0, 1, 3, 4, 5, 7, 8, 10, 11])
    padded = torch.full((60, 12), garbage, dtype=torch.float64).index_copy(1, columns, counted)
    mask = torch.zeros(60, 12, dtype=torch.bool).index_fill(1, columns, True)
    ours = boundary_negatives(chosen, padded, mask)
    assert torch.equal(ours[:, columns], boundary_negatives(chosen, counted))
    assert not ours[~mask].any()


def test_a_row_without_counted_negatives_has_no_boundary() -> None:
    mask = torch.tensor([[False, False], [True, False]])
    ours = boundary_negatives(torch.zeros(2), torch.tensor([[-1.0, 2.0], [-1.0, 2.0]]), mask)
    assert ours.tolist() == [[False, False], [True, False]]


def test_order_and_common_shift_change_nothing() -> None:
    rows = random_rows(40, 15, seed=5)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    chosen = rows.amax(1) + torch.linspace(-8, 8, 40, dtype=torch.float64)
    ours = boundary_negatives(chosen, rows)
    assert torch.equal(boundary_negatives(chosen, rows[:, order]), ours[:, order])
    assert torch.equal(boundary_negatives(chosen + 1000, rows + 1000), ours)


def test_rows_do_not_touch_each_other_and_none_is_fine() -> None:
    rows = random_rows(30, 15, seed=6)
    chosen = rows.amax(1) + torch.linspace(-8, 8, 30, dtype=torch.float64)
    alone = torch.cat([boundary_negatives(chosen[i : i + 1], rows[i : i + 1]) for i in range(30)])
    assert torch.equal(boundary_negatives(chosen, rows), alone)
    assert boundary_negatives(chosen[:0], rows[:0]).shape == (0, 15)


def test_arguments_stay_and_the_selection_has_no_gradient() -> None:
    rows = random_rows(4, 6).requires_grad_()
    before = rows.detach().clone()
    assert not boundary_negatives(torch.zeros(4, dtype=torch.float64), rows).requires_grad
    assert torch.equal(rows.detach(), before)


def betas(
    chosen: float, rejected: list[float], boundary: list[bool], margin: float, beta: float = 1.0
) -> list[float]:
    mask = torch.tensor([boundary])
    values = torch.tensor([rejected], dtype=torch.float64)
    computed = dynamic_betas(
        torch.tensor([chosen], dtype=torch.float64),
        values,
        mask,
        torch.ones_like(mask),
        beta,
        margin,
    )
    return computed[0].tolist()


def test_beta_by_hand() -> None:
    # chosen -1, boundary -3, easy -7 and -9 (mean -8): D1 = 2, D2 = 5, so tanh((2 - 5 - m) / 7)
    row = [-3.0, -7.0, -9.0]
    boundary = [True, False, False]
    assert betas(-1.0, row, boundary, 0.0, beta=0.4)[0] == pytest.approx(
        0.4 * (1 + 0.5 * math.tanh(-3 / 7))
    )
    assert betas(-1.0, row, boundary, MARGIN_EARLY)[0] == pytest.approx(1 + 0.5 * math.tanh(-5 / 7))
    assert betas(-1.0, row, boundary, MARGIN_NEWER)[0] == pytest.approx(1 + 0.5 * math.tanh(-9 / 7))


def test_margins_of_the_authors_code() -> None:
    assert (MARGIN_EARLY, MARGIN_NEWER) == (2.0, 6.0)


def test_a_violation_has_a_smaller_beta_than_a_safe_negative() -> None:
    # violating by 4 with easy 10 below: D1 = -4, D2 = 10
    # safe by 9 with easy 1 below: D1 = 9, D2 = 1
    violating = betas(-6.0, [-2.0, -12.0], [True, False], 0.0)[0]
    safe = betas(-1.0, [-10.0, -11.0], [True, False], 0.0)[0]
    assert violating == pytest.approx(1 + 0.5 * math.tanh(-1.0))
    assert safe == pytest.approx(1 + 0.5 * math.tanh(0.8))


def test_all_at_the_boundary_are_their_own_easy_ones() -> None:
    # e is the mean of B itself, -3: D1 = (1, 3), D2 = (1, -1)
    expected = [1 + 0.5 * math.tanh(-6 / 2), 1 + 0.5 * math.tanh(-2 / 4)]
    assert betas(-1.0, [-2.0, -4.0], [True, True], 6.0) == pytest.approx(expected)


def test_one_negative_is_its_own_easy_one() -> None:
    assert betas(-1.0, [-3.0], [True], 6.0) == pytest.approx([1 + 0.5 * math.tanh(-4 / 2)])


@pytest.mark.parametrize(("margin", "expected"), [(0.0, 0.3), (6.0, 0.15), (1e-9, 0.15)])
def test_zero_gaps_give_half_beta_or_beta_without_a_margin(margin: float, expected: float) -> None:
    assert betas(-2.0, [-2.0, -2.0], [True, True], margin, beta=0.3) == pytest.approx(
        [expected, expected]
    )


def test_masked_negatives_do_not_count_as_easy() -> None:
    mask = torch.tensor([[True, True, False]])
    boundary = torch.tensor([[True, False, False]])
    computed = dynamic_betas(
        torch.tensor([-1.0]), torch.tensor([[-3.0, -8.0, math.nan]]), boundary, mask, 1.0, 0.0
    )
    assert computed[0, 0].item() == pytest.approx(1 + 0.5 * math.tanh(-3 / 7))


def test_betas_lie_between_half_and_three_halves() -> None:
    rows = random_rows(200, 15, seed=7)
    chosen = rows.amax(1) + torch.linspace(-20, 20, 200, dtype=torch.float64)
    mask = torch.ones_like(rows, dtype=torch.bool)
    computed = dynamic_betas(chosen, rows, boundary_negatives(chosen, rows), mask, 0.2, 6.0)
    assert bool(((computed >= 0.1) & (computed <= 0.3)).all())
    assert computed.std() > 0.01


def test_float32_betas_agree_with_float64() -> None:
    rows = random_rows(100, 15, seed=8, dtype=torch.float32)
    chosen = rows.amax(1) + 2
    mask, boundary = (
        torch.ones_like(rows, dtype=torch.bool),
        rows >= rows.median(1, keepdim=True).values,
    )
    single = dynamic_betas(chosen, rows, boundary, mask, 1.0, 6.0)
    double = dynamic_betas(chosen.double(), rows.double(), boundary, mask, 1.0, 6.0)
    assert_close(single.double(), double, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("chosen", "rejected", "mask", "message"),
    [
        (
            torch.zeros(2),
            torch.zeros(2, 0),
            None,
            r"rejected: must be \(B, K\) with K >= 1, got \(2, 0\)",
        ),
        (
            torch.zeros(2),
            torch.zeros(2),
            None,
            r"rejected: must be \(B, K\) with K >= 1, got \(2,\)",
        ),
        (
            torch.zeros(3),
            torch.zeros(2, 4),
            None,
            r"chosen: must be \(2,\) to fit rejected \(2, 4\), got \(3,\)",
        ),
        (torch.zeros(2, 1), torch.zeros(2, 4), None, r"chosen: must be \(2,\)"),
        (
            torch.zeros(2),
            torch.zeros(2, 4),
            torch.ones(2, 4),
            r"mask: must be bool \(2, 4\), got torch.float32",
        ),
        (
            torch.zeros(2),
            torch.zeros(2, 4),
            torch.ones(2, 3) > 0,
            r"mask: must be bool \(2, 4\), got torch.bool",
        ),
        (
            torch.zeros(2),
            torch.zeros(2, 4).long(),
            None,
            r"rejected: must be floating point, got torch.int64",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    chosen: Tensor, rejected: Tensor, mask: Tensor | None, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        boundary_negatives(chosen, rejected, mask)
