"""95 % intervals and paired comparisons by a bootstrap of users, with all their rows."""

import logging
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from dynamicpo.core.arrays import FloatArray, IntArray
from dynamicpo.core.errors import ConfigError, DataError, ShapeError
from dynamicpo.metrics.bootstrap import resampled_means

log = logging.getLogger(__name__)
RESAMPLES = 10_000
LEVEL = 0.95
POWER = 0.8
_LOW_QUANTILE = (1 - LEVEL) / 2
_HIGH_QUANTILE = (1 + LEVEL) / 2


class Interval(NamedTuple):
    """Bounds of a mean.

    Both are None where there is one user only, whose spread says nothing of other users.
    """

    low: float | None
    high: float | None


class Difference(NamedTuple):
    """Mean of a − b over paired rows, its interval, and the two-sided p of no difference.

    Interval and p are None for one user.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None


def clustered_interval(
    values: ArrayLike, users: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
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
    values: Mapping[str, ArrayLike],
    users: ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """As `clustered_interval`, for several metrics of the same rows on the same resamples."""
    user_index = _user_index(users)
    columns = _checked_columns(values, len(user_index), resamples)
    if _is_one_user(user_index):
        return dict.fromkeys(values, Interval(None, None))
    replicates = resampled_means(columns, user_index, resamples, seed)
    factor = _expansion_factor(user_index)
    intervals = {}
    for name, means, rows in zip(values, replicates.T, columns.T, strict=True):
        expanded = _expanded(means, rows, factor)
        intervals[name] = _interval(expanded)
    return intervals


def paired_difference(
    a: ArrayLike, b: ArrayLike, users: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Mean difference of two models on the same rows, by the same resamples of users.

    Args:
        a: One number a row of the first model. Shape (N,).
        b: The same rows of the second. Shape (N,).
        users: The user of each row. Shape (N,).
        resamples: Bootstrap resamples, >= 100.
        seed: Same seed, same interval.

    Returns:
        `difference, low, high, p`; p is below 0.05 where the interval leaves out 0 (to within a
        resample), and at least 2 / (resamples + 1).

    Raises:
        ConfigError: Too few resamples.
        DataError: No rows, or values that are not finite.
        ShapeError: The lengths differ.
    """
    user_index = _user_index(users)
    columns = _checked_columns({"a": a, "b": b}, len(user_index), resamples)
    rows_of_a, rows_of_b = columns.T
    # The difference of each row is resampled, so that what both models share cancels.
    rows = rows_of_a - rows_of_b
    difference = float(rows.mean())
    if _is_one_user(user_index):
        return Difference(difference, None, None, None)
    replicates = resampled_means(rows[:, None], user_index, resamples, seed)
    factor = _expansion_factor(user_index)
    expanded = _expanded(replicates[:, 0], rows, factor)
    low, high = _interval(expanded)
    p = _two_sided_p(expanded)
    return Difference(difference, low, high, p)


def detectable_difference(low: float | None, high: float | None) -> float:
    """The smallest difference that such rows show with a probability of 80 %.

    It is (z of the level + z of the power) standard errors, by the width of an interval.

    Args:
        low: Lower bound of the interval of a difference.
        high: Upper bound.

    Returns:
        Infinite where there is no interval, which is for a single user.
    """
    if low is None or high is None:
        return math.inf
    normal = NormalDist()
    z_level = normal.inv_cdf(_HIGH_QUANTILE)
    z_power = normal.inv_cdf(POWER)
    half_width = (high - low) / 2
    standard_error = half_width / z_level
    return standard_error * (z_level + z_power)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that hold for the entire family of comparisons.

    They come back in the order in which they went in.

    Raises:
        DataError: A p-value outside 0..1.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics, 1979.
    """
    p = np.asarray(p_values, dtype=float)
    # Written so that NaN is refused as well.
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError(
            f"p_values: must lie in 0..1, got {list(p_values)}. Leave comparisons without a p out."
        )
    order = np.argsort(p, kind="stable")
    ascending = p[order]
    num_left = np.arange(len(p), 0, -1)
    # A larger p is never corrected to less than a smaller one.
    corrected = np.maximum.accumulate(num_left * ascending)
    corrected = np.minimum(corrected, 1)
    in_order = np.empty_like(p)
    in_order[order] = corrected
    return list(map(float, in_order))


def _expanded(replicates: FloatArray, rows: FloatArray, factor: float) -> FloatArray:
    """Replicates spread by a factor about the mean, within the range of the rows."""
    mean = rows.mean()
    deviations = factor * (replicates - mean)
    spread = mean + deviations
    clipped = np.clip(spread, rows.min(), rows.max())
    return np.asarray(clipped)


def _expansion_factor(user_index: IntArray) -> float:
    """The factor of the expanded percentile interval, without which few users make it too short.

    sqrt(U / (U - 1)) makes up for the variance of a sample, which divides by U; t / z for its being
    estimated.

    Source: Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician,
    2015.
    """
    freedom = int(user_index.max())
    num_users = freedom + 1
    z = NormalDist().inv_cdf(_HIGH_QUANTILE)
    t = float(special.stdtrit(freedom, _HIGH_QUANTILE))
    return math.sqrt(num_users / freedom) * t / z


def _interval(replicates: FloatArray) -> Interval:
    low, high = np.quantile(replicates, [_LOW_QUANTILE, _HIGH_QUANTILE])
    return Interval(float(low), float(high))


def _two_sided_p(replicates: FloatArray) -> float:
    """Twice the share of replicates on the other side of 0, of the side that has fewer."""
    num_below = int((replicates <= 0).sum())
    num_above = int((replicates >= 0).sum())
    beyond = min(num_below, num_above)
    resamples = len(replicates)
    # The sample itself counts as one more replicate, so that p is never 0.
    return min(1.0, 2 * (beyond + 1) / (resamples + 1))


def _user_index(users: ArrayLike) -> IntArray:
    """The number of each row's user, 0 to U - 1. Shape (N,)."""
    _, index = np.unique(np.asarray(users), return_inverse=True)
    return index


def _is_one_user(user_index: IntArray) -> bool:
    if user_index.any():
        return False
    log.warning(
        "intervals: not available, all %d rows are of one user; it takes at least two",
        len(user_index),
    )
    return True


def _checked_columns(values: Mapping[str, ArrayLike], num_rows: int, resamples: int) -> FloatArray:
    """The metrics as columns. Shape (N, M)."""
    if resamples < 100:
        raise ConfigError(f"resamples: must be >= 100, got {resamples}. Use {RESAMPLES}.")
    if not values or not num_rows:
        raise DataError(
            f"values: need at least one row, got {num_rows}. Evaluate a split that has rows."
        )
    return np.column_stack([_checked(name, row, num_rows) for name, row in values.items()])


def _checked(name: str, row: ArrayLike, num_rows: int) -> FloatArray:
    if np.shape(row) != (num_rows,):
        raise ShapeError(
            f"{name}: must be ({num_rows},), one a user entry, got {np.shape(row)}. "
            "Use the same rows."
        )
    values = np.asarray(row, dtype=float)
    num_bad = int((~np.isfinite(values)).sum())
    if num_bad:
        raise DataError(
            f"{name}: must be finite, {num_bad} of {num_rows} rows are not. Leave them out."
        )
    return values
