"""Distances between two samples of a column, for many divisions of the same rows at once.

They equal Evidently's, which computes one at a time: a test compares them.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import rel_entr

from dynamicpo.core.arrays import BoolArray, FloatArray, IntArray

WASSERSTEIN = "wasserstein"
JENSEN_SHANNON = "jensenshannon"
# Evidently's, for samples that hardly vary.
_LEAST_SPREAD = 0.001


class CountedColumn(NamedTuple):
    """A column of rows that are divided block by block into a reference and a current window.

    Attributes:
        values: What occurs: numbers in ascending order, or the numbers of categories. Shape (M,).
        counts: Rows of each block with each value. Shape (B, M), sparse.
        method: The distance.
    """

    values: FloatArray
    counts: sparse.csr_matrix
    method: str


def count_column(
    column: pd.Series, blocks: IntArray, num_blocks: int, method: str
) -> CountedColumn:
    """Count the values of each block.

    Args:
        column: Numbers or texts; missing ones are left out. Shape (N,).
        blocks: The block of each row. Shape (N,).
        num_blocks: B.
        method: The distance.
    """
    codes, values = pd.factorize(column, sort=True)
    is_there = codes >= 0
    rows = blocks[is_there]
    columns = codes[is_there]
    num_values = len(values)
    ones = np.ones(len(rows))
    cells = (ones, (rows, columns))
    counts = sparse.coo_matrix(cells, shape=(num_blocks, num_values))
    numbers = np.arange(num_values, dtype=float)
    # Categories have no distance from each other.
    if method == WASSERSTEIN:
        numbers = np.asarray(values, dtype=float)
    return CountedColumn(numbers, counts.tocsr(), method)


def division_distances(column: CountedColumn, in_reference: BoolArray) -> FloatArray:
    """The distance of each division.

    Args:
        column: The column.
        in_reference: True for the blocks that are the reference's. Shape (P, B).

    Returns:
        Shape (P,); NaN where a side has no value.
    """
    # From the left a dense matrix times a sparse one is not to be had.
    divisions = in_reference.T.astype(float)
    by_value = column.counts.T @ divisions
    reference = by_value.T
    sums = column.counts.sum(axis=0)
    total = np.asarray(sums).ravel()
    current = total - reference
    reference_shares = _shares(reference)
    current_shares = _shares(current)
    if column.method == WASSERSTEIN:
        return _wasserstein(column.values, reference_shares, current_shares)
    return _jensen_shannon(reference_shares, current_shares)


def _shares(counts: FloatArray) -> FloatArray:
    num_rows = counts.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(counts / num_rows)


def _wasserstein(values: FloatArray, reference: FloatArray, current: FloatArray) -> FloatArray:
    """Wasserstein distances in standard deviations of the reference."""
    # The area between the two cumulative distributions.
    differences = reference - current
    gaps = np.cumsum(differences, axis=1)
    heights = np.abs(gaps[:, :-1])
    areas = heights @ np.diff(values)
    # About a middle, for squares of large numbers leave no digits for their differences.
    centred = values - values.mean()
    means = reference @ centred
    squares = reference @ centred**2
    variances = squares - means**2
    # Rounding may leave less than nothing.
    variances = np.maximum(variances, 0)
    spreads = np.sqrt(variances)
    spreads = np.maximum(spreads, _LEAST_SPREAD)
    return np.asarray(areas / spreads)


def _jensen_shannon(reference: FloatArray, current: FloatArray) -> FloatArray:
    """Jensen-Shannon distances, in nats."""
    middle = (reference + current) / 2
    divergences = rel_entr(reference, middle)
    divergences += rel_entr(current, middle)
    sums = divergences.sum(axis=1)
    # Rounding may leave less than nothing between equals.
    sums = np.maximum(sums, 0)
    distances = np.sqrt(sums / 2)
    return np.asarray(distances)
