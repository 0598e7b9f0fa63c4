"""Comparisons of two kinds of cells on the same rows, seed by seed.

Their mean difference varies for two reasons: which users are in the test split, and the seeds of
training. The variances of both are added (which counts what they share twice, and so errs on the
safe side), and a t test with Satterthwaite's degrees of freedom gives p. All comparisons of a study
are one family: p is corrected by Holm for their number.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from dynamicpo.core.arrays import FloatArray, IntArray
from dynamicpo.core.choices import VARIANTS
from dynamicpo.metrics.intervals import LEVEL, Difference, holm
from dynamicpo.study.kinds import PLAIN, SFT, Kind, kind_at, numbers_of_negatives

Pair = tuple[Kind, Kind]


@dataclass(frozen=True)
class Cells:
    """The cells of one kind: one for each seed.

    Attributes:
        hits: HitRatio@1 of each row. Shape (S, N).
        figures: Measures at the end of training, shape (S,) each; among them `loss_share`, the
            final loss as a share of the loss before training.
    """

    hits: FloatArray
    figures: Mapping[str, FloatArray]


class Contrast(NamedTuple):
    """Kind a − kind b: the difference in HitRatio@1, its 95 % interval, p, and p after Holm.

    The last four are None where all rows are of one user.
    """

    a: Kind
    b: Kind
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None = None


class _Variance(NamedTuple):
    """Variance of a mean, and the degrees of freedom of its estimate (0: it is not estimated)."""

    variance: float
    freedom: int


def compare_kinds(
    cells: Mapping[Kind, Cells], pairs: Sequence[Pair], users: Sequence[str]
) -> list[Contrast]:
    """The family of comparisons, with p corrected for their number."""
    contrasts = []
    for a, b in pairs:
        difference = contrast(cells[a].hits, cells[b].hits, users)
        contrasts.append(Contrast(a, b, *difference))
    return _with_corrected_p(contrasts)


def _with_corrected_p(contrasts: list[Contrast]) -> list[Contrast]:
    p_values = [entry.p for entry in contrasts if entry.p is not None]
    # All comparisons are of the same rows: with a single user, none of them has a p.
    if not p_values:
        return contrasts
    corrected = []
    for entry, p_holm in zip(contrasts, holm(p_values), strict=True):
        corrected.append(entry._replace(p_holm=p_holm))
    return corrected


def contrast(a: FloatArray, b: FloatArray, users: Sequence[str]) -> Difference:
    """Difference, bounds and p of two kinds on the same rows.

    Args:
        a: One number for each seed and row. Shape (S, N).
        b: The same of the other kind; (1, N) for one that has no seeds.
        users: The user of each row.
    """
    # Rows and seeds are paired: what both kinds find hard cancels.
    differences = a - b
    by_seed = differences.mean(axis=1)
    by_row = differences.mean(axis=0)
    mean = float(by_seed.mean())
    _, user_index = np.unique(np.asarray(users), return_inverse=True)
    is_one_user = not user_index.any()
    if is_one_user:
        return Difference(mean, None, None, None)
    over_users = _variance_over_users(by_row - mean, user_index)
    over_seeds = _variance_over_seeds(by_seed)
    return _t_test(mean, over_users, over_seeds)


def _t_test(mean: float, over_users: _Variance, over_seeds: _Variance) -> Difference:
    """Interval of a mean, and the two-sided p of its being 0."""
    error = math.sqrt(over_users.variance + over_seeds.variance)
    # Without any variation the difference is exact, and t is not defined.
    if error == 0:
        return Difference(mean, mean, mean, float(mean == 0))
    freedom = _degrees_of_freedom(error, over_users, over_seeds)
    student = stats.t(freedom)
    reach = float(student.ppf((1 + LEVEL) / 2)) * error
    t = abs(mean) / error
    # The survival function, and not 1 - cdf, which rounds small p to 0.
    p = 2 * float(student.sf(t))
    low = mean - reach
    high = mean + reach
    return Difference(mean, low, high, p)


def _variance_over_users(residuals: FloatArray, user_index: IntArray) -> _Variance:
    """Variance of a mean over rows whose users are drawn at random.

    Rows of one user are alike, so the residuals are summed over each user first.
    """
    user_sums = np.bincount(user_index, weights=residuals)
    num_users = len(user_sums)
    num_rows = len(residuals)
    sum_of_squares = (user_sums**2).sum()
    # The residuals are about the mean of the same users, which takes one degree of freedom.
    freedom = num_users - 1
    variance = num_users / freedom * sum_of_squares / num_rows**2
    return _Variance(float(variance), freedom)


def _variance_over_seeds(means: FloatArray) -> _Variance:
    """Variance of a mean over seeds; one seed says nothing of it."""
    num_seeds = len(means)
    if num_seeds == 1:
        return _Variance(0.0, 0)
    return _Variance(float(means.var(ddof=1) / num_seeds), num_seeds - 1)


def _degrees_of_freedom(error: float, *variances: _Variance) -> float:
    """Satterthwaite's approximation for a sum of variances that are each estimated."""
    total = 0.0
    for variance, freedom in variances:
        if freedom:
            total += variance**2 / freedom
    return error**4 / total


def pairs_of(cells: Mapping[Kind, Cells], objectives: Sequence[str]) -> list[Pair]:
    """The pairs that are compared, each once.

    They are every number of negatives with every smaller one, variants with the plain objective,
    and the fewest negatives with SFT.
    """
    numbers = numbers_of_negatives(cells)
    pairs: list[Pair] = []
    for loss in objectives:
        plain = [kind_at(loss, PLAIN, number) for number in numbers]
        for variant in VARIANTS:
            kinds = [kind_at(loss, variant, number) for number in numbers]
            pairs += _larger_with_smaller(kinds)
            pairs += zip(kinds, plain, strict=True)
        pairs.append((plain[0], SFT))
    # Kinds at one negative belong to several objectives, and so come more than once; plain ones
    # are paired with themselves. Kinds that were not trained are left out.
    unique = dict.fromkeys(pairs)
    return [(a, b) for a, b in unique if a in cells and b in cells and a != b]


def _larger_with_smaller(kinds: Sequence[Kind]) -> list[Pair]:
    return [(larger, smaller) for smaller, larger in itertools.combinations(kinds, 2)]
