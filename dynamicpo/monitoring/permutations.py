"""The null of drift: the same rows, divided anew between the windows by whole users.

Rows of one user are alike, so that a permutation of rows would find drift in any two groups of
users. A user with rows in both windows stays in both: the two blocks of rows are exchanged or not.
"""

import functools
from typing import NamedTuple

import numpy as np
import pandas as pd

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import BoolArray, FloatArray, IntArray
from dynamicpo.monitoring.distances import count_column, division_distances

# A distance as large as the observed one, but for the rounding of sums in another order.
_ROUNDING = 1e-9


class ColumnSample(NamedTuple):
    """A column of a reference and of the current window.

    Attributes:
        name: Its name.
        reference: Its values in the reference. Shape (R,).
        reference_users: The user of each. Shape (R,).
        current: Its values in the current window. Shape (C,).
        current_users: The user of each. Shape (C,).
    """

    name: str
    reference: pd.Series
    reference_users: pd.Series
    current: pd.Series
    current_users: pd.Series


class PermutationTest(NamedTuple):
    """The distance of a column, and its place among those of permuted users.

    Attributes:
        distance: Evidently's.
        p: Share of the divisions, the observed one included, that are at least as far apart.
        reference_users: Users of the reference with a value.
        current_users: Users of the current window with a value.
    """

    distance: float
    p: float
    reference_users: int
    current_users: int


class _Blocks(NamedTuple):
    """Rows of a user in a window: those of the reference first.

    Attributes:
        rows: The block of each row, of the reference and then of the current window. Shape (N,).
        users: The user of each block. Shape (B,).
        num_reference: Blocks of the reference.
    """

    rows: IntArray
    users: tuple[str, ...]
    num_reference: int


def permutation_test(
    sample: ColumnSample, method: str, num_permutations: int, seed: int
) -> PermutationTest:
    """Compare a column's distance with those of permuted users.

    Args:
        sample: The column; missing values are left out.
        method: The distance.
        num_permutations: Divisions to draw.
        seed: Of the divisions.
    """
    reference = _with_values(sample.reference, sample.reference_users)
    current = _with_values(sample.current, sample.current_users)
    blocks = _blocks(reference["user"], current["user"])
    num_blocks = len(blocks.users)
    num_reference = blocks.num_reference
    num_current = num_blocks - num_reference
    if not num_reference or not num_current:
        return PermutationTest(np.nan, 1.0, num_reference, num_current)
    both = pd.concat([reference, current])
    column = count_column(both["value"], blocks.rows, num_blocks, method)
    divisions = _divisions(blocks.users, blocks.num_reference, num_permutations, seed)
    distances = division_distances(column, divisions)
    observed = float(distances[0])
    p = _share_as_far(distances)
    return PermutationTest(observed, p, num_reference, num_current)


def _with_values(values: pd.Series, users: pd.Series) -> pd.DataFrame:
    columns = {"value": values, "user": users}
    frame = pd.DataFrame(columns)
    return frame.dropna()


def _blocks(reference_users: pd.Series, current_users: pd.Series) -> _Blocks:
    reference_rows, reference_names = pd.factorize(reference_users, sort=True)
    current_rows, current_names = pd.factorize(current_users, sort=True)
    num_reference = len(reference_names)
    # Blocks of the current window come behind.
    current_blocks = current_rows + num_reference
    rows = np.concatenate([reference_rows, current_blocks])
    users = (*reference_names, *current_names)
    return _Blocks(rows, users, num_reference)


# Most columns have the same users.
@functools.lru_cache(maxsize=4)
def _divisions(
    users: tuple[str, ...], num_reference: int, num_permutations: int, seed: int
) -> BoolArray:
    """The observed division, then permuted ones: True for blocks of the reference. (1 + P, B)."""
    numbers = np.arange(len(users))
    observed = numbers < num_reference
    draws = np.arange(num_permutations, dtype=np.uint64)
    keys = random_keys.keys(seed, "drift permutations", users)
    # A user's two blocks have the same key, and so the same draw.
    uniform = random_keys.uniform(keys[None, :], draws[:, None])
    names = pd.Series(users)
    is_paired = names.duplicated(keep=False).to_numpy()
    is_exchanged = uniform < 0.5
    exchanged = observed ^ is_exchanged
    # Of the others as many as before are the reference's: those with the smallest draws.
    is_single_reference = observed & ~is_paired
    num_single = is_single_reference.sum()
    ranks = _ranks(np.where(is_paired, np.inf, uniform))
    is_smallest = ranks < num_single
    permuted = np.where(is_paired, exchanged, is_smallest)
    return np.concatenate([observed[None, :], permuted])


def _ranks(draws: FloatArray) -> IntArray:
    """The rank of each draw in its row, from 0. Shape (P, B)."""
    order = draws.argsort(axis=1, kind="stable")
    return order.argsort(axis=1, kind="stable")


def _share_as_far(distances: FloatArray) -> float:
    observed = distances[0]
    least = observed - _ROUNDING
    is_as_far = distances >= least
    # A division that leaves a side without values says nothing: it counts as far.
    counts = is_as_far | np.isnan(distances)
    return float(counts.mean())
