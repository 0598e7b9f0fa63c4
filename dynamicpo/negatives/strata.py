"""Items of like popularity: where popularity-matched negatives come from.

The catalogue is sorted by training popularity (equals by item id) and cut into strata of one size. Every item of a
stratum has the same chance to be listed beside any other, so a list does not tell which of its items is the target
by where this stands among the others, as a list of its nearest neighbours in popularity would.
"""

from typing import NamedTuple

import numpy as np

from dynamicpo.negatives.catalogue import Codes

STRATUM = 3  # times the candidates of a row


class Strata(NamedTuple):
    """Who is like whom.

    Attributes:
        of: Each item's stratum, 0 the most popular. Shape (I,).
        items: Of each stratum its items and those of the strata beside it, -1 behind them. Shape (S, P).
        tiers: For each of these how many strata it is away. Shape (S, P).
    """

    of: Codes
    items: Codes
    tiers: Codes


def make_strata(popularity: Codes, size: int) -> Strata:
    """Cut the catalogue into strata of `size` items; the last one takes what is left over."""
    order = np.argsort(-popularity, kind="stable")
    number = max(1, len(order) // size)
    ranked = np.minimum(np.arange(len(order)) // size, number - 1)
    of = np.empty_like(ranked)
    of[order] = ranked
    edges = np.searchsorted(ranked, np.arange(number + 1))
    spans = [(edges[max(place - 1, 0)], edges[min(place + 2, number)]) for place in range(number)]
    items = np.full((number, max(stop - start for start, stop in spans)), -1, dtype=np.int64)
    tiers = np.zeros_like(items)
    for place, (start, stop) in enumerate(spans):
        items[place, : stop - start] = order[start:stop]
        tiers[place, : stop - start] = np.abs(ranked[start:stop] - place)
    return Strata(of, items, tiers)
