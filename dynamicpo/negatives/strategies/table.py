"""The strategies of negative sampling by name."""

from collections.abc import Callable, Mapping
from functools import partial

import pyarrow as pa

from dynamicpo.core.config import NegativesConfig
from dynamicpo.negatives.catalogue import Catalogue
from dynamicpo.negatives.drawing import ItemScorer, SplitLists, draw_lists
from dynamicpo.negatives.strategies.hard import hard_samplers
from dynamicpo.negatives.strategies.mined import mined_samplers
from dynamicpo.negatives.strategies.popularity import popularity_samplers
from dynamicpo.negatives.strategies.popularity_matched import matched_samplers
from dynamicpo.negatives.strategies.published import published_lists
from dynamicpo.negatives.strategies.uniform import uniform_samplers

StrategyFunction = Callable[
    [Mapping[str, pa.Table], Catalogue, NegativesConfig, ItemScorer | None],
    dict[str, SplitLists],
]

# The names are those of `core.choices.STRATEGIES`.
STRATEGY_FUNCTIONS: dict[str, StrategyFunction] = {
    "uniform": partial(draw_lists, uniform_samplers),
    "popularity": partial(draw_lists, popularity_samplers),
    "popularity-matched": partial(draw_lists, matched_samplers),
    "hard": partial(draw_lists, hard_samplers),
    "model": partial(draw_lists, mined_samplers),
    "published": published_lists,
}
