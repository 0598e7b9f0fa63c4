"""How negatives are drawn: each strategy as a function that gives the rows of a batch theirs."""

from collections.abc import Callable

import numpy as np

from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import NegativesConfig
from dynamicpo.negatives.catalogue import Catalogue, Codes, Rows
from dynamicpo.negatives.cooccurrence import nearest_items
from dynamicpo.negatives.draws import Batch, Drawing, shuffled
from dynamicpo.negatives.exclusions import Exclusions
from dynamicpo.negatives.strata import STRATUM, make_strata

POPULARITY_POWER = 0.75
_NEAREST = 50
Draw = Callable[
    [Batch], tuple[Codes, dict[str, int]]
]  # negatives, (N, K), and what is counted of them


def drawers(
    config: NegativesConfig, train: Rows, catalogue: Catalogue, excluded: Exclusions
) -> dict[str, Draw]:
    """The function of each split."""
    count = config.num_candidates - 1
    if config.strategy == "popularity":
        draw = _weighted(
            Drawing(catalogue, excluded, catalogue.popularity.astype(float) ** POPULARITY_POWER),
            count,
        )
        return dict.fromkeys(SPLITS, draw)
    drawing = Drawing(catalogue, excluded, np.ones(len(catalogue.texts)))
    if config.strategy == "popularity-matched":
        return dict.fromkeys(SPLITS, _matched(drawing, catalogue, count))
    draws = dict.fromkeys(SPLITS, _weighted(drawing, count))
    if config.strategy == "hard":
        draws["train"] = _hard(
            drawing, train, len(catalogue.texts), count, round(config.hard_share * count)
        )
    return draws


def _weighted(drawing: Drawing, count: int) -> Draw:
    def draw(batch: Batch) -> tuple[Codes, dict[str, int]]:
        return drawing.fill(batch, _none(batch, count)), {}

    return draw


def _hard(drawing: Drawing, train: Rows, num_items: int, count: int, num_hard: int) -> Draw:
    """Some of the target's nearest items, the others uniform."""
    neighbours = nearest_items(train, num_items, max(_NEAREST, 3 * num_hard))

    def draw(batch: Batch) -> tuple[Codes, dict[str, int]]:
        near = shuffled(batch, neighbours[batch.targets])
        chosen = drawing.accept(batch, _none(batch, count), near, num_hard)
        return drawing.fill(batch, chosen), {"hard_negatives": int((chosen >= 0).sum())}

    return draw


def _matched(drawing: Drawing, catalogue: Catalogue, count: int) -> Draw:
    """Items of the target's stratum of popularity; where too few are allowed, of those beside it, and then any."""
    strata = make_strata(catalogue.popularity, STRATUM * (count + 1))

    def draw(batch: Batch) -> tuple[Codes, dict[str, int]]:
        own = strata.of[batch.targets]
        alike = shuffled(batch, strata.items[own], strata.tiers[own])
        chosen = drawing.fill(batch, drawing.accept(batch, _none(batch, count), alike, count))
        return chosen, {"matched_negatives": int((strata.of[chosen] == own[:, None]).sum())}

    return draw


def _none(batch: Batch, count: int) -> Codes:
    return np.full((len(batch.keys), count), -1, dtype=np.int64)
