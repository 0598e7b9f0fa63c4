"""Supervised fine-tuning: prompt plus answer, loss on the answer's tokens or on the history's as well."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from dynamicpo.core import random_keys
from dynamicpo.core.config import SFTConfig
from dynamicpo.core.errors import ConfigError
from dynamicpo.core.records.manifest import (
    Manifest,
    config_dict,
    file_checksum,
    input_fingerprint,
    read_manifest,
)
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.rows import read_items, read_rows
from dynamicpo.models import backbones, checkpoints
from dynamicpo.models.backbones import BaseModelSpec
from dynamicpo.models.base_models import load_base_model
from dynamicpo.models.execution import choose_precision, execution_context
from dynamicpo.models.lora import add_adapter
from dynamicpo.prompts.encoding import PLAIN_TEMPLATE, Prompts, PromptSettings
from dynamicpo.prompts.loader import load_template
from dynamicpo.reports.pages.training import training_page
from dynamicpo.scoring.shared_prefix import token_logps
from dynamicpo.training import trainer

log = logging.getLogger(__name__)
_IGNORED = -100


def fine_tune(preferences: Path, output: Path, config: SFTConfig) -> Manifest:
    """Fine-tune a backbone on the training split.

    Args:
        preferences: Output of negative sampling.
        output: The model's folder.
        config: What to train and how.

    Returns:
        The manifest; `counts` holds rows, steps, final loss and trainable parameters.

    Raises:
        ConfigError: Settings that can't be used.
        DataError: Input that can't be used.
    """
    settings = prompt_settings(config)
    inputs = {"preferences": input_fingerprint(preferences)}
    if Path(config.template).is_file():
        inputs["template"] = file_checksum(Path(config.template))
    if backbone := backbones.backbone_checksum(config.backbone):
        inputs["backbone"] = backbone
    manifest = Manifest("sft", config_dict(config), inputs)
    if (existing := finished(output, manifest)) is not None:
        return existing
    backbones.check_backbone(config.backbone, config.quantization)
    items = read_items(preferences)
    rows = read_rows(preferences, "train")
    chosen = random_keys.random_order(config.seed, "rows", rows["example_id"].to_pylist())
    if config.rows > len(chosen):
        raise ConfigError(
            f"rows: must be <= {len(chosen)}, the rows of the training split, got {config.rows}."
        )
    rows = rows.take(np.sort(chosen[: config.rows or len(chosen)]))
    base = _base(config, settings, items["item_id"].tolist(), backbone)
    with stage_output(output, manifest) as folder:
        model, tokenizer = load_base_model(base)
        if _tuning(config) == "lora":
            shape = (config.lora_rank, config.lora_alpha, config.lora_dropout)
            model = add_adapter(model, *shape, new_tokens=len(base.items), seed=config.seed)
        prompts = Prompts(tokenizer, items, settings)
        schedule = trainer.Schedule.of(config, _learning_rate(config))
        with execution_context(base):
            steps = trainer.train(
                model,
                _dataset(rows, prompts, config.loss_on),
                Collator(),
                _loss,
                schedule,
                folder,
                "SFT",
            )
        checkpoints.save_model(folder, model, tokenizer)
        manifest.counts = {
            "rows": len(rows),
            "steps": len(steps),
            "final_loss": float(np.mean([step["loss"] for step in steps[-10:]])),
            "history_items_cut": prompts.cut_items,
            "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        manifest.extra = checkpoints.describe(base, model, settings)
        manifest.extra["data"] = read_manifest(preferences).extra
        warnings = manifest.extra["data"].get("warnings", ())
        page = training_page(
            steps, "Supervised fine-tuning", {**manifest.counts, **manifest.config}, warnings
        )
        (folder / "report.html").write_text(page, encoding="utf-8")
    return manifest


def prompt_settings(config: SFTConfig) -> PromptSettings:
    """The prompt settings of a configuration, with "auto" resolved and the template's file read."""
    item_text = (
        backbones.default_item_text(config.backbone)
        if config.item_text == "auto"
        else config.item_text
    )
    template = load_template(config.template, list_candidates=config.list_candidates)
    if config.backbone == backbones.COMPACT:
        if item_text == "title" or config.list_candidates:
            raise ConfigError(
                "item_text: the compact backbone has one token per item and no words; "
                "use item_text 'token' and no list_candidates, or another backbone."
            )
        if config.quantization != "none":
            raise ConfigError(
                f"quantization: the compact backbone is trained from scratch, got {config.quantization!r}. Use 'none'."
            )
        return PromptSettings(item_text, PLAIN_TEMPLATE, False, config.max_length)
    return PromptSettings(item_text, template, config.list_candidates, config.max_length)


def _tuning(config: SFTConfig) -> str:
    return backbones.default_tuning(config.backbone) if config.tuning == "auto" else config.tuning


def _learning_rate(config: SFTConfig) -> float:
    if config.learning_rate:
        return config.learning_rate
    if config.backbone == backbones.COMPACT:
        return 2e-3
    return 1e-3 if _tuning(config) == "lora" else 1e-5


def _base(
    config: SFTConfig, settings: PromptSettings, item_ids: list[str], checksum: str
) -> BaseModelSpec:
    return BaseModelSpec(
        backbone=config.backbone,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        quantization=config.quantization,
        precision=choose_precision(config.precision, config.backbone),
        seed=config.seed,
        items=tuple(item_ids) if settings.item_text == "token" else (),
        checksum=checksum,
    )


def _dataset(rows: Any, prompts: Prompts, loss_on: str) -> Dataset:
    counted = {"answer"} if loss_on == "answer" else {"answer", "history"}
    listed = (
        rows["candidates"].to_pylist() if prompts.settings.list_candidates else [()] * len(rows)
    )
    columns = (rows[name].to_pylist() for name in ("example_id", "history", "target"))
    token_ids, labels = [], []
    for (name, history, target), candidates in zip(zip(*columns, strict=True), listed, strict=True):
        tokens, kinds = prompts.training_row(name, history, target, candidates)
        token_ids.append(tokens)
        labels.append(
            [
                token if kind in counted else _IGNORED
                for token, kind in zip(tokens, kinds, strict=True)
            ]
        )
    if prompts.cut_items:
        log.warning(
            "SFT: cut %d history items, the oldest ones, to fit into max_length", prompts.cut_items
        )
    return Dataset.from_dict({"input_ids": token_ids, "labels": labels})


class Collator:
    """Rows to one padded batch. Labels stand one to the left: each position predicts the next token."""

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        """Tensors (B, T): `input_ids`, `attention_mask`, `labels`."""
        length = max(len(row["input_ids"]) for row in rows)
        token_ids = np.zeros((len(rows), length), dtype=np.int64)
        labels = np.full((len(rows), length), _IGNORED, dtype=np.int64)
        mask = np.zeros((len(rows), length), dtype=np.int64)
        for place, row in enumerate(rows):
            size = len(row["input_ids"])
            token_ids[place, :size] = row["input_ids"]
            labels[place, : size - 1] = row["labels"][1:]
            mask[place, :size] = 1
        return {
            "input_ids": torch.from_numpy(token_ids),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(labels),
        }


def _loss(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy, summed over the counted tokens; the head runs only where a token is counted."""
    labels = batch["labels"].flatten()
    places = (labels != _IGNORED).nonzero()[:, 0]
    source = torch.arange(len(places), device=places.device)
    logps = token_logps(
        model, batch["input_ids"], batch["attention_mask"], places, source, labels[places]
    )
    return -logps.sum(), {}
