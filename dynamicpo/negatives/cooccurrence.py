"""Items that occur together in training rows: neighbours for hard negatives and for the baseline.

Source: Deshpande and Karypis, "Item-based top-N recommendation algorithms" (2004).
"""

from typing import NamedTuple

import numpy as np

from dynamicpo.core.arrays import FloatArray, IntArray
from dynamicpo.negatives.catalogue import EncodedRows


class ItemPairs(NamedTuple):
    """Pairs of items that occur together, each in both directions, sorted by item and neighbour.

    Attributes:
        items: The one item, a code. Shape (P,).
        neighbours: The other item, a code. Shape (P,).
        counts: How often they do. Shape (P,).
    """

    items: IntArray
    neighbours: IntArray
    counts: IntArray

    def cosines(self, num_items: int) -> FloatArray:
        """count(item, neighbour) / sqrt(count(item) * count(neighbour)) of a catalogue. (P,)."""
        totals = np.bincount(self.items, weights=self.counts, minlength=num_items)
        item_totals = totals[self.items]
        neighbour_totals = totals[self.neighbours]
        norms = np.sqrt(item_totals * neighbour_totals)
        return np.asarray(self.counts / norms)


def cooccurring_pairs(
    targets: IntArray,
    history: IntArray,
    history_rows: IntArray,
    num_items: int,
    with_itself: bool = False,
) -> ItemPairs:
    """Count how often items occur together in training rows.

    Two items occur together when one is a row's target and the other in its history. Their cosine
    is that of the two columns of the matrix of these counts, so that popular items are not near
    everything.

    Args:
        targets: The target of each row, a code. Shape (N,).
        history: The items of all histories, row by row.
        history_rows: The row of each of them.
        num_items: Items of the catalogue.
        with_itself: Whether an item may occur together with itself, where users repeat items.
    """
    history_targets = targets[history_rows]
    items = np.concatenate([history_targets, history])
    neighbours = np.concatenate([history, history_targets])
    # A pair as one integer: sorting and counting those is many times faster than of rows of two.
    pair_codes = items * num_items + neighbours
    if not with_itself:
        pair_codes = pair_codes[items != neighbours]
    pair_codes, counts = np.unique(pair_codes, return_counts=True)
    divisor = max(num_items, 1)  # an empty catalogue has no pairs, but divides all the same
    items, neighbours = np.divmod(pair_codes, divisor)
    return ItemPairs(items, neighbours, counts)


def nearest_items(train: EncodedRows, num_items: int, num_nearest: int) -> IntArray:
    """List the nearest items of each item by cosine; ties go by code.

    Args:
        train: The training rows.
        num_items: Items of the catalogue.
        num_nearest: Length of each item's list.

    Returns:
        Codes, the nearest first, -1 where there are no more. Shape (num_items, num_nearest).
    """
    pairs = cooccurring_pairs(
        train.targets,
        train.history,
        train.history_rows,
        num_items,
    )
    items, neighbours, _ = pairs
    cosines = pairs.cosines(num_items)
    order = np.lexsort((neighbours, -cosines, items))
    items = items[order]
    neighbours = neighbours[order]
    # The pairs of an item follow each other, from the first index that a search finds.
    first_of_item = np.searchsorted(items, items)
    pair_index = np.arange(len(items))
    ranks = pair_index - first_of_item
    is_near = ranks < num_nearest
    items = items[is_near]
    neighbours = neighbours[is_near]
    ranks = ranks[is_near]
    nearest = np.full((num_items, num_nearest), -1, dtype=np.int64)
    nearest[items, ranks] = neighbours
    return nearest
