"""Negatives of held-out rows, where those of training rows would give the target away."""

from collections.abc import Mapping

from dynamicpo.negatives.drawing import MakeSamplers, RowSampler, SamplingContext
from dynamicpo.negatives.strategies.popularity import popularity_samplers
from dynamicpo.negatives.strategies.popularity_matched import matched_samplers
from dynamicpo.negatives.strategies.uniform import uniform_samplers

# The names are those of `core.choices.HELD_OUT_STRATEGIES`.
HELD_OUT_SAMPLERS: Mapping[str, MakeSamplers] = {
    "uniform": uniform_samplers,
    "popularity": popularity_samplers,
    "popularity-matched": matched_samplers,
}


def with_training_sampler(context: SamplingContext, sampler: RowSampler) -> dict[str, RowSampler]:
    """Sample training rows with `sampler`, and the others as the configuration says."""
    make_samplers = HELD_OUT_SAMPLERS[context.config.held_out_strategy]
    samplers = make_samplers(context)
    return {**samplers, "train": sampler}
