"""KFP component: DynamicPO and its base objectives."""

from typing import NamedTuple

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
    loss: str = "dmpo",
    dynamic: bool = True,
    ablation: str = "none",
    beta: float = 1.0,
    margin: float = 6.0,
    simpo_gamma: float = 0.0,
    num_negatives: int = 15,
    rows: int = 0,
    epochs: float = 1.0,
    max_steps: int = 0,
    batch_size: int = 64,
    micro_batch_size: int = 0,
    learning_rate: float = 0.0,
    warmup_share: float = 0.05,
    max_grad_norm: float = 1.0,
    gradient_checkpointing: bool = False,
    backend: str = "auto",
    seed: int = 0,
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
        dynamic: DynamicPO: boundary negatives and a beta of their own.
        ablation: Keep one half of DynamicPO: 'selection' or 'beta' [none, selection, beta].
        beta: Strength of the pull to the reference.
        margin: Margin constant of the dynamic beta, nats.
        simpo_gamma: Target margin of SimPO, nats.
        num_negatives: Negatives per row: the first ones of the row's rejected items.
        rows: Train on this many rows, disjoint from SFT's when both are given (0: all).
        epochs: Passes over the rows.
        max_steps: Stop after this many steps (0: by epochs).
        batch_size: Rows per step.
        micro_batch_size: Rows in memory at once (0: the batch).
        learning_rate: Peak learning rate (0: 2e-3 for compact, 1e-4 for LoRA, 1e-6 for all
            weights).
        warmup_share: Share of the steps with a rising learning rate.
        max_grad_norm: Gradient clipping.
        gradient_checkpointing: Recompute activations to save memory.
        backend: How prompts are shared [auto, sdpa, flex, plain].
        seed: Seed of the order.

    Returns:
        model_uri: Where the model lies.
        report_uri: Where the training's page lies.
    """
    arguments = dict(locals())
    from pathlib import Path

    from dynamicpo.core.config import PreferenceConfig
    from dynamicpo.runs.component_artifacts import config_of, copy_report, log_stage_metrics
    from dynamicpo.training.preference_training import train_preferences as run

    config = config_of(PreferenceConfig, arguments)
    manifest = run(Path(preferences.path), Path(adapter.path), Path(model.path), config)
    log_stage_metrics(metrics, manifest, name)
    copy_report(Path(model.path), report)
    return model.uri, report.uri
