"""KFP component: examples to preference rows."""

from typing import NamedTuple

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def sample_negatives(
    examples: dsl.Input[dsl.Dataset],
    preferences: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    num_candidates: int = 20,
    strategy: str = "uniform",
    hard_share: float = 0.5,
    exclude: str = "window",
    allow_leak: bool = False,
    seed: int = 0,
) -> NamedTuple("Outputs", [("preferences_uri", str)]):
    """Give every example its candidates: the target and negatives.

    Every draw comes from a hash of the seed, the split, the example and the draw, so the order of
    rows and the number of workers do not matter. Held-out lists that give the answer away are an
    error.

    Args:
        examples: Folder of the examples, from data preparation.
        preferences: Folder of the rows with candidates and rejected items.
        metrics: Rows, and what a lookup that ignores the history gains from held-out lists.
        num_candidates: Candidates per row, the target included.
        strategy: How negatives are drawn; 'hard' in training rows only, 'published' keeps the lists
            the rows came with [uniform, popularity, popularity-matched, hard, published].
        hard_share: Share of 'hard' negatives; the others are uniform.
        exclude: What negatives exclude: the row's history, the user's past, or all the user's items
            [window, past, all].
        allow_leak: Accept candidate lists that give the answer away; every report warns of it.
        seed: Seed of every draw.

    Returns:
        preferences_uri: Where the rows lie.
    """
    arguments = dict(locals())
    from pathlib import Path

    from dynamicpo.core.config import NegativesConfig
    from dynamicpo.negatives.sampling import sample_negatives as run
    from dynamicpo.runs.component_artifacts import config_of, log_stage_metrics

    manifest = run(
        Path(examples.path), Path(preferences.path), config_of(NegativesConfig, arguments)
    )
    log_stage_metrics(metrics, manifest)
    return (preferences.uri,)
