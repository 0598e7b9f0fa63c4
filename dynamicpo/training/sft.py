"""Supervised fine-tuning: prompt plus answer, loss on the answer's tokens or the history's too."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from dynamicpo.core import random_keys, storage
from dynamicpo.core.config import SFTConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import (
    Manifest,
    config_dict,
    file_checksum,
    fingerprint,
    read_input,
)
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.partial_folders import check_apart
from dynamicpo.core.records.rows import read_items, read_rows
from dynamicpo.core.row_numbers import rows_taken
from dynamicpo.models import backbones, checkpoints
from dynamicpo.models.backbones import COMPACT, BackboneVersion, BaseModelSpec, Permissions
from dynamicpo.models.base_models import item_token_ids, load_base_model
from dynamicpo.models.causality import check_causal
from dynamicpo.models.dropout import layer_dropout
from dynamicpo.models.execution import (
    choose_base_weights,
    choose_precision,
    execution_context,
)
from dynamicpo.models.lora import LanguageModel, add_adapter
from dynamicpo.prompts.encoding import Prompts, PromptSettings
from dynamicpo.prompts.loader import load_template
from dynamicpo.prompts.template import PLAIN_TEMPLATE
from dynamicpo.reports.pages.training import training_page
from dynamicpo.scoring.positions import check_positions
from dynamicpo.training import trainer
from dynamicpo.training.early_stopping import EarlyStopping
from dynamicpo.training.launchers import check_one_process
from dynamicpo.training.schedule import Schedule
from dynamicpo.training.sequence_rows import sequence_rows
from dynamicpo.training.sft_batches import (
    collate_sft,
    cross_entropy,
    encode_sft_rows,
    longest_row,
    mean_cross_entropy,
)

_VALIDATION_ROWS = 1000  # looked at each time: more costs more than it says


def fine_tune(preferences: Path, output: Path, config: SFTConfig) -> Manifest:
    """Fine-tune a backbone on the training split.

    Args:
        preferences: Output of negative sampling.
        output: The model's folder.
        config: Backbone, prompts and schedule.

    Returns:
        The manifest; `counts` holds rows, steps, final loss and trainable parameters.

    Raises:
        ConfigError: Settings that can't be used.
        DataError: Input that can't be used.
    """
    check_one_process("sft")
    settings = prompt_settings(config)
    data = read_input(preferences)
    backbones.check_backbone(config.backbone, config.quantization)
    check_apart(output, config.backbone)
    version = backbones.resolve_version(config.backbone, config.revision)
    inputs = _input_checksums(data, config, version)
    manifest = Manifest("sft", config_dict(config), inputs)
    existing = finished(output, manifest)
    if existing is not None:
        return existing
    items = read_items(preferences)
    rows = _select_rows(preferences, config)
    base = _base_model(config, settings, items, version)
    with stage_output(output, manifest) as folder:
        model, tokenizer = _load_trainable_model(base, config)
        prompts = Prompts(tokenizer, items, settings)
        with execution_context(base), _dropout(model, config):
            passes = _num_passes(config)
            learnt = sequence_rows(items, rows, passes, config.seed) if passes else rows
            dataset = encode_sft_rows(learnt, prompts, config.loss_on)
            check_positions(model, longest_row(dataset))
            early_stopping = _early_stopping(preferences, model, prompts, config)
            schedule = Schedule.from_config(config, _learning_rate(config))
            schedule = replace(schedule, early_stopping=early_stopping, passes=max(passes, 1))
            steps = trainer.train(
                model, dataset, collate_sft, cross_entropy, schedule, folder, "SFT"
            )
        checkpoints.save_model(folder, model, tokenizer)
        manifest.counts = {
            "rows": len(rows),
            "steps": len(steps),
            "final_loss": trainer.final_mean(steps, "loss"),
            "history_items_cut": prompts.cut_items,
            **_count_parameters(model),
        }
        if early_stopping is not None:
            manifest.counts["best_step"] = early_stopping.best_step
            manifest.counts["best_validation_loss"] = early_stopping.best_loss
        manifest.extra = checkpoints.manifest_entries(base, model, settings)
        manifest.extra["data"] = data.extra
        page = training_page(
            steps,
            "Supervised fine-tuning",
            {**manifest.counts, **manifest.config},
            data.extra.get("warnings", ()),
        )
        (folder / "report.html").write_text(page, encoding="utf-8")
    return manifest


def _input_checksums(data: Manifest, config: SFTConfig, version: BackboneVersion) -> dict[str, str]:
    inputs = {"preferences": data.fingerprint}
    # Files that may change under the same name; the templates of ours change with our version.
    if storage.is_remote(config.template):
        inputs["template"] = fingerprint(storage.remote_versions(config.template))
    elif Path(config.template).is_file():
        inputs["template"] = file_checksum(Path(config.template))
    if version.name:
        inputs["backbone"] = version.name
    return inputs


def prompt_settings(config: SFTConfig) -> PromptSettings:
    """Prompt settings of a configuration: "auto" is resolved, the template's file is read."""
    item_text = config.item_text
    if item_text == "auto":
        item_text = backbones.default_item_text(config.backbone)
    template = load_template(config.template, list_candidates=config.list_candidates)
    if config.backbone == COMPACT:
        _check_compact(config, item_text)
        template = PLAIN_TEMPLATE
    return PromptSettings(item_text, template, config.list_candidates, config.max_length)


def _check_compact(config: SFTConfig, item_text: str) -> None:
    if item_text == "title" or config.list_candidates:
        raise ConfigError(
            "item_text: the compact backbone has one token per item and no words; "
            "use item_text 'token' and no list_candidates, or another backbone."
        )
    if config.quantization != "none":
        raise ConfigError(
            "quantization: the compact backbone is trained from scratch, "
            f"got {config.quantization!r}. Use 'none'."
        )


def _select_rows(preferences: Path, config: SFTConfig) -> pa.Table:
    """The first rows of a random order, in the order of the files."""
    rows = read_rows(preferences, "train")
    # Preference training takes the last rows of the same order, so that the two can be disjoint.
    example_ids = rows["example_id"].to_pylist()
    order = random_keys.random_order(config.seed, "rows", example_ids)
    selected = order[: rows_taken(config.rows, len(rows), "SFT")]
    return rows.take(np.sort(selected))


def _num_passes(config: SFTConfig) -> int:
    """Number of times that sequences are cut into rows; 0 where rows are learnt as they are."""
    return math.ceil(config.epochs) if config.sequences else 0


def _dropout(model: LanguageModel, config: SFTConfig) -> AbstractContextManager[None]:
    """Dropout of the compact backbone; the others' own configurations have theirs."""
    is_compact = isinstance(model, LlamaForCausalLM) and config.backbone == COMPACT
    return layer_dropout(model, config.dropout) if is_compact else nullcontext()


def _early_stopping(
    preferences: Path, model: LanguageModel, prompts: Prompts, config: SFTConfig
) -> EarlyStopping | None:
    if not config.patience:
        return None
    rows = read_rows(preferences, "validation")
    if not len(rows):
        raise DataError(
            f"{preferences}: patience needs rows in the validation split, got none. "
            "Set patience to 0, or prepare the data with a validation split."
        )
    # A fixed choice, so that measures of one training differ by its weights alone.
    example_ids = rows["example_id"].to_pylist()
    order = random_keys.random_order(config.seed, "validation", example_ids)
    chosen = rows.take(np.sort(order[:_VALIDATION_ROWS]))
    # On answers alone: the histories of held-out rows are what training learns from.
    validation = encode_sft_rows(chosen, prompts, "answer")
    check_positions(model, longest_row(validation))
    batch_size = config.micro_batch_size or config.batch_size
    return EarlyStopping(
        model,
        lambda: mean_cross_entropy(model, validation, batch_size),
        eval_steps=config.eval_steps,
        patience=config.patience,
    )


def _base_model(
    config: SFTConfig,
    settings: PromptSettings,
    items: pd.DataFrame,
    version: BackboneVersion,
) -> BaseModelSpec:
    precision = choose_precision(config.precision, config.backbone)
    # Every item of the table, not of the training rows alone: held-out rows have others.
    item_tokens = tuple(items["item_id"].tolist()) if settings.item_text == "token" else ()
    # The embeddings of item tokens are trained, too.
    is_frozen = _tuning(config) == "lora" and not item_tokens and config.quantization == "none"
    weights = choose_base_weights(config.base_weights, precision, is_frozen=is_frozen)
    return BaseModelSpec(
        backbone=config.backbone,
        revision=version.revision,
        quantization=config.quantization,
        precision=precision,
        weights=weights,
        seed=config.seed,
        items=item_tokens,
        checksum=version.checksum,
    )


def _tuning(config: SFTConfig) -> str:
    return backbones.default_tuning(config.backbone) if config.tuning == "auto" else config.tuning


def _learning_rate(config: SFTConfig) -> float:
    if config.learning_rate:
        return config.learning_rate
    if config.backbone == COMPACT:
        return 2e-3
    # An adapter starts at zero and has few weights, so that it takes, and needs, larger steps.
    return 1e-3 if _tuning(config) == "lora" else 1e-5


def _load_trainable_model(
    base: BaseModelSpec, config: SFTConfig
) -> tuple[LanguageModel, PreTrainedTokenizerBase]:
    # The backbone is named by this command, and not by somebody's manifest.
    permissions = Permissions(config.trust_remote_code, fetch_base=True)
    model, tokenizer = load_base_model(base, permissions)
    check_causal(model, base.backbone)
    if storage.is_remote(base.backbone):
        # It was loaded from a copy, whose name would go into the adapter's file.
        model.name_or_path = base.backbone
    if _tuning(config) == "lora":
        model = add_adapter(
            model,
            config.lora_rank,
            config.lora_alpha,
            config.lora_dropout,
            item_token_ids(tokenizer, base),
            seed=config.seed,
        )
    return model, tokenizer


def _count_parameters(model: LanguageModel) -> dict[str, int]:
    trainable = 0
    total = 0
    for parameter in model.parameters():
        total += parameter.numel()
        if parameter.requires_grad:
            trainable += parameter.numel()
    return {"trainable_parameters": trainable, "parameters": total}
