"""Negatives by popularity: the more interactions an item has in training, the likelier it is."""

from dynamicpo.core.choices import SPLITS
from dynamicpo.negatives.drawing import RowSampler, SamplingContext, fill_rows
from dynamicpo.negatives.weighted_sampler import WeightedSampler

# The exponent of word2vec's negative sampling: between uniform (0) and proportional (1).
_POPULARITY_POWER = 0.75


def popularity_samplers(context: SamplingContext) -> dict[str, RowSampler]:
    """Sample by popularity in every split."""
    catalogue = context.catalogue
    popularity = catalogue.popularity.astype(float)
    weights = popularity**_POPULARITY_POWER
    excluded = context.excluded
    sampler = WeightedSampler(catalogue, excluded, weights)
    num_negatives = context.num_negatives
    row_sampler = fill_rows(sampler, num_negatives)
    return dict.fromkeys(SPLITS, row_sampler)
