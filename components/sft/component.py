"""KFP component: supervised fine-tuning."""

from typing import NamedTuple, Optional

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fine_tune(
    preferences: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    start_from: str = "",
    # Written by dynamicpo_pipelines.signatures
    backbone: Optional[str] = None,
    loss_on: Optional[str] = None,
    rows: Optional[int] = None,
    epochs: Optional[float] = None,
    max_steps: Optional[int] = None,
    learning_rate: Optional[float] = None,
    seed: Optional[int] = None,
    settings: dict = {},  # noqa: B006
    # to here.
) -> NamedTuple("Outputs", [("model_uri", str), ("report_uri", str)]):
    """Fine-tune a causal language model to answer with the next item.

    Writes a model folder that knows its base model, its prompts and its training log.

    Args:
        preferences: Folder of preference rows, from negative sampling.
        model: Model folder: an adapter or all weights, tokenizer, training log.
        metrics: Rows, steps and final losses.
        report: The training's curves and settings.
        start_from: URI of a trained model to go on from (empty: from the backbone).
        backbone: 'compact', 'smollm2-135m', or a causal LM: Hugging Face id, folder or prefix.
        loss_on: Tokens that carry the loss [answer, history].
        rows: Train on at most this many rows, chosen at random (0: all).
        epochs: Passes over the rows.
        max_steps: Stop after this many steps (0: by epochs).
        learning_rate: Peak learning rate (0: 2e-3 for compact, 1e-3 for LoRA, 1e-5 for all
            weights).
        seed: Seed of weights, order and templates.
        settings: Other settings by name; those above win.

    Returns:
        model_uri: Where the model lies.
        report_uri: Where the training's page lies.
    """
    from pathlib import Path

    from dynamicpo.core.config import SFTConfig
    from dynamicpo.core.storage import LocalCopies
    from dynamicpo.runs.cluster.train_stage import trained_on_nodes
    from dynamicpo.runs.component_artifacts import (
        compiled_checkpoints,
        config_of,
        copy_report,
        log_stage_metrics,
    )
    from dynamicpo.training.sft import fine_tune as run

    config = config_of(
        SFTConfig,
        settings,
        backbone=backbone,
        loss_on=loss_on,
        rows=rows,
        epochs=epochs,
        max_steps=max_steps,
        learning_rate=learning_rate,
        seed=seed,
    )
    kept = compiled_checkpoints()
    uris = {"preferences": preferences.uri, "start_from": start_from}
    with LocalCopies() as copies:
        manifest = trained_on_nodes("sft", uris, model, config, kept) or run(
            Path(preferences.path),
            Path(model.path),
            config,
            kept,
            copies.fetch(start_from) if start_from else None,
        )
    log_stage_metrics(metrics, manifest, "sft")
    copy_report(Path(model.path), report)
    return model.uri, report.uri
