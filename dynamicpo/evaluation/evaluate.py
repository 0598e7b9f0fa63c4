"""Evaluation: models and baselines rank the candidates of the same held-out rows."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from dynamicpo.core import stage_subjects
from dynamicpo.core.choices import NO_GENERATOR
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.config_checkpoints import CheckpointConfig, checkpoint_values
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.model_names import check_model_names
from dynamicpo.core.records.manifest import Manifest, config_dict, read_input, write_json
from dynamicpo.core.records.rows import write_items
from dynamicpo.core.records.version_folders import model_of
from dynamicpo.distributed.group import check_joined
from dynamicpo.distributed.outputs import finished_by_main
from dynamicpo.distributed.workers import done_by_workers
from dynamicpo.evaluation.beside import rows_beside
from dynamicpo.evaluation.delivered import delivered_rules, rule_warnings
from dynamicpo.evaluation.evaluated_models import EvaluatedModels
from dynamicpo.evaluation.paired_comparisons import beside_comparisons, paired_comparisons
from dynamicpo.evaluation.result_files import comparisons_file
from dynamicpo.evaluation.results import ModelResult
from dynamicpo.evaluation.rows import (
    CATALOGUE,
    EvaluationData,
    SplitTables,
    read_all_items,
    read_catalogue_data,
    read_data,
)
from dynamicpo.evaluation.saved import ModelProvenance
from dynamicpo.negatives.audit.leak_check import (
    SkippedAudit,
    SplitAudit,
    audit_split,
    check_audit,
)
from dynamicpo.negatives.exclusions import effective_exclusion
from dynamicpo.reports.pages.comparisons import PairedComparison
from dynamicpo.reports.pages.evaluation import evaluation_page
from dynamicpo.training.checkpoints.saving import resumable_output

log = logging.getLogger(__name__)

# Of a training's counts.
_ROWS = ("rows", "rows_shared_with_sft")


def evaluate(
    preferences: Path,
    models: Mapping[str, Path],
    output: Path,
    config: EvaluationConfig,
    checkpoints_config: CheckpointConfig | None = None,
    baselines: Path | None = None,
) -> Manifest:
    """Rank the candidates of each row with every model and with the baselines.

    Args:
        preferences: Output of negative sampling.
        models: Model folders by name; none for the baselines alone. The others are compared with
            the first.
        output: Folder to make: `NAME/metrics.json` and `NAME/ranks.parquet`, `comparisons.json`,
            `report.html`; the same files under `NAME/catalogue` and `catalogue_comparisons.json`
            where every item is ranked beside the listed ones. Where that would take longer than
            `catalogue_minutes`, proposals are, under `NAME/proposed` and in
            `proposed_comparisons.json`.
        config: Split, score, rows.
        checkpoints_config: Where and how often finished work is kept (None: nowhere).
        baselines: An evaluation of the same rows by the same seed, whose SASRec is taken instead of
            training another (None: it is trained here).

    Returns:
        The manifest. `counts` holds the metrics of the one model, or of several as `NAME_metric`;
        `extra` the protocol, which must be equal for numbers to be comparable.

    Raises:
        ConfigError: Names or settings that can't be used.
        DataError: Input that can't be used.
    """
    stage_subjects.announce(", ".join(models) or "the baselines")
    check_model_names(models)
    if config.base and not models:
        raise ConfigError(
            "base: needs a model whose base it is, got none. Name a model, or leave base out."
        )
    done = _evaluated_by_workers(preferences, models, output, config, checkpoints_config, baselines)
    if done is not None:
        return done
    source = read_input(preferences, "sample_negatives")
    model_manifests = {name: read_input(model_of(folder)) for name, folder in models.items()}
    manifest = _manifest(source, model_manifests, config)
    if baselines is not None:
        manifest.inputs["baselines"] = _checked_baselines(baselines, source, config)
    if (existing := finished_by_main(output, manifest)) is not None:
        return existing
    _check_models(models, model_manifests, config)
    tables = SplitTables(preferences)
    data = read_data(tables, source, config)
    catalogue = read_catalogue_data(tables, source, config)
    audit = _audit(tables, source, data, config)
    warnings = _check_audit(audit, config)
    beside, beside_warnings = rows_beside(models, catalogue, tables, config)
    warnings += beside_warnings
    with resumable_output(output, manifest, checkpoints_config) as (folder, kept):
        pq.write_table(data.table, folder / "rows.parquet", compression="zstd")
        write_items(folder, data.items)
        everything = catalogue or _whole_catalogue(data, tables, source, config)
        evaluation = EvaluatedModels(data, beside, everything, config, folder, kept)
        evaluation.rank_baselines(tables, baselines)
        evaluation.rank_models(models)
        evaluation.costs.write(folder)
        comparisons = _write_comparisons(folder, evaluation, beside, [*models], config)
        _state_beside(data, beside)
        results = evaluation.results
        provenance = _provenance(model_manifests)
        warnings += _result_warnings(results, evaluation.cut_items)
        warnings += rule_warnings(provenance)
        # Ratios are defined for every model; only the intervals of a single user are None.
        manifest.counts = _counts(results, [*models])  # type: ignore[assignment]
        manifest.extra = {
            "protocol": data.protocol,
            "audit": audit,
            "models": provenance,
            "weights": delivered_rules(provenance),
            "cut_items": evaluation.cut_items,
            "generators": evaluation.generators,
            "warnings": warnings,
        }
        _write_page(folder, results, comparisons, manifest)
    return manifest


def _evaluated_by_workers(
    preferences: Path,
    models: Mapping[str, Path],
    output: Path,
    config: EvaluationConfig,
    checkpoints_config: CheckpointConfig | None,
    baselines: Path | None,
) -> Manifest | None:
    """The manifest of several processes' work; None where this one does it."""
    check_joined("evaluate")
    # Baselines alone are the work of one process.
    if not models:
        return None
    paths = {"preferences": preferences, "output": output, "baselines": baselines}
    named = {name: str(folder) for name, folder in models.items()}
    values = {"model": named, **checkpoint_values(checkpoints_config)}
    return done_by_workers("evaluate", paths, config, values)


def _whole_catalogue(
    data: EvaluationData, tables: SplitTables, source: Manifest, config: EvaluationConfig
) -> EvaluationData | None:
    """The rows that rank every item, where what is served is looked for among all."""
    if data.codes is None:
        return data
    if config.generator == NO_GENERATOR:
        return None
    return read_all_items(tables, source, config)


def _state_beside(data: EvaluationData, beside: EvaluationData | None) -> None:
    """Add to the protocol of some rows that of what they rank beside."""
    if beside is None:
        return
    if beside.kind == CATALOGUE:
        data.protocol["catalogue"] = beside.protocol
    else:
        data.protocol["proposed"] = beside.protocol


def _manifest(
    source: Manifest, model_manifests: Mapping[str, Manifest], config: EvaluationConfig
) -> Manifest:
    inputs = {
        "preferences": source.fingerprint,
        "models": " ".join(model_manifests),
    }
    for name, manifest in model_manifests.items():
        inputs[f"model {name}"] = manifest.fingerprint
    settings = config_dict(config)
    return Manifest("evaluate", settings, inputs)


def _checked_baselines(folder: Path, source: Manifest, config: EvaluationConfig) -> str:
    """The fingerprint of an evaluation, whose SASRec is the one that would be trained here."""
    manifest = read_input(folder, "evaluate")
    if manifest.inputs.get("preferences") != source.fingerprint:
        raise DataError(
            f"{folder}: baselines must be those of the same rows, but they were trained on others. "
            "Evaluate the baselines on these rows, or leave them out."
        )
    seed = manifest.config.get("seed")
    if seed != config.seed:
        raise ConfigError(
            f"seed: must be that of the baselines, {seed!r}, got {config.seed}. Take the same, or "
            f"leave {folder} out."
        )
    return manifest.fingerprint


def _check_models(
    models: Mapping[str, Path],
    model_manifests: Mapping[str, Manifest],
    config: EvaluationConfig,
) -> None:
    for name, manifest in model_manifests.items():
        if "kind" not in manifest.extra:
            raise DataError(
                f"{models[name]}: must be a model folder, but it comes from {manifest.stage}. "
                f"Correct {name}."
            )
        if config.candidates != "listed" and manifest.extra["prompts"]["list_candidates"]:
            raise ConfigError(
                f"candidates: {config.candidates!r} needs prompts without candidates, but those of "
                f"{name} list some, the right one among them. Rank the listed ones, or train "
                "without list_candidates."
            )


def _audit(
    tables: SplitTables, source: Manifest, data: EvaluationData, config: EvaluationConfig
) -> SplitAudit | SkippedAudit:
    """Measure what a lookup that ignores the history gains from the lists."""
    if data.codes is None:
        return {"skipped": "every item is ranked, so there are no lists"}
    exclude = effective_exclusion(source.config)
    items = data.items
    split = config.split
    return audit_split(tables, split, items, exclude, config.seed)


def _check_audit(audit: SplitAudit | SkippedAudit, config: EvaluationConfig) -> list[str]:
    """Refuse lists that leak; the warnings, where that is allowed."""
    # Without lists there is nothing to leak, and no warning that the audit was skipped.
    if config.candidates == "catalogue":
        return []
    where = f"{config.split} split"
    return check_audit(audit, where, config.allow_leak)


def _write_comparisons(
    folder: Path,
    evaluation: EvaluatedModels,
    beside: EvaluationData | None,
    models: Sequence[str],
    config: EvaluationConfig,
) -> list[PairedComparison]:
    """Write the paired differences; those of lists are returned."""
    resamples = config.resamples
    seed = config.seed
    comparisons = paired_comparisons(evaluation.results, models, resamples, seed)
    write_json(folder / "comparisons.json", comparisons)
    if beside is not None:
        results = evaluation.beside_results
        differences = beside_comparisons(results, models, beside.kind, resamples, seed)
        write_json(folder / comparisons_file(beside.kind), differences)
    return comparisons


def _counts(results: Mapping[str, ModelResult], models: Sequence[str]) -> dict[str, float | None]:
    """The metrics of the one model, or of all models and baselines with their names."""
    if len(models) == 1:
        (model,) = models
        return results[model].metrics
    counts = {}
    for name, result in results.items():
        for metric, value in result.metrics.items():
            full_name = f"{name}_{metric}"
            counts[full_name] = value
    return counts


def _provenance(model_manifests: Mapping[str, Manifest]) -> dict[str, ModelProvenance]:
    """The origin of each model, which comparisons show."""
    provenance: dict[str, ModelProvenance] = {}
    for name, manifest in model_manifests.items():
        counts = manifest.counts
        # Fewer than the configuration asks for, where there were no more.
        rows = {count: counts[count] for count in _ROWS if count in counts}
        provenance[name] = {
            "fingerprint": manifest.fingerprint,
            "stage": manifest.stage,
            "config": manifest.config,
            "inputs": manifest.inputs,
            "backbone": manifest.extra["base"]["backbone"],
            "rows": rows,
        }
    return provenance


def _result_warnings(results: Mapping[str, ModelResult], cut_items: Mapping[str, int]) -> list[str]:
    """Warn of NaN scores, of histories that were cut, and of a single user."""
    warnings = []
    for name, result in results.items():
        num_nan = result.metric("nan_scores")
        if num_nan:
            num_scores = int(result.num_candidates.sum())
            warnings.append(f"{num_nan} of {num_scores} scores of {name} are NaN; they rank worst.")
        num_unknown = int((~result.is_scored).sum())
        if num_unknown:
            warnings.append(
                f"{name} does not know the next item of {num_unknown:,} rows; there it ranks last."
            )
        num_cut = cut_items.get(name)
        if num_cut:
            warnings.append(
                f"Prompts of {name} were too long: {num_cut} history items, the oldest, were cut."
            )
    if any(result.metric("users") == 1 for result in results.values()):
        warnings.append("All rows are of one user: intervals are not available.")
    for text in warnings:
        log.warning("evaluation: %s", text)
    return warnings


def _write_page(
    folder: Path,
    results: Mapping[str, ModelResult],
    comparisons: Sequence[PairedComparison],
    manifest: Manifest,
) -> None:
    warnings: list[str] = manifest.extra["warnings"]
    details: JsonObject = {
        **manifest.extra,
        "warnings": len(warnings),
        "configuration": manifest.config,
        "inputs": manifest.inputs,
    }
    metrics = {name: result.metrics for name, result in results.items()}
    rank_counts = {name: result.rank_counts() for name, result in results.items()}
    page = evaluation_page(metrics, rank_counts, comparisons, details, warnings)
    (folder / "report.html").write_text(page, encoding="utf-8")
