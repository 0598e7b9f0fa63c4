"""KFP component: examples to preference rows."""

from typing import NamedTuple, Optional

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def sample_negatives(
    examples: dsl.Input[dsl.Dataset],
    preferences: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    # Written by dynamicpo_pipelines.signatures
    num_candidates: Optional[int] = None,
    strategy: Optional[str] = None,
    seed: Optional[int] = None,
    settings: dict = {},  # noqa: B006
    # to here.
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
        strategy: How negatives are drawn; 'hard' and 'model' (mined by a fine-tuned model) in
            training rows only, 'published' keeps the lists the rows came with [uniform, popularity,
            popularity-matched, hard, model, published].
        seed: Seed of every draw.
        settings: Other settings by name; those above win.

    Returns:
        preferences_uri: Where the rows lie.
    """
    from pathlib import Path

    from dynamicpo.core.config import NegativesConfig
    from dynamicpo.negatives.sampling import sample_negatives as run
    from dynamicpo.runs.component_artifacts import config_of, log_stage_metrics

    manifest = run(
        Path(examples.path),
        Path(preferences.path),
        config_of(
            NegativesConfig, settings, num_candidates=num_candidates, strategy=strategy, seed=seed
        ),
    )
    log_stage_metrics(metrics, manifest)
    return (preferences.uri,)
