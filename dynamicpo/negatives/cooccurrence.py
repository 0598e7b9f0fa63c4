"""Items that are near each other, because training rows have them together."""

import numpy as np

from dynamicpo.negatives.catalogue import Codes, Rows


def nearest_items(train: Rows, num_items: int, width: int) -> Codes:
    """The nearest items of each item: those that its training rows hold most often, against how often all do.

    Two items meet when one is the target and the other in its history. Their nearness is the cosine of the two
    columns of such meetings, count / sqrt(all of the one * all of the other); ties go by code.

    Args:
        train: The training rows.
        num_items: Items of the catalogue.
        width: How many to give.

    Returns:
        Codes, the nearest first, -1 where there are no more. Shape (num_items, width).
    """
    targets = train.targets[train.history_rows]
    one, other = np.concatenate([targets, train.history]), np.concatenate([train.history, targets])
    pairs, counts = np.unique((one * num_items + other)[one != other], return_counts=True)
    one, other = np.divmod(pairs, num_items)
    totals = np.bincount(one, weights=counts, minlength=num_items)
    nearness = counts / np.sqrt(totals[one] * totals[other])
    order = np.lexsort((other, -nearness, one))
    one, other = one[order], other[order]
    place = np.arange(len(one)) - np.searchsorted(one, one)
    nearest = np.full((num_items, width), -1, dtype=np.int64)
    near = place < width
    nearest[one[near], place[near]] = other[near]
    return nearest
