"""Evaluation: models and baselines rank the candidates of the same held-out rows."""

import gc
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.model_names import check_model_names
from dynamicpo.core.records.manifest import Manifest, config_dict, read_manifest, write_json
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.rows import read_rows, write_items
from dynamicpo.evaluation.baselines.sasrec import fit_sasrec
from dynamicpo.evaluation.baselines.simple import make_baseline, score_blocks
from dynamicpo.evaluation.candidates import Scored, rank_with
from dynamicpo.evaluation.rankings import Ranking
from dynamicpo.evaluation.results import Answers, Result, make_result, paired, write_result
from dynamicpo.evaluation.rows import Data, read_data
from dynamicpo.models.checkpoints import LoadedModel, load_base_of, load_model
from dynamicpo.negatives.audit.leak_check import (
    SkippedAudit,
    SplitAudit,
    audit_split,
    check_audit,
)
from dynamicpo.negatives.exclusions import effective_exclusion
from dynamicpo.reports.pages.evaluation import evaluation_page

log = logging.getLogger(__name__)


def evaluate(
    preferences: Path, models: Mapping[str, Path], output: Path, config: EvaluationConfig
) -> Manifest:
    """Rank the candidates of each row with every model and with the baselines.

    Args:
        preferences: Output of negative sampling.
        models: Model folders by name; none for the baselines alone. The others are compared with the first.
        output: Folder to make: `NAME/metrics.json` and `NAME/ranks.parquet`, `comparisons.json`, `report.html`.
        config: Split, score, rows.

    Returns:
        The manifest. `counts` holds the metrics of the one model, or of several as `NAME_metric`; `extra` the
        protocol, which must be equal for numbers to be comparable.

    Raises:
        ConfigError: Names or settings that can't be used.
        DataError: Input that can't be used.
    """
    check_model_names(models)
    if config.base and not models:
        raise ConfigError(
            "base: needs a model whose base it is, got none. Name a model, or leave base out."
        )
    source = read_manifest(preferences, "sample_negatives")
    known = {name: read_manifest(folder) for name, folder in models.items()}
    inputs = {"preferences": source.fingerprint, "models": " ".join(models)}
    inputs |= {f"model {name}": manifest.fingerprint for name, manifest in known.items()}
    manifest = Manifest("evaluate", config_dict(config), inputs)
    if (existing := finished(output, manifest)) is not None:
        return existing
    _check_models(models, known, config)
    data = read_data(preferences, source, config)
    audit, leaks = _audited(preferences, source, data, config)
    with stage_output(output, manifest) as folder:
        pq.write_table(data.table, folder / "rows.parquet", compression="zstd")
        write_items(folder, data.items)
        results, cut = _evaluate_all(preferences, models, folder, data, config)
        comparisons = paired(results, [*models], config.resamples, config.seed)
        write_json(folder / "comparisons.json", comparisons)
        manifest.counts = _counts(results, [*models])
        manifest.extra = {
            "protocol": data.protocol,
            "audit": audit,
            "models": _facts(known),
            "cut_items": cut,
        }
        manifest.extra["warnings"] = warnings = [*leaks, *_warnings(manifest, results)]
        page = evaluation_page(
            {name: result.metrics for name, result in results.items()},
            {name: result.rank_counts() for name, result in results.items()},
            comparisons,
            {
                **manifest.extra,
                "warnings": len(warnings),
                "configuration": manifest.config,
                "inputs": inputs,
            },
            warnings,
        )
        (folder / "report.html").write_text(page, encoding="utf-8")
    return manifest


def _check_models(
    models: Mapping[str, Path], known: Mapping[str, Manifest], config: EvaluationConfig
) -> None:
    for name, facts in known.items():
        if "kind" not in facts.extra:
            raise DataError(
                f"{models[name]}: must be a model folder, but it comes from {facts.stage}. Correct {name}."
            )
        if config.candidates == "catalogue" and facts.extra["prompts"]["list_candidates"]:
            raise ConfigError(
                f"candidates: 'catalogue' needs prompts without candidates, but those of {name} list some, the right "
                "one among them. Rank the listed ones, or train without list_candidates."
            )


def _audited(
    preferences: Path, source: Manifest, data: Data, config: EvaluationConfig
) -> tuple[SplitAudit | SkippedAudit, list[str]]:
    """What a lookup that ignores the history gains from the lists, and a red line where that is something."""
    if data.codes is None:
        return {"skipped": "every item is ranked, so there are no lists"}, []
    tables = {split: read_rows(preferences, split) for split in SPLITS}
    found = audit_split(
        tables, config.split, data.items, effective_exclusion(source.config), config.seed
    )
    return found, check_audit(found, f"{config.split} split", config.allow_leak)


def _evaluate_all(
    preferences: Path,
    models: Mapping[str, Path],
    folder: Path,
    data: Data,
    config: EvaluationConfig,
) -> tuple[dict[str, Result], dict[str, int]]:
    """Results of baselines and models, written as they are made, and the history items cut by each model."""
    results: dict[str, Result] = {}
    cut: dict[str, int] = {}
    catalogue = data.items["item_id"].tolist(), data.items["popularity"].to_numpy(np.int64)

    def keep(name: str, ranking: Ranking, answers: Answers | None = None) -> None:
        results[name] = make_result(
            data.rows, ranking, catalogue, config.resamples, config.seed, answers
        )
        write_result(folder / name, results[name], answers)

    train = read_rows(preferences, "train")
    scorers = {
        name: make_baseline(name, data.items, train)
        for name in ("random", "popularity", "cooccurrence")
    }
    if config.sasrec:
        scorers["sasrec"] = fit_sasrec(data.items, train, config.seed)
    for name, scorer in scorers.items():
        keep(name, data.ranking(score_blocks(scorer, data.table, len(data.items))))
    if config.base:
        keep("base", *_ranked(load_base_of(next(iter(models.values()))), data, config, "base")[:2])
    for name, path in models.items():
        ranking, answers, cut[name] = _ranked(load_model(path), data, config, name)
        keep(name, ranking, answers)
        if (path / "steps.jsonl").is_file():
            shutil.copyfile(path / "steps.jsonl", folder / name / "steps.jsonl")
    return results, cut


def _ranked(loaded: LoadedModel, data: Data, config: EvaluationConfig, name: str) -> Scored:
    scored = rank_with(loaded, data, config, name)
    del loaded
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return scored


def _counts(results: Mapping[str, Result], models: list[str]) -> dict[str, Any]:
    if len(models) == 1:
        return dict(results[models[0]].metrics)
    return {
        f"{name}_{metric}": value
        for name, result in results.items()
        for metric, value in result.metrics.items()
    }


def _facts(known: Mapping[str, Manifest]) -> dict[str, Any]:
    """What a comparison tells of each model: how it was made, and from what."""
    return {
        name: {
            "fingerprint": manifest.fingerprint,
            "stage": manifest.stage,
            "config": manifest.config,
            "inputs": manifest.inputs,
            "backbone": manifest.extra["base"]["backbone"],
        }
        for name, manifest in known.items()
    }


def _warnings(manifest: Manifest, results: Mapping[str, Result]) -> list[str]:
    warnings = []
    for name, result in results.items():
        split = result.rows.split
        if number := result.metrics[f"{split}_nan_scores"]:
            many = int(result.num_candidates.sum())
            warnings.append(f"{number} of {many} scores of {name} are NaN; they rank worst.")
        if cut := manifest.extra["cut_items"].get(name):
            warnings.append(
                f"Prompts of {name} were too long: {cut} history items, the oldest, were cut."
            )
    if any(result.metrics[f"{result.rows.split}_users"] == 1 for result in results.values()):
        warnings.append("All rows are of one user: intervals are not available.")
    for text in warnings:
        log.warning("evaluation: %s", text)
    return warnings
