"""Uniform negatives: any allowed item is as likely as any other."""

from dynamicpo.core.choices import SPLITS
from dynamicpo.negatives.drawing import RowSampler, SamplingContext, fill_rows


def uniform_samplers(context: SamplingContext) -> dict[str, RowSampler]:
    """Sample uniformly in every split."""
    sampler = fill_rows(context.uniform_sampler(), context.num_negatives)
    return dict.fromkeys(SPLITS, sampler)
