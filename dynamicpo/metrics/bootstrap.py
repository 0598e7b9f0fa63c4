"""Means over the rows of bootstrap resamples, with users as the unit of resampling.

Rows of one user are alike, so rows are not independent observations; users are. A resample draws as
many users as there are, with replacement, and takes the mean over all their rows: only each user's
sums are needed.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dynamicpo.core.arrays import FloatArray, IntArray

# Users drawn by one generator, whatever the number of threads: their counts stay in the cache.
_BLOCK_SIZE = 2**17
# With so many users of each kind, counting kinds is faster than drawing users.
_USERS_A_KIND = 32


def resampled_means(
    values: FloatArray, user_index: IntArray, resamples: int, seed: int
) -> FloatArray:
    """The mean of every metric in every resample.

    Args:
        values: A column for each metric. Shape (N, M).
        user_index: The number of each row's user, 0 to U - 1. Shape (N,).
        resamples: Number of resamples R.
        seed: Same seed, same means.

    Returns:
        Shape (R, M).
    """
    columns = []
    for column in values.T:
        columns.append(np.bincount(user_index, weights=column))
    num_rows = np.bincount(user_index).astype(float)
    user_sums = np.column_stack([*columns, num_rows])
    totals = _resampled_totals(user_sums, resamples, seed)
    # A resample has as many rows as its users have, so its mean is a ratio of two sums.
    value_totals, num_resampled_rows = np.split(totals, [-1], axis=1)
    means = value_totals / num_resampled_rows
    return np.asarray(means)


def _resampled_totals(user_sums: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Totals of `user_sums`, shape (U, M), over U users drawn with replacement. Shape (R, M).

    Users with equal sums are interchangeable: where there are few kinds, the numbers of users
    drawn of each kind are one multinomial draw. Both ways have the same distribution.
    """
    num_users = len(user_sums)
    kinds, num_of_kind = np.unique(user_sums, axis=0, return_counts=True)
    if _USERS_A_KIND * len(kinds) > num_users:
        return _totals_of_drawn_users(user_sums, resamples, seed)
    generator = np.random.default_rng(seed)
    shares = num_of_kind / num_users
    drawn = generator.multinomial(num_users, shares, size=resamples)
    return np.asarray(drawn @ kinds)


def _totals_of_drawn_users(user_sums: FloatArray, resamples: int, seed: int) -> FloatArray:
    sizes = _block_sizes(len(user_sums), resamples)
    # A generator for each block, so that the draws do not depend on the number of threads.
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))

    def draw(size: int, block_seed: np.random.SeedSequence) -> FloatArray:
        return _draw_block(user_sums, size, block_seed)

    # Threads, since NumPy draws and counts without Python's global lock.
    with ThreadPoolExecutor() as pool:
        blocks = list(pool.map(draw, sizes, seeds))
    return np.concatenate(blocks)


def _block_sizes(num_users: int, resamples: int) -> Sequence[int]:
    """Numbers of resamples of each block, which add up to all."""
    per_block = max(1, _BLOCK_SIZE // num_users)
    return [min(per_block, resamples - start) for start in range(0, resamples, per_block)]


def _draw_block(user_sums: FloatArray, resamples: int, seed: np.random.SeedSequence) -> FloatArray:
    num_users = len(user_sums)
    shape = (resamples, num_users)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, num_users, size=shape)
    # Each resample counts in a range of its own, so that one call counts for all of them.
    offsets = np.arange(resamples) * num_users
    drawn += offsets[:, None]
    times_drawn = np.bincount(drawn.reshape(-1), minlength=drawn.size)
    times_drawn = times_drawn.reshape(shape)
    return np.asarray(times_drawn @ user_sums)
