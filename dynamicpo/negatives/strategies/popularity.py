"""Negatives by popularity: the more interactions an item has in training, the likelier it is."""

from dynamicpo.core.choices import SPLITS
from dynamicpo.negatives.drawing import RowSampler, SamplingContext, fill_rows
from dynamicpo.negatives.weighted_sampler import WeightedSampler


def popularity_samplers(context: SamplingContext) -> dict[str, RowSampler]:
    """Sample by popularity in every split."""
    catalogue = context.catalogue
    popularity = catalogue.popularity.astype(float)
    power = context.config.popularity_power
    # At power 0 an item without interactions is as likely as the others, since 0 ** 0 is 1.
    weights = popularity**power
    excluded = context.excluded
    sampler = WeightedSampler(catalogue, excluded, weights)
    num_negatives = context.num_negatives
    row_sampler = fill_rows(sampler, num_negatives)
    return dict.fromkeys(SPLITS, row_sampler)
