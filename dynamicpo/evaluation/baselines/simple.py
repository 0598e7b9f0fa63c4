"""Baselines that cost nothing: what a language model has to beat on the same rows.

They know the training rows and nothing else: the items' popularity counts the training split, and
co-occurrences are those of training rows.
"""

from collections.abc import Callable, Container, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import sparse

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.errors import unknown_name
from dynamicpo.negatives.catalogue import EncodedColumn, encode_column, item_id_array
from dynamicpo.negatives.cooccurrence import ItemPairs, cooccurring_pairs

Scorer = Callable[[pa.Table], FloatArray]  # rows with a `history` to scores of all items, (N, I)
_CELLS_AT_ONCE = 2**22  # rows times items scored at once, which bounds the memory


def make_baseline(
    name: str, items: pd.DataFrame, train: pa.Table, has_repeats: bool = False
) -> Scorer:
    """Make the scorer of a baseline; a higher score is better, ties count by expected value.

    Args:
        name: One of `SIMPLE_BASELINES`.
        items: The items table, whose popularity counts the training split only.
        train: The training rows, with `history` and `target`.
        has_repeats: Whether a target may stand in its own history.

    Raises:
        ConfigError: An unknown name.
        DataError: An item that is not in the items table.
    """
    if name not in SIMPLE_BASELINES:
        raise unknown_name("baseline", name, SIMPLE_BASELINES)
    make_scorer = SIMPLE_BASELINES[name]
    return make_scorer(items, train, has_repeats)


def score_blocks(
    scorer: Scorer, rows: pa.Table, num_items: int, left_out: Container[int] = ()
) -> Iterator[FloatArray]:
    """Score every item in blocks of rows, (n, I) each, but for blocks that begin with some rows."""
    cells_of_row = max(num_items, 1)
    rows_at_once = max(1, _CELLS_AT_ONCE // cells_of_row)
    for start in range(0, len(rows), rows_at_once):
        if start in left_out:
            continue
        block = rows.slice(start, rows_at_once)
        yield scorer(block)


def score_by_chance(items: pd.DataFrame, _train: pa.Table, _has_repeats: bool) -> Scorer:
    """Score all items alike.

    The expected value under ties is chance, 1 / A for HitRatio@1, without the noise of one draw.
    """
    return lambda rows: np.zeros((len(rows), len(items)))


def score_by_popularity(items: pd.DataFrame, _train: pa.Table, _has_repeats: bool) -> Scorer:
    """Score items by their interactions in the training split."""
    popularity = items["popularity"].to_numpy(np.float64)
    return lambda rows: np.broadcast_to(popularity, (len(rows), len(popularity)))


class CooccurrenceScorer:
    """Scores items by the sum of their cosines to the items of the history.

    Attributes:
        pairs: The pairs of items that occur together.
    """

    def __init__(self, item_ids: pa.Array, pairs: ItemPairs) -> None:
        """Lay the pairs out as a matrix, a row for each item."""
        self.pairs = pairs
        self._item_ids = item_ids
        num_items = len(item_ids)
        # The pairs are sorted by item, so an item's neighbours are the range between two bounds.
        codes = np.arange(num_items + 1)
        bounds = np.searchsorted(pairs.items, codes)
        cosines = pairs.cosines(num_items)
        shape = (num_items, num_items)
        self._cosines = sparse.csr_array((cosines, pairs.neighbours, bounds), shape=shape)

    def __call__(self, rows: pa.Table) -> FloatArray:
        """Score all items for rows with a `history`. Shape (N, I)."""
        num_rows = len(rows)
        items, item_rows = encode_items(rows["history"], self._item_ids)
        bounds = np.searchsorted(item_rows, np.arange(num_rows + 1))
        shape = (num_rows, len(self._item_ids))
        # An item that stands twice in a history counts twice: entries of a place are added up.
        ones = np.ones(len(items))
        histories = sparse.csr_array((ones, items, bounds), shape=shape)
        scores: FloatArray = (histories @ self._cosines).toarray()
        return scores


def score_by_cooccurrence(
    items: pd.DataFrame, train: pa.Table, has_repeats: bool
) -> CooccurrenceScorer:
    """Count the pairs of the training rows.

    Where users repeat items, one of the history counts for itself, too, as often as it was repeated
    in training.
    """
    num_items = len(items)
    item_ids = item_id_array(items)
    history, history_rows = encode_items(train["history"], item_ids)
    targets, _ = encode_items(train["target"], item_ids)
    pairs = cooccurring_pairs(
        targets,
        history,
        history_rows,
        num_items,
        with_itself=has_repeats,
    )
    return CooccurrenceScorer(item_ids, pairs)


# SASRec, which is trained, and the untrained base model have files of their own.
SIMPLE_BASELINES: dict[str, Callable[[pd.DataFrame, pa.Table, bool], Scorer]] = {
    "random": score_by_chance,
    "popularity": score_by_popularity,
    "cooccurrence": score_by_cooccurrence,
}


def encode_items(column: pa.ChunkedArray, item_ids: pa.Array) -> EncodedColumn:
    """Encode a column of items, or of lists of items, of rows that need no ids."""
    return encode_column(column, item_ids, lambda row: f"row {row}")
