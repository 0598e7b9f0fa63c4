"""Evaluations side by side: only those of the same rows and the same protocol."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from dynamicpo.core.choices import BASELINES
from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonObject, JsonValue
from dynamicpo.core.records.manifest import Manifest, fingerprint, write_json
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.evaluation.delivered import delivered_rule, delivered_rules, rule_warnings
from dynamicpo.evaluation.paired_comparisons import beside_comparisons, paired_comparisons
from dynamicpo.evaluation.result_files import comparisons_file
from dynamicpo.evaluation.row_examples import example_rows
from dynamicpo.evaluation.saved import (
    SavedResult,
    evaluated_models,
    kind_beside,
    read_saved_result,
    read_sources,
    warnings_of,
)
from dynamicpo.evaluation.scorecard import scorecard
from dynamicpo.evaluation.user_examples import user_examples
from dynamicpo.reports.pages.comparisons import PairedComparison
from dynamicpo.reports.pages.evaluation import EvaluationReport, comparison_page
from dynamicpo.reports.pages.layout import weights_text
from dynamicpo.reports.pages.metric_tables import metrics_table
from dynamicpo.reports.pages.tables import escape_markdown, markdown_table

# Baselines, then SFT, then the others as they came.
_FIRST_NAMES = (*BASELINES, "sft")


class BootstrapSettings(TypedDict):
    """Settings of the paired bootstrap, those of the first evaluation."""

    resamples: int
    seed: int


class ComparedResults(NamedTuple):
    """All models and baselines of several evaluations.

    Attributes:
        by_name: By names that are all different.
        paired_runs: Different models that were given the same name: the later one of two runs, then
            the earlier.
    """

    by_name: dict[str, SavedResult]
    paired_runs: list[tuple[str, str]]


def compare_evaluations(
    folders: Mapping[str, Path | Sequence[Path]] | Sequence[Path],
    output: Path,
    runs: Mapping[str, Mapping[str, JsonValue]] | None = None,
) -> Manifest:
    """Compare all models of several evaluations, row by row.

    Args:
        folders: Outputs of `evaluate`; with names (a run's name for all that it made), these tell
            models of one name apart.
        output: Folder to make: `comparison.json`, `table.md`, `report.html`; and
            `catalogue_comparisons.json` where every item was ranked beside the listed ones, or
            `proposed_comparisons.json` where a generator's proposals were.
        runs: Details of each run: parameters, image, commit, ... Shown where they differ.

    Returns:
        The manifest; `counts` holds each model's metrics as `NAME_metric`, and `extra` the
        scorecard.

    Raises:
        DataError: No evaluation, an unfinished one, or evaluations of different rows or protocols.
    """
    labelled = _labelled(folders)
    if not labelled:
        raise DataError(
            "comparison: needs at least one evaluation, got none. Name the folders of evaluations."
        )
    runs = runs or {}
    paths = [path for _, path in labelled]
    sources = read_sources(paths, "comparison")
    protocol = sources[0].extra["protocol"]
    config = sources[0].config
    settings: BootstrapSettings = {
        "resamples": config["resamples"],
        "seed": config["seed"],
    }
    manifest = _manifest(labelled, sources, settings, runs)
    if (existing := finished(output, manifest)) is not None:
        return existing
    with stage_output(output, manifest) as folder:
        results = _collect(labelled, sources)
        # All evaluations are of the same rows, so the first one's show them.
        report = _report(results, paths[0], sources, settings, runs)
        _write_files(folder, report, protocol, [*runs])
        kind = kind_beside(protocol)
        if kind is not None:
            write_json(folder / comparisons_file(kind), report.beside_comparisons)
        manifest.counts = _counts(report)  # type: ignore[assignment]  # None: no interval
        warnings = list(report.warnings)
        manifest.extra = {
            "protocol": protocol,
            "warnings": warnings,
            "scorecard": scorecard(report.metrics, report.comparisons),
        }
    return manifest


def _labelled(
    folders: Mapping[str, Path | Sequence[Path]] | Sequence[Path],
) -> list[tuple[str, Path]]:
    """Give every folder the name of its run, or its own."""
    if not isinstance(folders, Mapping):
        return [(path.name, path) for path in folders]
    labelled = []
    for name, paths in folders.items():
        if isinstance(paths, Path):
            paths = [paths]
        for path in paths:
            labelled.append((name, path))
    return labelled


def _manifest(
    labelled: Sequence[tuple[str, Path]],
    sources: Sequence[Manifest],
    settings: BootstrapSettings,
    runs: Mapping[str, Mapping[str, JsonValue]],
) -> Manifest:
    inputs = {}
    for number, source in enumerate(sources):
        label, _ = labelled[number]
        # Numbered, as two evaluations of one run have the same label.
        name = f"{number} {label}"
        inputs[name] = source.fingerprint
    if runs:
        inputs["runs"] = fingerprint(runs)
    return Manifest("compare_evaluations", dict(settings), inputs)


def _collect(labelled: Sequence[tuple[str, Path]], sources: Sequence[Manifest]) -> ComparedResults:
    """Collect every model once; different models of one name get their run's name in front."""
    by_name: dict[str, SavedResult] = {}
    paired_runs: list[tuple[str, str]] = []
    for name, namesakes in _namesakes(labelled, sources).items():
        unique_names = []
        for label, saved in namesakes:
            unique = name
            if len(namesakes) > 1:
                unique = f"{label}/{name}"
            # Two evaluations of one run: the label is no help.
            if unique in by_name:
                unique = f"{unique} {len(by_name)}"
            by_name[unique] = saved
            unique_names.append(unique)
        if name not in BASELINES:
            earliest, *others = unique_names
            paired_runs += [(later, earliest) for later in others]
    return ComparedResults(_ordered(by_name), paired_runs)


def _namesakes(
    labelled: Sequence[tuple[str, Path]], sources: Sequence[Manifest]
) -> dict[str, list[tuple[str, SavedResult]]]:
    """All different models and baselines of each name, with the labels of their evaluations."""
    namesakes: dict[str, list[tuple[str, SavedResult]]] = {}
    for (label, path), source in zip(labelled, sources, strict=True):
        for name in (*BASELINES, *evaluated_models(source)):
            folder = path / name
            # An evaluation need not have all baselines.
            if not folder.is_dir():
                continue
            saved = read_saved_result(folder, source)
            others = namesakes.setdefault(name, [])
            if not any(_is_same_model(saved, other) for _, other in others):
                others.append((label, saved))
    return namesakes


def _is_same_model(one: SavedResult, other: SavedResult) -> bool:
    """Compare models by their fingerprints, and baselines, which have none, by their scores."""
    provenance = one.provenance
    other_provenance = other.provenance
    if provenance or other_provenance:
        fingerprint_of_one = provenance.get("fingerprint")
        return fingerprint_of_one == other_provenance.get("fingerprint")
    scores = one.result.scores
    other_scores = other.result.scores
    # As bytes: NaN differs from itself.
    return scores.tobytes() == other_scores.tobytes()


def _ordered(by_name: Mapping[str, SavedResult]) -> dict[str, SavedResult]:
    ordered = {}
    for name in _FIRST_NAMES:
        if name in by_name:
            ordered[name] = by_name[name]
    # Those that are there already stay where they are.
    ordered.update(by_name)
    return ordered


def _report(
    compared: ComparedResults,
    rows_folder: Path,
    sources: Sequence[Manifest],
    settings: BootstrapSettings,
    runs: Mapping[str, Mapping[str, JsonValue]],
) -> EvaluationReport:
    by_name, paired_runs = compared
    protocol = sources[0].extra["protocol"]
    results = {name: saved.result for name, saved in by_name.items()}
    logs = {name: saved.training_log for name, saved in by_name.items()}
    provenance = {name: saved.provenance for name, saved in by_name.items() if saved.provenance}
    # Baselines have no provenance: they are compared with, but not against each other.
    models = list(provenance)
    resamples = settings["resamples"]
    seed = settings["seed"]
    details: JsonObject = {
        "protocol": protocol,
        "resamples": resamples,
        "seed": seed,
        "models": provenance,  # type: ignore[dict-item]  # a TypedDict is no Mapping of values
        "weights": delivered_rules(provenance),
    }
    if runs:
        details["runs"] = runs
    metrics = {name: result.metrics for name, result in results.items()}
    rank_counts = {name: result.rank_counts() for name, result in results.items()}
    model_settings = {name: _model_settings(by_name[name]) for name in models}
    comparisons = paired_comparisons(results, models, resamples, seed, paired_runs)
    examples = example_rows(results, models, paired_runs, rows_folder)
    training_logs = {name: log for name, log in logs.items() if log}
    beside = _beside(compared, kind_beside(protocol), settings)
    users = user_examples(by_name, rows_folder)
    found = [*warnings_of(sources), *rule_warnings(provenance)]
    # Each once: an evaluation of several models has found it, too.
    warnings = [*dict.fromkeys(found)]
    return EvaluationReport(
        metrics=metrics,
        ranks=rank_counts,
        comparisons=comparisons,
        beside_comparisons=beside,
        training=training_logs,
        examples=examples,
        users=users,
        differences=_differences(model_settings),
        runs=_differences(runs),
        details=details,
        warnings=warnings,
    )


def _beside(
    compared: ComparedResults, kind: str | None, settings: BootstrapSettings
) -> list[PairedComparison]:
    """Paired differences of rankings of some kind beside those of lists."""
    if kind is None:
        return []
    by_name, paired_runs = compared
    results = {}
    models = []
    for name, saved in by_name.items():
        if saved.beside is not None:
            results[name] = saved.beside
        if saved.provenance:
            models.append(name)
    resamples = settings["resamples"]
    seed = settings["seed"]
    return beside_comparisons(results, models, kind, resamples, seed, paired_runs)


def _model_settings(saved: SavedResult) -> JsonObject:
    """The settings and inputs that determine a model, one value for each name."""
    provenance = saved.provenance
    settings: JsonObject = {
        "backbone": provenance["backbone"],
        "stage": provenance["stage"],
        **provenance["config"],
        # Models of earlier versions do not say it.
        "deliver": delivered_rule(provenance),
    }
    for role, checksum in provenance["inputs"].items():
        settings[f"input {role}"] = checksum
    return settings


def _differences(
    settings: Mapping[str, Mapping[str, JsonValue]],
) -> dict[str, dict[str, JsonValue]]:
    """Settings that differ between models or runs: for each its value in each of them."""
    values_by_key: dict[str, dict[str, JsonValue]] = {}
    for name, values in settings.items():
        for key, value in values.items():
            by_name = values_by_key.setdefault(key, {})
            by_name[name] = value
    differences = {}
    for key, by_name in values_by_key.items():
        all_values = [by_name.get(name) for name in settings]
        # As texts, because lists and mappings can't be members of a set.
        texts = {json.dumps(value, sort_keys=True) for value in all_values}
        if len(texts) > 1:
            differences[key] = by_name
    return differences


def _write_files(
    folder: Path, report: EvaluationReport, protocol: JsonObject, run_names: list[str]
) -> None:
    comparison = {
        "protocol": protocol,
        "models": [*report.metrics],
        "run_names": run_names,
        "metrics": report.metrics,
        "comparisons": report.comparisons,
        "differences": report.differences,
        "runs": report.runs,
    }
    write_json(folder / "comparison.json", comparison)
    # In bold above the table, so that nobody copies the numbers without them.
    warnings = "".join(f"**{line}**\n\n" for line in report.warnings)
    table = markdown_table(metrics_table(report.metrics))
    weights = escape_markdown(weights_text(report.details))
    (folder / "table.md").write_text(f"{warnings}{table}\n{weights}\n", encoding="utf-8")
    (folder / "report.html").write_text(comparison_page(report), encoding="utf-8")


def _counts(report: EvaluationReport) -> dict[str, float | None]:
    counts = {}
    for name, metrics in report.metrics.items():
        for metric, value in metrics.items():
            full_name = f"{name}_{metric}"
            counts[full_name] = value
    return counts
