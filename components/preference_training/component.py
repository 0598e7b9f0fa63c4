"""KFP component: DynamicPO and its base objectives."""

from typing import NamedTuple, Optional

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_preferences(
    preferences: dsl.Input[dsl.Dataset],
    adapter: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    name: str,
    # Written by dynamicpo_pipelines.signatures
    loss: Optional[str] = None,
    dynamic: Optional[str] = None,
    num_negatives: Optional[int] = None,
    rows: Optional[int] = None,
    epochs: Optional[float] = None,
    learning_rate: Optional[float] = None,
    seed: Optional[int] = None,
    settings: dict = {},  # noqa: B006
    # to here.
) -> NamedTuple("Outputs", [("model_uri", str), ("report_uri", str)]):
    """Train an SFT model on preferences, with DynamicPO or with a base objective alone.

    DynamicPO (arXiv 2605.00327) keeps the boundary negatives of each row and gives each a beta of
    its own. The reference is the SFT model as it came.

    Args:
        preferences: Folder of preference rows, from negative sampling.
        adapter: SFT model folder.
        model: Model folder, as of SFT.
        metrics: Rows, steps, final loss, rewards and boundary figures.
        report: The training's curves and settings.
        name: What the model is called in tables and charts.
        loss: Base objective [dpo, dmpo, mppo, sdpo, simpo].
        dynamic: DynamicPO: off, on, only its boundary negatives, or only a beta of their own [none,
            full, selection, beta].
        num_negatives: Negatives per row: the first ones of the row's rejected items.
        rows: Train on at most this many rows, first on those that SFT left (0: all).
        epochs: Passes over the rows.
        learning_rate: Peak learning rate (0: 3e-5 for compact, 1e-4 for LoRA, 1e-6 for all
            weights).
        seed: Seed of the order.
        settings: Other settings by name; those above win.

    Returns:
        model_uri: Where the model lies.
        report_uri: Where the training's page lies.
    """
    from pathlib import Path

    from dynamicpo.core.config import PreferenceConfig
    from dynamicpo.runs.cluster.train_stage import trained_on_nodes
    from dynamicpo.runs.component_artifacts import (
        compiled_checkpoints,
        config_of,
        copy_report,
        log_stage_metrics,
    )
    from dynamicpo.training.preference_training import train_preferences as run

    config = config_of(
        PreferenceConfig,
        settings,
        loss=loss,
        dynamic=dynamic,
        num_negatives=num_negatives,
        rows=rows,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
    )
    kept = compiled_checkpoints()
    uris = {"preferences": preferences.uri, "adapter": adapter.uri}
    manifest = trained_on_nodes("train-preferences", uris, model, config, kept) or run(
        Path(preferences.path), Path(adapter.path), Path(model.path), config, kept
    )
    log_stage_metrics(metrics, manifest, name)
    copy_report(Path(model.path), report)
    return model.uri, report.uri
