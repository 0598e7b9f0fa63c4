"""95 % intervals and paired comparisons by a bootstrap that resamples users, with all their rows.

Rows of one user are alike, so rows are not independent observations; users are. A resample draws as many users as there
are, with replacement, and takes the mean over all their rows: only each user's sums are needed.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynamicpo.core.errors import ConfigError, DataError, ShapeError

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]
Values = NDArray[Any] | Sequence[Any]
RESAMPLES = 10_000
LEVEL = 0.95
_BLOCK = 2**17  # users drawn by one generator, whatever the number of threads: stays in the cache


class Interval(NamedTuple):
    """Bounds of a mean; both None where there is one user only, whose spread says nothing of other users."""

    low: float | None
    high: float | None


class Difference(NamedTuple):
    """Mean of a - b over paired rows, its interval, and the two-sided p of no difference (None for one user)."""

    difference: float
    low: float | None
    high: float | None
    p: float | None


def clustered_interval(
    values: Values, users: Values, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The 95 % interval of a mean over rows, with users as the unit of resampling.

    Args:
        values: One number a row. Shape (N,).
        users: The user of each row. Shape (N,).
        resamples: Bootstrap resamples, >= 100.
        seed: Same seed, same interval.

    Returns:
        `low, high`; `None, None` for one user only, with a warning.

    Raises:
        ConfigError: Too few resamples.
        DataError: No rows, or values that are not finite.
        ShapeError: The lengths differ.
    """
    return clustered_intervals({"values": values}, users, resamples, seed)["values"]


def clustered_intervals(
    values: Mapping[str, Values], users: Values, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """As `clustered_interval`, for several metrics of the same rows on the same resamples."""
    matrix = _matrix(values, users, resamples)
    replicates, num_users = _replicates(matrix, users, resamples, seed)
    if replicates is None:
        return dict.fromkeys(values, Interval(None, None))
    return {
        name: _interval(_expanded(replicates[:, place], row, num_users))
        for place, (name, row) in enumerate(zip(values, matrix.T, strict=True))
    }


def paired_difference(
    a: Values, b: Values, users: Values, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Mean difference of two models on the same rows, by the same resamples of users.

    Args:
        a: One number a row of the first model. Shape (N,).
        b: The same rows of the second. Shape (N,).
        users: The user of each row. Shape (N,).
        resamples: Bootstrap resamples, >= 100.
        seed: Same seed, same interval.

    Returns:
        `difference, low, high, p`; p is below 0.05 where the interval leaves out 0 (to within a resample), and at least
        2 / (resamples + 1).

    Raises:
        ConfigError: Too few resamples.
        DataError: No rows, or values that are not finite.
        ShapeError: The lengths differ.
    """
    matrix = _matrix({"a": a, "b": b}, users, resamples)
    rows = matrix[:, 0] - matrix[:, 1]
    difference = float(rows.mean())
    replicates, num_users = _replicates(rows[:, None], users, resamples, seed)
    if replicates is None:
        return Difference(difference, None, None, None)
    spread = _expanded(replicates[:, 0], rows, num_users)
    beyond = min(int((spread <= 0).sum()), int((spread >= 0).sum()))
    return Difference(
        difference, *_interval(spread), p=min(1.0, 2 * (beyond + 1) / (resamples + 1))
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that hold for the whole family of comparisons, in the order given.

    Raises:
        DataError: A p-value outside 0..1.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.
    """
    p = np.asarray(p_values, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError(
            f"p_values: must lie in 0..1, got {list(p_values)}. Leave comparisons without a p out."
        )
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return [float(value) for value in adjusted]


def _expanded(replicates: Floats, rows: Floats, num_users: int) -> Floats:
    """Replicates spread a little, within the range of the rows, so that few users do not make intervals too short.

    Source: Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician, 2015: the expanded
    percentile interval, by sqrt(U / (U - 1)) for the plug-in variance and t / z for its estimation.
    """
    z, freedom = NormalDist().inv_cdf((1 + LEVEL) / 2), num_users - 1
    factor = math.sqrt(num_users / freedom) * student_t(z, freedom) / z
    mean = rows.mean()
    return np.asarray(np.clip(mean + factor * (replicates - mean), rows.min(), rows.max()))


def student_t(z: float, freedom: int) -> float:
    """The t quantile that belongs to a normal quantile (Abramowitz and Stegun 26.7.5), good from 4 degrees on."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))


def _interval(replicates: Floats) -> Interval:
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _replicates(
    matrix: Floats, users: Values, resamples: int, seed: int
) -> tuple[Floats | None, int]:
    """The metrics' means in every resample, shape (resamples, M), or None; and the number of users."""
    names, user = np.unique(np.asarray(users), return_inverse=True)
    num_users = len(names)
    if num_users == 1:
        log.warning(
            "intervals: not available, all %d rows are of one user; it takes at least two",
            len(matrix),
        )
        return None, num_users
    columns = [np.bincount(user, weights=column, minlength=num_users) for column in matrix.T]
    sums = np.column_stack([*columns, np.bincount(user, minlength=num_users)])
    totals = _resampled(sums, resamples, seed)
    return totals[:, :-1] / totals[:, -1:], num_users


def _resampled(sums: Floats, resamples: int, seed: int) -> Floats:
    """Totals of `sums`, shape (U, M), over U users drawn with replacement. Shape (resamples, M).

    Users with equal sums are interchangeable: where there are few kinds, how many of each kind are drawn is one
    multinomial draw. Both ways have the same distribution.
    """
    num_users = len(sums)
    kinds, number = np.unique(sums, axis=0, return_counts=True)
    if 32 * len(kinds) <= num_users:
        drawn = np.random.default_rng(seed).multinomial(
            num_users, number / num_users, size=resamples
        )
        return np.asarray(drawn @ kinds)
    per_block = max(1, _BLOCK // num_users)
    sizes = [min(per_block, resamples - start) for start in range(0, resamples, per_block)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))
    with ThreadPoolExecutor() as pool:
        blocks = pool.map(
            lambda size, block_seed: _draw_block(sums, size, block_seed), sizes, seeds
        )
        return np.concatenate(list(blocks))


def _draw_block(sums: Floats, resamples: int, seed: np.random.SeedSequence) -> Floats:
    num_users = len(sums)
    drawn = np.random.default_rng(seed).integers(0, num_users, size=(resamples, num_users))
    drawn += np.arange(resamples)[:, None] * num_users
    times = np.bincount(drawn.reshape(-1), minlength=drawn.size).reshape(drawn.shape)
    return np.asarray(times @ sums)


def _matrix(values: Mapping[str, Values], users: Values, resamples: int) -> Floats:
    """The metrics as columns, checked. Shape (N, M)."""
    if resamples < 100:
        raise ConfigError(f"resamples: must be >= 100, got {resamples}. Use {RESAMPLES}.")
    num_rows = len(users)
    if not values or not num_rows:
        raise DataError(
            f"values: need at least one row, got {num_rows}. Evaluate a split that has rows."
        )
    for name, row in values.items():
        if np.shape(row) != (num_rows,):
            raise ShapeError(
                f"{name}: must be ({num_rows},), one a user entry, got {np.shape(row)}. Use the same rows."
            )
        num_bad = int((~np.isfinite(np.asarray(row, dtype=float))).sum())
        if num_bad:
            raise DataError(
                f"{name}: must be finite, {num_bad} of {num_rows} rows are not. Leave them out."
            )
    return np.column_stack([np.asarray(row, dtype=float) for row in values.values()])
