"""DynamicPO preference training (arXiv 2605.00327) of an SFT model, which is also the frozen reference."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor, nn

from dynamicpo.core import random_keys
from dynamicpo.core.config import PreferenceConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import Manifest, config_dict, input_fingerprint, read_manifest
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.rows import Row, read_items, read_rows
from dynamicpo.models import backbones, checkpoints
from dynamicpo.objective.diagnostics import preference_diagnostics
from dynamicpo.objective.dynamicpo import preference_losses
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.reports.pages.training import training_page
from dynamicpo.reports.training_log import RELATIVE, relative_gradient
from dynamicpo.scoring.reference_cache import reference_logps
from dynamicpo.scoring.shared_prefix import answer_logps
from dynamicpo.training import trainer

log = logging.getLogger(__name__)
WITHOUT_REFERENCE = ("mppo", "simpo")
ONE_NEGATIVE = ("dpo",)


def train_preferences(
    preferences: Path, adapter: Path, output: Path, config: PreferenceConfig
) -> Manifest:
    """Train a fine-tuned model to prefer each row's target over its first K rejected items.

    Args:
        preferences: Output of negative sampling.
        adapter: The SFT model's folder: where the policy starts, and the reference.
        output: The trained model's folder.
        config: Objective and schedule.

    Returns:
        The manifest; `counts` holds rows, steps and the means of the last ten steps.

    Raises:
        ConfigError: Settings that can't be used.
        DataError: Input that can't be used.
    """
    inputs = {"preferences": input_fingerprint(preferences), "adapter": input_fingerprint(adapter)}
    manifest = Manifest("preference_training", config_dict(config), inputs)
    if (existing := finished(output, manifest)) is not None:
        return existing
    _check_objective(config)
    rows = _choose_rows(preferences, adapter, config)
    with stage_output(output, manifest) as folder:
        loaded = checkpoints.load_model(adapter, trainable=True)
        prompts = Prompts(loaded.tokenizer, read_items(preferences), loaded.settings)
        built = _build(rows, prompts, config.num_negatives)
        with loaded.execution_context():
            dataset = _dataset(
                rows, built, _reference(built, loaded.model, preferences, config, inputs)
            )
            schedule = trainer.Schedule.of(config, _learning_rate(config, loaded))
            label = f"{'DynamicPO-' if config.dynamic else ''}{config.loss.upper()}"
            steps = trainer.train(
                loaded.model, dataset, collate, BatchLoss(config), schedule, folder, label
            )
        checkpoints.save_model(folder, loaded.model, loaded.tokenizer)
        manifest.counts = _counts(len(rows), steps, prompts)
        manifest.extra = checkpoints.describe(loaded.base, loaded.model, loaded.settings)
        manifest.extra["data"] = read_manifest(preferences).extra
        facts, warnings = (
            {**manifest.counts, **manifest.config},
            manifest.extra["data"].get("warnings", ()),
        )
        page = training_page(steps, f"Preference training: {label}", facts, warnings)
        (folder / "report.html").write_text(page, encoding="utf-8")
    return manifest


def _check_objective(config: PreferenceConfig) -> None:
    if config.loss in ONE_NEGATIVE and config.num_negatives != 1:
        raise ConfigError(
            f"num_negatives: must be 1 with the loss {config.loss}, got {config.num_negatives}. "
            "Use dmpo or sdpo, which equal dpo at 1 and take more."
        )
    if config.ablation != "none" and not config.dynamic:
        raise ConfigError(
            f"ablation: {config.ablation!r} is a part of DynamicPO, but dynamic is off. Turn it on."
        )


def _choose_rows(preferences: Path, adapter: Path, config: PreferenceConfig) -> pa.Table:
    """The rows to train on: all, or those whose key comes last. SFT takes the first, so that they differ."""
    rows = read_rows(preferences, "train")
    offered = min(map(len, rows["rejected"].to_pylist()), default=0)
    if offered < config.num_negatives:
        raise ConfigError(
            f"{preferences}: need {config.num_negatives} negatives, some rows offer {offered}. "
            "Lower num_negatives, or sample more candidates."
        )
    if not config.rows:
        return rows
    tuned = read_manifest(adapter)
    used = int(tuned.config["rows"]) if tuned.stage == "sft" else 0
    if config.rows > len(rows) - used:
        raise ConfigError(
            f"rows: must be <= {len(rows) - used}, the training rows that SFT left, got {config.rows}. "
            "Lower rows here or for SFT, or take all (0)."
        )
    seed = int(tuned.config["seed"])
    order = random_keys.random_order(seed, "rows", rows["example_id"].to_pylist())
    return rows.take(np.sort(order[-config.rows :]))


def _learning_rate(config: PreferenceConfig, loaded: checkpoints.LoadedModel) -> float:
    if config.learning_rate:
        return config.learning_rate
    if loaded.base.backbone == backbones.COMPACT:
        return 2e-3
    return 1e-4 if loaded.manifest.extra["kind"] == "adapter" else 1e-6


def _build(rows: pa.Table, prompts: Prompts, num_negatives: int) -> list[Row]:
    """Token ids of each row: the target first, then its first K rejected items."""
    columns = (
        rows[name].to_pylist()
        for name in ("example_id", "history", "target", "rejected", "candidates")
    )
    built = [
        prompts.row(name, history, [target, *rejected[:num_negatives]], candidates)
        for name, history, target, rejected, candidates in zip(*columns, strict=True)
    ]
    if prompts.cut_items:
        log.warning(
            "Preference training: cut %d history items, the oldest, to fit max_length",
            prompts.cut_items,
        )
    return built


def _reference(
    built: list[Row],
    model: nn.Module,
    preferences: Path,
    config: PreferenceConfig,
    inputs: Mapping[str, str],
) -> list[list[float]] | None:
    """The reference's log-probabilities, where the loss takes them. The policy starts as the reference."""
    if config.loss in WITHOUT_REFERENCE:
        return None
    cache = preferences.parent / "reference-logps"
    logps = reference_logps(model, built, cache, inputs, backend=config.backend)
    return [list(row) for row in logps.tolist()]


def _dataset(rows: pa.Table, built: list[Row], reference: list[list[float]] | None) -> Dataset:
    columns = {
        "example_id": rows["example_id"].to_pylist(),
        "prompt_ids": [row.prompt_ids for row in built],
        "answer_ids": [row.answer_ids for row in built],
    }
    return Dataset.from_dict(
        columns if reference is None else {**columns, "reference_logps": reference}
    )


def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows to a batch: token ids as `Row`s, reference log-probabilities (B, 1 + K), and one label a row."""
    result: dict[str, Any] = {
        "rows": [Row(row["prompt_ids"], row["answer_ids"]) for row in batch],
        "names": [row["example_id"] for row in batch],
        "labels": torch.zeros(len(batch), dtype=torch.long),
    }
    if "reference_logps" in batch[0]:
        result["reference_logps"] = torch.tensor([row["reference_logps"] for row in batch])
    return result


@dataclass(frozen=True)
class BatchLoss:
    """The objective of a configuration, as the trainer calls it."""

    config: PreferenceConfig

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the rows' losses, and the step's diagnostics."""
        config, rows = self.config, batch["rows"]
        logps = answer_logps(model, rows, backend=config.backend)
        _check_finite(logps, batch["names"])
        if config.loss == "simpo":
            logps = logps / torch.tensor([[len(ids) for ids in row.answer_ids] for row in rows]).to(
                logps
            )
        chosen, rejected = logps[:, 0], logps[:, 1:]
        reference = batch.get("reference_logps")
        given: dict[str, Any] = {}
        if reference is not None:
            given = {
                "reference_chosen_logps": reference[:, 0],
                "reference_rejected_logps": reference[:, 1:],
            }
        settings: dict[str, Any] = {
            "loss": config.loss,
            "dynamic": config.dynamic,
            "beta": config.beta,
            "margin": config.margin,
            "simpo_gamma": config.simpo_gamma,
            "ablation": config.ablation,
        }
        result = preference_losses(chosen, rejected, **given, **settings)
        return result.losses.sum(), preference_diagnostics(chosen, rejected, **given, **settings)


def _check_finite(logps: Tensor, names: list[str]) -> None:
    """Once a step, the one copy to the host."""
    finite = torch.isfinite(logps.detach()).all(dim=1).cpu()
    if not bool(finite.all()):
        bad = [name for name, good in zip(names, finite.tolist(), strict=True) if not good]
        raise DataError(
            f"row {', '.join(bad[:5])}: log-probabilities must be finite, {len(bad)} rows of the batch have others. "
            "Lower the learning rate, or look at these rows."
        )


def _counts(num_rows: int, steps: list[dict[str, float]], prompts: Prompts) -> dict[str, Any]:
    last = steps[-10:]
    means = {
        name.replace("/", "_"): float(np.mean([step[name] for step in last])) for name in last[0]
    }
    for name in ("step", "epoch", "learning_rate"):
        means.pop(name)
    relative = relative_gradient(steps)[-len(last) :]
    means[RELATIVE] = float(np.mean(relative))
    return {"rows": num_rows, "steps": len(steps), "history_items_cut": prompts.cut_items} | {
        f"final_{name}": value for name, value in means.items()
    }
