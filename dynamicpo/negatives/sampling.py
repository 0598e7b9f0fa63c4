"""Negative sampling: examples to preference rows.

Every draw is a hash of (seed, split, example id, draw number), so that a row's candidates depend on
the row alone: not on the order of rows, the other rows or the number of workers, and not on the
target's id, which would give the answer away (as the published lists do).

The audit of every held-out split must find that a lookup gains nothing from the lists.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

import pandas as pd
import pyarrow as pa

from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import NegativesConfig
from dynamicpo.core.config_inputs import check_exclusion
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import Manifest, config_dict, read_input
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.rows import EXAMPLES, read_items, read_rows, write_items, write_rows
from dynamicpo.negatives.audit.leak_check import (
    SkippedAudit,
    SplitAudit,
    audit_split,
    check_audit,
)
from dynamicpo.negatives.catalogue import decode_lists, make_catalogue
from dynamicpo.negatives.exclusions import effective_exclusion
from dynamicpo.negatives.strategies.popularity_matched import stratum_size
from dynamicpo.negatives.strategies.table import STRATEGY_FUNCTIONS

log = logging.getLogger(__name__)

_HELD_OUT_SPLITS = ("validation", "test")


class SamplingProtocol(TypedDict):
    """Settings that must be equal for numbers to be comparable: stated in every report."""

    strategy: str
    exclude: str
    num_candidates: int
    seed: int
    repeats: NotRequired[str]
    popularity_power: NotRequired[float]
    hard_share: NotRequired[float]
    model_pool: NotRequired[int]
    held_out_strategy: NotRequired[str]
    stratum: NotRequired[int]


def sample_negatives(
    examples: Path, output: Path, config: NegativesConfig, model: Path | None = None
) -> Manifest:
    """Give each example its candidates and its rejected items.

    Args:
        examples: The output of data preparation.
        output: The folder to make: as `examples`, with the columns `candidates` and `rejected`.
        config: Strategy, number, exclusions and seed.
        model: Fine-tuned model that mines the negatives of training rows (strategy 'model' alone).

    Raises:
        CheckFailedError: Candidate lists of held-out rows give the answer away, and that is not
            allowed.
        ConfigError: The strategy needs what the examples do not have, or the exclusions do not go
            with the repeats that they keep.
        DataError: The catalogue is too small, or published lists that can't be used.
    """
    source = read_input(examples, "prepare_data")
    repeats = _repeats_of(source)
    check_exclusion(config.exclude, repeats)
    inputs = {"examples": source.fingerprint}
    _check_model(config, model)
    if model is not None:
        miner = read_input(model)
        _check_miner(model, miner)
        inputs["model"] = miner.fingerprint
    manifest = Manifest("sample_negatives", config_dict(config), inputs)
    if existing := finished(output, manifest):
        return existing
    with stage_output(output, manifest) as partial:
        items = read_items(examples)
        tables = _write_preferences(examples, partial, items, config, manifest, model)
        audits = _audit_held_out(tables, items, config)
        warnings = _check_audits(audits, config.allow_leak)
        manifest.counts |= _audit_counts(audits)
        manifest.extra |= source.extra
        manifest.extra["protocol"] = sampling_protocol(config, repeats)
        manifest.extra["audit"] = audits
        if warnings:
            manifest.extra["warnings"] = warnings
    counts = [f"{name} {count}" for name, count in manifest.counts.items()]
    log.info("%s: %s", output, ", ".join(counts))
    return manifest


def _check_model(config: NegativesConfig, model: Path | None) -> None:
    """Check that a model is given where the strategy mines with one, and nowhere else."""
    is_mined = config.strategy == "model"
    if is_mined and model is None:
        raise ConfigError(
            "strategy: 'model' needs a fine-tuned model that mines, got none. Give --model, or "
            "choose another strategy."
        )
    if model is not None and not is_mined:
        raise ConfigError(
            f"model: only strategy 'model' mines with one, but strategy is {config.strategy!r}. "
            "Set strategy to model, or leave the model out."
        )


def _check_miner(folder: Path, manifest: Manifest) -> None:
    """Check that a folder holds a model that can score every item.

    Raises:
        ConfigError: Its prompts list candidates.
        DataError: It holds no model.
    """
    if "kind" not in manifest.extra:
        raise DataError(
            f"{folder}: must be a model folder, but it comes from {manifest.stage}. Correct model."
        )
    if manifest.extra["prompts"]["list_candidates"]:
        raise ConfigError(
            f"model: must have prompts without candidates, but those of {folder} list some, which "
            "are not drawn yet. Train without list_candidates."
        )


def _repeats_of(source: Manifest) -> str:
    """The repeats that examples keep; "" for published rows, which come as they are."""
    if source.config.get("source") == "published":
        return ""
    return str(source.config.get("repeats", ""))


def _write_preferences(
    examples: Path,
    folder: Path,
    items: pd.DataFrame,
    config: NegativesConfig,
    manifest: Manifest,
    model: Path | None,
) -> dict[str, pa.Table]:
    """Write the rows of every split, and count them.

    Returns:
        The rows with their candidates, for the audit.
    """
    counts = manifest.counts
    catalogue = make_catalogue(items)
    tables = {split: read_rows(examples, split, EXAMPLES) for split in SPLITS}
    score_items = None
    if model is not None:
        # Here, because torch and transformers take seconds to import, for nothing without a model.
        from dynamicpo.models.backbones import permissions_of
        from dynamicpo.negatives.mining_model import model_scorer

        score_items = model_scorer(model, items, tables["train"], permissions_of(config))
    make_lists = STRATEGY_FUNCTIONS[config.strategy]
    lists_by_split = make_lists(tables, catalogue, config, score_items)
    # Those of all splits come before the numbers of rows in the log.
    for split, lists in lists_by_split.items():
        for name, count in lists.counts.items():
            counts[f"{split}_{name}"] = count
    for split, lists in lists_by_split.items():
        # Published rows come with a column of candidates already, which is written anew.
        candidates = decode_lists(lists.candidates, catalogue)
        rejected = decode_lists(lists.rejected, catalogue)
        rows = tables[split].select(EXAMPLES.names)
        rows = rows.append_column("candidates", candidates)
        tables[split] = rows
        rows = rows.append_column("rejected", rejected)
        write_rows(folder, split, rows)
        counts[f"{split}_rows"] = len(rows)
    write_items(folder, items)
    counts["items"] = len(items)
    return tables


def _audit_held_out(
    tables: Mapping[str, pa.Table], items: pd.DataFrame, config: NegativesConfig
) -> dict[str, SplitAudit | SkippedAudit]:
    """Measure what a lookup that ignores the history gains from the lists of held-out rows."""
    exclude = effective_exclusion(config_dict(config))
    return {
        split: audit_split(tables, split, items, exclude, config.seed)
        for split in _HELD_OUT_SPLITS
        if len(tables[split])
    }


def _check_audits(audits: Mapping[str, SplitAudit | SkippedAudit], allow_leak: bool) -> list[str]:
    """Refuse lists that leak; the warnings, where that is allowed."""
    warnings = []
    for split, audit in audits.items():
        warnings += check_audit(audit, f"{split} split", allow_leak)
    return warnings


def _audit_counts(audits: Mapping[str, SplitAudit | SkippedAudit]) -> dict[str, float]:
    """Metrics of the splits that were audited."""
    counts = {}
    for split, audit in audits.items():
        if "skipped" not in audit:
            hit_ratio = audit["hit_ratio_at_1"]
            chance = audit["chance"]
            counts[f"{split}_audit_hit_ratio_at_1"] = hit_ratio
            counts[f"{split}_audit_chance"] = chance
        if "by_history" in audit:
            by_history = audit["by_history"]
            counts[f"{split}_audit_by_history_hit_ratio_at_1"] = by_history["hit_ratio_at_1"]
            counts[f"{split}_audit_by_history_chance"] = by_history["chance"]
    return counts


def sampling_protocol(config: NegativesConfig, repeats: str = "") -> SamplingProtocol:
    """State the settings that the strategy of a configuration uses.

    Args:
        config: Of negative sampling.
        repeats: The repeats that the examples keep; "" where it is not known.
    """
    protocol: SamplingProtocol = {
        "strategy": config.strategy,
        "exclude": config.exclude,
        "num_candidates": config.num_candidates,
        "seed": config.seed,
    }
    if repeats:
        protocol["repeats"] = repeats
    held_out = config.strategy
    if config.strategy == "hard":
        protocol["hard_share"] = config.hard_share
    elif config.strategy == "model":
        protocol["model_pool"] = config.model_pool
    if config.strategy in ("hard", "model"):
        held_out = config.held_out_strategy
        protocol["held_out_strategy"] = held_out
    if held_out == "popularity":
        protocol["popularity_power"] = config.popularity_power
    elif held_out == "popularity-matched":
        protocol["stratum"] = stratum_size(config.num_candidates)
    elif config.strategy == "published":
        protocol["exclude"] = "as published"
    return protocol
