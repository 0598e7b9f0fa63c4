"""KFP component: supervised fine-tuning."""

from typing import NamedTuple

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fine_tune(
    preferences: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    backbone: str = "compact",
    revision: str = "main",
    trust_remote_code: bool = False,
    item_text: str = "auto",
    template: str = "movies",
    list_candidates: bool = False,
    max_length: int = 512,
    tuning: str = "auto",
    quantization: str = "none",
    precision: str = "auto",
    base_weights: str = "auto",
    loss_on: str = "answer",
    rows: int = 0,
    epochs: float = 1.0,
    max_steps: int = 0,
    patience: int = 0,
    eval_steps: int = 50,
    batch_size: int = 64,
    micro_batch_size: int = 0,
    learning_rate: float = 0.0,
    warmup_share: float = 0.05,
    max_grad_norm: float = 1.0,
    lora_rank: int = 16,
    lora_alpha: int = 32,
    lora_dropout: float = 0.0,
    gradient_checkpointing: bool = False,
    seed: int = 0,
) -> NamedTuple("Outputs", [("model_uri", str), ("report_uri", str)]):
    """Fine-tune a causal language model to answer with the next item.

    Writes a model folder that knows its base model, its prompts and its training log.

    Args:
        preferences: Folder of preference rows, from negative sampling.
        model: Model folder: an adapter or all weights, tokenizer, training log.
        metrics: Rows, steps and final losses.
        report: The training's curves and settings.
        backbone: 'compact', 'smollm2-135m', or a causal LM: Hugging Face id, folder or gs://
            prefix.
        revision: Revision of a Hugging Face model.
        trust_remote_code: Run code that comes with the model; only for models you trust.
        item_text: How items are written: titles, or one token each [auto, title, token].
        template: Prompt templates: movies, music, books, games, or a YAML file.
        list_candidates: List the candidates in the prompt, as published.
        max_length: Longest prompt plus answer, in tokens; the oldest history items are cut.
        tuning: Train a LoRA adapter or all weights [auto, lora, full].
        quantization: Weights of the base model in memory [none, 4bit].
        precision: Matrix products; auto: bfloat16 where the processor has it, but float32 for
            compact [auto, float32, bfloat16].
        base_weights: Weights that LoRA leaves as they are; auto: bfloat16 on a GPU, float32
            elsewhere [auto, float32, bfloat16].
        loss_on: Tokens that carry the loss [answer, history].
        rows: Train on this many rows, chosen at random (0: all).
        epochs: Passes over the rows.
        max_steps: Stop after this many steps (0: by epochs).
        patience: Stop after this many looks at validation without a better loss, keep the best (0:
            never).
        eval_steps: Steps between two looks at validation.
        batch_size: Rows per step.
        micro_batch_size: Rows in memory at once (0: the batch).
        learning_rate: Peak learning rate (0: 2e-3 for compact, 1e-3 for LoRA, 1e-5 for all
            weights).
        warmup_share: Share of the steps with a rising learning rate.
        max_grad_norm: Gradient clipping.
        lora_rank: Rank of the adapter.
        lora_alpha: Scale of the adapter.
        lora_dropout: Dropout of the adapter.
        gradient_checkpointing: Recompute activations to save memory.
        seed: Seed of weights, order and templates.

    Returns:
        model_uri: Where the model lies.
        report_uri: Where the training's page lies.
    """
    arguments = dict(locals())
    from pathlib import Path

    from dynamicpo.core.config import SFTConfig
    from dynamicpo.runs.component_artifacts import config_of, copy_report, log_stage_metrics
    from dynamicpo.training.sft import fine_tune as run

    manifest = run(Path(preferences.path), Path(model.path), config_of(SFTConfig, arguments))
    log_stage_metrics(metrics, manifest, "sft")
    copy_report(Path(model.path), report)
    return model.uri, report.uri
