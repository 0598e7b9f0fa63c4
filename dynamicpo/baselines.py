"""Baselines that need no training: what a language model has to beat on the same rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dynamicpo.errors import DataError, unknown_name

Scores = NDArray[np.float64]
Codes = NDArray[np.int64]


def baseline_scores(name: str, rows: pa.Table, items: pd.DataFrame, train: pa.Table) -> Scores:
    """A baseline's score of each candidate; the highest is recommended, and ties count by expected value.

    Args:
        name: One of `BASELINES`.
        rows: The rows to score, with `history` and `candidates`, all of one length A.
        items: The items table, whose popularity counts the training split only.
        train: The training rows, with `history` and `target`.

    Returns:
        Shape (N, A).

    Raises:
        ConfigError: An unknown name.
        DataError: An item that is not in the items table.
    """
    if name not in BASELINES:
        raise unknown_name("baseline", name, BASELINES)
    return BASELINES[name](rows, items, train)


def random_scores(rows: pa.Table, items: pd.DataFrame, train: pa.Table) -> Scores:
    """All the same: the expected value under ties is chance, 1 / A for HitRatio@1, without the noise of one draw."""
    return np.zeros(_candidates(rows, items).shape)


def popularity_scores(rows: pa.Table, items: pd.DataFrame, train: pa.Table) -> Scores:
    """Interactions of each candidate in the training split."""
    return items["popularity"].to_numpy(np.float64)[_candidates(rows, items)]


def cooccurrence_scores(rows: pa.Table, items: pd.DataFrame, train: pa.Table) -> Scores:
    """Sum, over the history, of each item's nearness to the candidate.

    Two items meet when one is a training row's target and the other in its history. Their nearness is the cosine of
    the two columns of such meetings: count / sqrt(all of the one * all of the other).

    Source: item-based nearest neighbours, Deshpande and Karypis, "Item-based top-N recommendation algorithms" (2004).
    """
    size = len(items)
    history, owner = _codes(train["history"], items)
    target = _codes(train["target"], items)[0][owner]
    one, other = np.concatenate([history, target]), np.concatenate([target, history])
    pairs, counts = np.unique((one * size + other)[one != other], return_counts=True)
    total = np.bincount(pairs // max(size, 1), weights=counts, minlength=size)
    nearness = counts / np.sqrt(total[pairs // max(size, 1)] * total[pairs % max(size, 1)])
    candidates = _candidates(rows, items)
    seen, row = _codes(rows["history"], items)
    scores = np.zeros(candidates.shape)
    if len(pairs):
        wanted = seen[:, None] * size + candidates[row]
        place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        np.add.at(scores, row, np.where(pairs[place] == wanted, nearness[place], 0.0))
    return scores


BASELINES: dict[str, Callable[[pa.Table, pd.DataFrame, pa.Table], Scores]] = {
    "random": random_scores,
    "popularity": popularity_scores,
    "cooccurrence": cooccurrence_scores,
}


def _candidates(rows: pa.Table, items: pd.DataFrame) -> Codes:
    codes, owner = _codes(rows["candidates"], items)
    lengths = np.bincount(owner, minlength=len(rows))
    if not len(codes) or (lengths != lengths[0]).any():
        raise DataError(
            "candidates: all rows must have as many, and at least one row must be there, "
            f"got {lengths.min() if len(rows) else 0} to {lengths.max(initial=0)}. Sample negatives again."
        )
    return codes.reshape(len(rows), -1)


def _codes(column: Any, items: pd.DataFrame) -> tuple[Codes, Codes]:
    """Each entry of a column (of items, or of lists of items) as its place in the items table, and its row."""
    array = column.combine_chunks()
    owner = np.arange(len(array), dtype=np.int64)
    if pa.types.is_list(array.type):
        owner = np.repeat(owner, array.value_lengths().to_numpy().astype(np.int64))
        array = array.flatten()
    codes = np.asarray(pd.Index(items["item_id"]).get_indexer(pd.Index(array.to_pandas())), dtype=np.int64)
    if (codes < 0).any():
        place = int((codes < 0).argmax())
        raise DataError(
            f"row {owner[place]}: every item must be in items.parquet, got {array[place].as_py()!r}. "
            "Use the items that came with the rows."
        )
    return codes, owner
