"""Supervised fine-tuning: prompt plus answer, loss on the answer's tokens or the history's too."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from dynamicpo.core import random_keys, storage
from dynamicpo.core.config import SFTConfig
from dynamicpo.core.config_checkpoints import CheckpointConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import (
    Manifest,
    config_dict,
    file_checksum,
    fingerprint,
    read_input,
)
from dynamicpo.core.records.partial_folders import check_apart
from dynamicpo.core.records.rows import read_items, read_parts, read_rows
from dynamicpo.core.row_numbers import rows_taken
from dynamicpo.distributed.outputs import finished_by_main
from dynamicpo.models import backbones
from dynamicpo.models.backbones import COMPACT, BackboneVersion, BaseModelSpec, Permissions
from dynamicpo.models.base_models import item_token_ids, load_base_model
from dynamicpo.models.causality import check_causal
from dynamicpo.models.checkpoints import PromptedModel
from dynamicpo.models.dropout import layer_dropout
from dynamicpo.models.execution import choose_base_weights, choose_precision
from dynamicpo.models.lora import LanguageModel, add_adapter
from dynamicpo.prompts.encoding import Prompts, PromptSettings
from dynamicpo.prompts.loader import load_template
from dynamicpo.prompts.template import PLAIN_TEMPLATE
from dynamicpo.scoring.positions import check_positions
from dynamicpo.training import trainer
from dynamicpo.training.checkpoints.saving import Checkpoints, resumable_output
from dynamicpo.training.early_stopping import EarlyStopping
from dynamicpo.training.schedule import Schedule
from dynamicpo.training.selected_rows import SelectedRows
from dynamicpo.training.sequence_rows import sequence_rows
from dynamicpo.training.sft_batches import (
    collate_sft,
    cross_entropy,
    encode_sft_rows,
    longest_row,
    mean_cross_entropy,
)
from dynamicpo.training.stages import Training, trained_by_workers, write_training
from dynamicpo.training.warm_start import load_start

_VALIDATION_ROWS = 1000  # looked at each time: more costs more than it says


def fine_tune(
    preferences: Path,
    output: Path,
    config: SFTConfig,
    checkpoints_config: CheckpointConfig | None = None,
    start: Path | None = None,
) -> Manifest:
    """Fine-tune a backbone on the training split.

    Args:
        preferences: Output of negative sampling.
        output: The model's folder.
        config: Backbone, prompts and schedule.
        checkpoints_config: Where and how often its state is kept (None: nowhere).
        start: Folder of a trained model to go on from, its weights or adapter (None: from the
            backbone).

    Returns:
        The manifest; `counts` holds rows, steps, final loss and trainable parameters.

    Raises:
        ConfigError: Settings that can't be used.
        DataError: Input that can't be used.
    """
    paths = {"preferences": preferences, "output": output, "start_from": start}
    done = trained_by_workers("sft", paths, config, checkpoints_config)
    if done is not None:
        return done
    settings = prompt_settings(config)
    data = read_input(preferences)
    version = _backbone_version(output, config)
    inputs = _input_checksums(data, start, config, version)
    manifest = Manifest("sft", config_dict(config), inputs)
    existing = finished_by_main(output, manifest)
    if existing is not None:
        return existing
    items = read_items(preferences)
    rows = _select_rows(preferences, config)
    spec = _base_model(config, settings, items, version)
    with resumable_output(output, manifest, checkpoints_config) as (folder, saved):
        loaded = _trainable_model(spec, config, settings, start)
        model = loaded.model
        prompts = Prompts(loaded.tokenizer, items, settings)
        with loaded.execution_context(), _dropout(model, config):
            learnt = _learnt_rows(rows, items, config)
            dataset = encode_sft_rows(learnt, prompts, config.loss_on, folder)
            check_positions(model, longest_row(dataset))
            early_stopping = _early_stopping(preferences, model, prompts, config, folder)
            schedule = _schedule(config, early_stopping, saved)
            steps = trainer.train(
                model, dataset, collate_sft, cross_entropy, schedule, folder, "SFT"
            )
        manifest.counts = {
            "rows": len(rows),
            "steps": len(steps),
            "final_loss": trainer.final_mean(steps, "loss"),
            "history_items_cut": prompts.cut_items,
            **_count_parameters(model),
            **(early_stopping.counts() if early_stopping is not None else {}),
        }
        training = Training("Supervised fine-tuning", steps)
        write_training(folder, manifest, loaded, data, training)
    return manifest


def _backbone_version(output: Path, config: SFTConfig) -> BackboneVersion:
    backbones.check_backbone(config.backbone, config.quantization)
    check_apart(output, config.backbone)
    return backbones.resolve_version(config.backbone, config.revision)


def _input_checksums(
    data: Manifest, start: Path | None, config: SFTConfig, version: BackboneVersion
) -> dict[str, str]:
    inputs = {"preferences": data.fingerprint}
    # Files that may change under the same name; the templates of ours change with our version.
    if storage.is_remote(config.template):
        inputs["template"] = fingerprint(storage.remote_versions(config.template))
    elif Path(config.template).is_file():
        inputs["template"] = file_checksum(Path(config.template))
    if version.name:
        inputs["backbone"] = version.name
    if start is not None:
        inputs["start"] = read_input(start).fingerprint
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


def _select_rows(preferences: Path, config: SFTConfig) -> SelectedRows:
    """The first rows of a random order, in the order of the files."""
    example_ids: list[str] = []
    for part in read_parts(preferences, "train"):
        example_ids += part["example_id"].to_pylist()
    # Preference training takes the last rows of the same order, so that the two can be disjoint.
    order = random_keys.random_order(config.seed, "rows", example_ids)
    selected = order[: rows_taken(config.rows, len(example_ids), "SFT")]
    return SelectedRows(preferences, "train", np.sort(selected))


def _learnt_rows(rows: SelectedRows, items: pd.DataFrame, config: SFTConfig) -> Iterable[pa.Table]:
    """The rows as they are, or the sequences that they are put together to."""
    num_passes = _num_passes(config)
    if not num_passes:
        return rows.tables()
    return [sequence_rows(items, rows.table(), num_passes, config.seed)]


def _num_passes(config: SFTConfig) -> int:
    """Number of times that sequences are cut into rows; 0 where rows are learnt as they are."""
    return math.ceil(config.epochs) if config.sequences else 0


def _schedule(
    config: SFTConfig, early_stopping: EarlyStopping | None, saved: Checkpoints | None
) -> Schedule:
    return replace(
        Schedule.from_config(config, _learning_rate(config)),
        passes=max(_num_passes(config), 1),
        early_stopping=early_stopping,
        checkpoints=saved,
        run_name=f"SFT, seed {config.seed}",
    )


def _dropout(model: LanguageModel, config: SFTConfig) -> AbstractContextManager[None]:
    """Dropout of the compact backbone; the others' own configurations have theirs."""
    is_compact = isinstance(model, LlamaForCausalLM) and config.backbone == COMPACT
    return layer_dropout(model, config.dropout) if is_compact else nullcontext()


def _early_stopping(
    preferences: Path, model: LanguageModel, prompts: Prompts, config: SFTConfig, folder: Path
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
    validation = encode_sft_rows([chosen], prompts, "answer", folder)
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


def _trainable_model(
    spec: BaseModelSpec, config: SFTConfig, settings: PromptSettings, start: Path | None
) -> PromptedModel:
    if start is not None:
        return load_start(start, config, settings, spec.items)
    model, tokenizer = _trainable_backbone(spec, config)
    return PromptedModel(model, tokenizer, settings, spec)


def _trainable_backbone(
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
            config.lora_modules,
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
