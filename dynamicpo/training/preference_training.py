"""DynamicPO preference training (arXiv 2605.00327) of an SFT model, which is also the reference."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import pyarrow.compute as pc
from torch import nn

from dynamicpo.core import random_keys, stage_subjects
from dynamicpo.core.choices import LOSSES_WITHOUT_REFERENCE
from dynamicpo.core.config import PreferenceConfig
from dynamicpo.core.config_checkpoints import CheckpointConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import Manifest, config_dict, read_input
from dynamicpo.core.records.rows import read_items, read_parts
from dynamicpo.core.records.shapes import as_shape
from dynamicpo.core.row_numbers import rows_taken
from dynamicpo.core.storage import beside, origin_of
from dynamicpo.distributed.outputs import finished_by_main
from dynamicpo.models import checkpoints
from dynamicpo.models.backbones import COMPACT, permissions_of
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.reports.training_log import RELATIVE_BOUNDARY_GRADIENT, relative_boundary_gradient
from dynamicpo.scoring.reference_cache import reference_logps
from dynamicpo.training import trainer
from dynamicpo.training.checkpoints.saving import resumable_output
from dynamicpo.training.collapse_watch import WATCH_MEASURES
from dynamicpo.training.early_stopping import EarlyStopping
from dynamicpo.training.preference_batches import (
    PreferenceRows,
    RowsToScore,
    collate_preferences,
    encode_preference_rows,
)
from dynamicpo.training.preference_objective import PreferenceObjective, check_objective
from dynamicpo.training.row_store import MappedRows
from dynamicpo.training.schedule import Schedule
from dynamicpo.training.selected_rows import SelectedRows
from dynamicpo.training.stages import Training, trained_by_workers, write_training
from dynamicpo.training.step_log import StepMetrics
from dynamicpo.training.watched_sample import keep_best, make_watch

log = logging.getLogger(__name__)

# Of a line of the training log: all else is a measure.
_NO_MEASURES = ("step", "epoch", "learning_rate")


def train_preferences(
    preferences: Path,
    adapter: Path,
    output: Path,
    config: PreferenceConfig,
    checkpoints_config: CheckpointConfig | None = None,
) -> Manifest:
    """Train a fine-tuned model to prefer each row's target over its first K rejected items.

    Args:
        preferences: Output of negative sampling.
        adapter: The SFT model's folder: the start of the policy, and the reference.
        output: The trained model's folder.
        config: Objective and schedule.
        checkpoints_config: Where and how often its state is kept (None: nowhere).

    Returns:
        The manifest; `counts` holds rows, steps and the means of the last ten steps.

    Raises:
        ConfigError: Settings that can't be used.
        DataError: Input that can't be used.
    """
    label = f"{'' if config.dynamic == 'none' else 'DynamicPO-'}{config.loss.upper()}"
    subject = _subject(label, config)
    stage_subjects.announce(subject)
    paths = {"preferences": preferences, "adapter": adapter, "output": output}
    done = trained_by_workers("train-preferences", paths, config, checkpoints_config)
    if done is not None:
        return done
    data = read_input(preferences)
    start = read_input(adapter)
    inputs = {"preferences": data.fingerprint, "adapter": start.fingerprint}
    manifest = Manifest("preference_training", config_dict(config), inputs)
    existing = finished_by_main(output, manifest)
    if existing is not None:
        return existing
    check_objective(config)
    start_seed = _start_seed(adapter, start)
    selected = _select_rows(preferences, start, start_seed, config)
    with resumable_output(output, manifest, checkpoints_config) as (folder, saved):
        loaded = checkpoints.load_model(adapter, permissions_of(config), trainable=True)
        prompts = Prompts(loaded.tokenizer, read_items(preferences), loaded.settings)
        tables = selected.rows.tables()
        encoded = encode_preference_rows(tables, prompts, config.num_negatives, folder)
        with loaded.execution_context():
            dataset = _with_reference(encoded, loaded.model, preferences, config, inputs)
            schedule = Schedule.from_config(config, _learning_rate(config, loaded))
            objective = PreferenceObjective(config)
            watch = make_watch(preferences, loaded, objective, schedule.num_steps(len(dataset)))
            best = keep_best(watch, loaded, config)
            schedule = replace(schedule, checkpoints=saved, run_name=subject, watch=watch)
            schedule = replace(schedule, early_stopping=best)
            steps = trainer.train(
                loaded.model, dataset, collate_preferences, objective, schedule, folder, label
            )
        manifest.counts = {
            **selected.counts,
            "steps": len(steps),
            "history_items_cut": prompts.cut_items,
            **_final_measures(steps),
            **(watch.counts() if watch is not None else {}),
            **(best.counts() if best is not None else {}),
        }
        notes = watch.signals.sentences() if watch is not None else []
        if best is not None:
            notes.append(_delivered_note(best))
        training = Training(f"Preference training: {label}", steps, notes)
        write_training(folder, manifest, loaded, data, training)
    return manifest


def _delivered_note(best: EarlyStopping) -> str:
    hit_ratio = 1 - best.best_loss
    return (
        f"The weights of step {best.best_step} are delivered: HitRatio@1 of validation rows, "
        f"{hit_ratio:.3f}, is best there."
    )


def _subject(label: str, config: PreferenceConfig) -> str:
    """The objective, and what tells the cells of a study apart."""
    half = f" ({config.dynamic})" if config.dynamic in ("selection", "beta") else ""
    return f"{label}{half}, {config.num_negatives} negatives, seed {config.seed}"


class _Selection(NamedTuple):
    """The rows of a training.

    Attributes:
        rows: The rows, in the order of the files.
        counts: Their number, and that of those which SFT took as well, where it is known.
    """

    rows: SelectedRows
    counts: dict[str, float]


class _StartSettings(TypedDict):
    """Settings of the training whose model is the start."""

    seed: int


def _start_seed(adapter: Path, start: Manifest) -> int:
    """The seed of the training whose model is the start."""
    if "kind" not in start.extra:
        raise DataError(
            f"{adapter}: must be the output of sft or train-preferences, not of {start.stage}."
        )
    settings = as_shape(adapter / "manifest.json", start.config, _StartSettings)
    return settings["seed"]


def _select_rows(
    preferences: Path, start: Manifest, start_seed: int, config: PreferenceConfig
) -> _Selection:
    """The last rows of the random order whose first rows SFT took: as few of its own as can be."""
    example_ids = _checked_example_ids(preferences, config)
    number = rows_taken(config.rows, len(example_ids), "preference training")
    counts: dict[str, float] = {"rows": number}
    # After another preference training nothing is known of SFT's rows, nor without their number.
    sft_rows = start.counts.get("rows") if start.stage == "sft" else None
    if sft_rows is not None:
        left = len(example_ids) - int(sft_rows)
        counts["rows_shared_with_sft"] = shared = max(number - left, 0)
        if config.rows and shared:
            log.info(
                "preference training: %d of %d rows are SFT's, which left %d", shared, number, left
            )
    order = random_keys.random_order(start_seed, "rows", example_ids)
    selected = np.sort(order[-number:])
    return _Selection(SelectedRows(preferences, "train", selected), counts)


def _checked_example_ids(preferences: Path, config: PreferenceConfig) -> list[str]:
    """The ids of all training rows, which must have enough negatives."""
    example_ids: list[str] = []
    fewest: list[int] = []
    for part in read_parts(preferences, "train"):
        example_ids += part["example_id"].to_pylist()
        if len(part):
            counts = pc.list_value_length(part["rejected"])
            fewest.append(pc.min(counts).as_py())
    _check_negatives(min(fewest, default=0), preferences, config)
    return example_ids


def _check_negatives(fewest: int, preferences: Path, config: PreferenceConfig) -> None:
    if fewest < config.num_negatives:
        raise ConfigError(
            f"{preferences}: need {config.num_negatives} negatives, some rows offer {fewest}. "
            "Lower num_negatives, or sample more candidates."
        )


def _learning_rate(config: PreferenceConfig, loaded: checkpoints.LoadedModel) -> float:
    if config.learning_rate:
        return config.learning_rate
    if loaded.base.backbone == COMPACT:
        # By validation (docs/results.md): at higher rates ranking among all items fell further.
        return 3e-5
    # A tenth of SFT's rates: the policy is to stay near the reference.
    return 1e-4 if loaded.manifest.extra["kind"] == "adapter" else 1e-6


def _with_reference(
    encoded: MappedRows,
    policy: nn.Module,
    preferences: Path,
    config: PreferenceConfig,
    inputs: Mapping[str, str],
) -> PreferenceRows:
    """The rows with the reference's log-probabilities, where the loss takes them."""
    if config.loss in LOSSES_WITHOUT_REFERENCE:
        return PreferenceRows(encoded, None)
    # The policy starts as the reference, so that no second model is loaded. The cache is beside
    # the data, because runs with other objectives have the same reference.
    cache = beside(origin_of(preferences), "reference-logps")
    rows = RowsToScore(encoded)
    logps = reference_logps(policy, rows, cache, inputs, backend=config.backend)
    return PreferenceRows(encoded, logps)


def _final_measures(steps: list[StepMetrics]) -> dict[str, float]:
    """Means over the last steps, by the names that a manifest has for them."""
    measures = {}
    for name in steps[-1]:
        # Validation is measured in some steps only.
        if name in _NO_MEASURES or name in WATCH_MEASURES:
            continue
        # Names in a manifest, and so of KFP metrics, are words with underscores.
        key = name.replace("/", "_")
        measures[f"final_{key}"] = trainer.final_mean(steps, name)
    relative = [{RELATIVE_BOUNDARY_GRADIENT: value} for value in relative_boundary_gradient(steps)]
    measures[f"final_{RELATIVE_BOUNDARY_GRADIENT}"] = trainer.final_mean(
        relative, RELATIVE_BOUNDARY_GRADIENT
    )
    return measures
