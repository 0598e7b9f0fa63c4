"""DynamicPO preference training (arXiv 2605.00327) of an SFT model, which is also the reference."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor, nn

from dynamicpo.core import random_keys, stage_subjects
from dynamicpo.core.choices import LOSSES_WITHOUT_REFERENCE
from dynamicpo.core.config import PreferenceConfig
from dynamicpo.core.errors import ConfigError
from dynamicpo.core.records.manifest import Manifest, config_dict, read_input
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.rows import Row, read_items, read_rows
from dynamicpo.core.row_numbers import rows_taken
from dynamicpo.models import checkpoints
from dynamicpo.models.backbones import COMPACT, permissions_of
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.reports.pages.training import training_page
from dynamicpo.reports.training_log import RELATIVE_BOUNDARY_GRADIENT, relative_boundary_gradient
from dynamicpo.scoring.reference_cache import reference_logps
from dynamicpo.training import trainer
from dynamicpo.training.launchers import check_one_process
from dynamicpo.training.preference_batches import (
    collate_preferences,
    encode_preference_rows,
    make_dataset,
)
from dynamicpo.training.preference_objective import PreferenceObjective, check_objective
from dynamicpo.training.schedule import Schedule

log = logging.getLogger(__name__)

# Of a line of the training log: all else is a measure.
_NO_MEASURES = ("step", "epoch", "learning_rate")


def train_preferences(
    preferences: Path, adapter: Path, output: Path, config: PreferenceConfig
) -> Manifest:
    """Train a fine-tuned model to prefer each row's target over its first K rejected items.

    Args:
        preferences: Output of negative sampling.
        adapter: The SFT model's folder: the start of the policy, and the reference.
        output: The trained model's folder.
        config: Objective and schedule.

    Returns:
        The manifest; `counts` holds rows, steps and the means of the last ten steps.

    Raises:
        ConfigError: Settings that can't be used.
        DataError: Input that can't be used.
    """
    label = f"{'' if config.dynamic == 'none' else 'DynamicPO-'}{config.loss.upper()}"
    stage_subjects.announce(_subject(label, config))
    check_one_process("train-preferences")
    data = read_input(preferences)
    start = read_input(adapter)
    inputs = {"preferences": data.fingerprint, "adapter": start.fingerprint}
    manifest = Manifest("preference_training", config_dict(config), inputs)
    existing = finished(output, manifest)
    if existing is not None:
        return existing
    check_objective(config)
    selected = _select_rows(preferences, start, config)
    rows = selected.table
    with stage_output(output, manifest) as folder:
        loaded = checkpoints.load_model(adapter, permissions_of(config), trainable=True)
        prompts = Prompts(loaded.tokenizer, read_items(preferences), loaded.settings)
        encoded = encode_preference_rows(rows, prompts, config.num_negatives)
        with loaded.execution_context():
            reference = _reference(encoded, loaded.model, preferences, config, inputs)
            dataset = make_dataset(rows["example_id"].to_pylist(), encoded, reference)
            schedule = Schedule.from_config(config, _learning_rate(config, loaded))
            objective = PreferenceObjective(config)
            steps = trainer.train(
                loaded.model, dataset, collate_preferences, objective, schedule, folder, label
            )
        checkpoints.save_model(folder, loaded.model, loaded.tokenizer)
        manifest.counts = {
            **selected.counts,
            "steps": len(steps),
            "history_items_cut": prompts.cut_items,
            **_final_measures(steps),
        }
        manifest.extra = checkpoints.manifest_entries(loaded.base, loaded.model, loaded.settings)
        manifest.extra["data"] = data.extra
        page = training_page(
            steps,
            f"Preference training: {label}",
            {**manifest.counts, **manifest.config},
            data.extra.get("warnings", ()),
        )
        (folder / "report.html").write_text(page, encoding="utf-8")
    return manifest


def _subject(label: str, config: PreferenceConfig) -> str:
    """The objective, and what tells the cells of a study apart."""
    half = f" ({config.dynamic})" if config.dynamic in ("selection", "beta") else ""
    return f"{label}{half}, {config.num_negatives} negatives, seed {config.seed}"


class _SelectedRows(NamedTuple):
    """The rows of a training.

    Attributes:
        table: The rows, in the order of the files.
        counts: Their number, and that of those which SFT took as well, where it is known.
    """

    table: pa.Table
    counts: dict[str, float]


def _select_rows(preferences: Path, start: Manifest, config: PreferenceConfig) -> _SelectedRows:
    """The last rows of the random order whose first rows SFT took: as few of its own as can be."""
    rows = read_rows(preferences, "train")
    _check_negatives(rows, preferences, config)
    number = rows_taken(config.rows, len(rows), "preference training")
    counts: dict[str, float] = {"rows": number}
    # After another preference training nothing is known of SFT's rows, nor without their number.
    sft_rows = start.counts.get("rows") if start.stage == "sft" else None
    if sft_rows is not None:
        left = len(rows) - int(sft_rows)
        counts["rows_shared_with_sft"] = shared = max(number - left, 0)
        if config.rows and shared:
            log.info(
                "preference training: %d of %d rows are SFT's, which left %d", shared, number, left
            )
    example_ids = rows["example_id"].to_pylist()
    seed = int(start.config["seed"])
    order = random_keys.random_order(seed, "rows", example_ids)
    selected = order[-number:]
    return _SelectedRows(rows.take(np.sort(selected)), counts)


def _check_negatives(rows: pa.Table, preferences: Path, config: PreferenceConfig) -> None:
    counts = pc.list_value_length(rows["rejected"])
    # The minimum of no rows is None.
    fewest = pc.min(counts).as_py() or 0
    if fewest < config.num_negatives:
        raise ConfigError(
            f"{preferences}: need {config.num_negatives} negatives, some rows offer {fewest}. "
            "Lower num_negatives, or sample more candidates."
        )


def _learning_rate(config: PreferenceConfig, loaded: checkpoints.LoadedModel) -> float:
    if config.learning_rate:
        return config.learning_rate
    if loaded.base.backbone == COMPACT:
        return 2e-3
    # A tenth of SFT's rates: the policy is to stay near the reference.
    return 1e-4 if loaded.manifest.extra["kind"] == "adapter" else 1e-6


def _reference(
    rows: Sequence[Row],
    policy: nn.Module,
    preferences: Path,
    config: PreferenceConfig,
    inputs: Mapping[str, str],
) -> Tensor | None:
    """The reference's log-probabilities, where the loss takes them. Shape (N, 1 + K), nats."""
    if config.loss in LOSSES_WITHOUT_REFERENCE:
        return None
    # The policy starts as the reference, so that no second model is loaded. The cache is beside
    # the data, because runs with other objectives have the same reference.
    cache = preferences.parent / "reference-logps"
    return reference_logps(policy, rows, cache, inputs, backend=config.backend)


def _final_measures(steps: list[trainer.StepMetrics]) -> dict[str, float]:
    """Means over the last steps, by the names that a manifest has for them."""
    measures = {}
    for name in steps[-1]:
        if name in _NO_MEASURES:
            continue
        # Names in a manifest, and so of KFP metrics, are words with underscores.
        key = name.replace("/", "_")
        measures[f"final_{key}"] = trainer.final_mean(steps, name)
    relative = [{RELATIVE_BOUNDARY_GRADIENT: value} for value in relative_boundary_gradient(steps)]
    measures[f"final_{RELATIVE_BOUNDARY_GRADIENT}"] = trainer.final_mean(
        relative, RELATIVE_BOUNDARY_GRADIENT
    )
    return measures
