"""Baselines that cost nothing: what a language model has to beat on the same rows.

They know the training rows and nothing else: the items' popularity counts the training split, and two items meet in
training rows only.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dynamicpo.core.errors import DataError, unknown_name

Scores = NDArray[np.float64]
Codes = NDArray[np.int64]
Scorer = Callable[[pa.Table], Scores]  # rows with a `history` to the score of every item, (N, I)
_CELLS_AT_ONCE = 2**22


def make_baseline(name: str, items: pd.DataFrame, train: pa.Table) -> Scorer:
    """A baseline as a function of rows; the highest score is recommended, and ties count by expected value.

    Args:
        name: One of `BASELINES`.
        items: The items table, whose popularity counts the training split only.
        train: The training rows, with `history` and `target`.

    Raises:
        ConfigError: An unknown name.
        DataError: An item that is not in the items table.
    """
    if name not in BASELINES:
        raise unknown_name("baseline", name, BASELINES)
    return BASELINES[name](items, train)


def score_blocks(scorer: Scorer, rows: pa.Table, num_items: int) -> Iterator[Scores]:
    """The scores of every item, (n, I) for some rows after the other."""
    at_once = max(1, _CELLS_AT_ONCE // max(num_items, 1))
    for start in range(0, len(rows), at_once):
        yield scorer(rows.slice(start, at_once))


def by_chance(items: pd.DataFrame, train: pa.Table) -> Scorer:
    """All the same: the expected value under ties is chance, 1 / A for HitRatio@1, without the noise of one draw."""
    return lambda rows: np.zeros((len(rows), len(items)))


def by_popularity(items: pd.DataFrame, train: pa.Table) -> Scorer:
    """Interactions of each item in the training split."""
    popularity = items["popularity"].to_numpy(np.float64)
    return lambda rows: np.broadcast_to(popularity, (len(rows), len(popularity)))


def by_cooccurrence(items: pd.DataFrame, train: pa.Table) -> Scorer:
    """Sum, over the history, of each item's nearness to the candidate.

    Two items meet when one is a training row's target and the other in its history. Their nearness is the cosine of
    the two columns of such meetings: count / sqrt(all of the one * all of the other).

    Source: item-based nearest neighbours, Deshpande and Karypis, "Item-based top-N recommendation algorithms" (2004).
    """
    size, index = len(items), pd.Index(items["item_id"])
    history, owner = item_codes(train["history"], index)
    target = item_codes(train["target"], index)[0][owner]
    one, other = np.concatenate([history, target]), np.concatenate([target, history])
    pairs, counts = np.unique((one * size + other)[one != other], return_counts=True)
    one, other = np.divmod(pairs, max(size, 1))
    total = np.bincount(one, weights=counts, minlength=size)
    nearness = counts / np.sqrt(total[one] * total[other])
    start = np.searchsorted(one, np.arange(size + 1))  # the neighbours of an item lie side by side

    def score(rows: pa.Table) -> Scores:
        seen, row = item_codes(rows["history"], index)
        number = start[seen + 1] - start[seen]
        places = np.arange(number.sum()) - np.repeat(
            np.cumsum(number) - number - start[seen], number
        )
        cells = np.repeat(row, number) * size + other[places]
        sums = np.bincount(cells, weights=nearness[places], minlength=len(rows) * size)
        return sums.astype(np.float64).reshape(len(rows), size)

    return score


BASELINES: dict[str, Callable[[pd.DataFrame, pa.Table], Scorer]] = {
    "random": by_chance,
    "popularity": by_popularity,
    "cooccurrence": by_cooccurrence,
}


def item_codes(column: Any, index: "pd.Index[str]") -> tuple[Codes, Codes]:
    """Each entry of a column (of items, or of lists of items) as its place in the items table, and its row."""
    array = column.combine_chunks()
    owner = np.arange(len(array), dtype=np.int64)
    if pa.types.is_list(array.type):
        owner = np.repeat(owner, array.value_lengths().to_numpy().astype(np.int64))
        array = array.flatten()
    codes = np.asarray(index.get_indexer(pd.Index(array.to_pandas())), dtype=np.int64)
    if (codes < 0).any():
        place = int((codes < 0).argmax())
        raise DataError(
            f"row {owner[place]}: every item must be in items.parquet, got {array[place].as_py()!r}. "
            "Use the items that came with the rows."
        )
    return codes, owner
