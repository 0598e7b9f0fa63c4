"""Evaluation: models and baselines rank the candidates of the same held-out rows."""

import gc
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from dynamicpo.core import stage_subjects
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.model_names import check_model_names
from dynamicpo.core.records.manifest import Manifest, config_dict, read_input, write_json
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.rows import write_items
from dynamicpo.evaluation.baselines.sasrec import fit_sasrec
from dynamicpo.evaluation.baselines.simple import (
    SIMPLE_BASELINES,
    Scorer,
    make_baseline,
    score_blocks,
)
from dynamicpo.evaluation.candidates import ModelRanking, rank_with_model
from dynamicpo.evaluation.paired_comparisons import catalogue_comparisons, paired_comparisons
from dynamicpo.evaluation.rankings import Ranking
from dynamicpo.evaluation.result_files import (
    CATALOGUE_COMPARISONS,
    CATALOGUE_FOLDER,
    write_result,
)
from dynamicpo.evaluation.results import GeneratedAnswers, ModelResult, RankedItems, make_result
from dynamicpo.evaluation.rows import (
    EvaluationData,
    SplitTables,
    read_catalogue_data,
    read_data,
)
from dynamicpo.evaluation.saved import ModelProvenance
from dynamicpo.models.backbones import permissions_of
from dynamicpo.models.checkpoints import LoadedModel, load_base_of, load_model
from dynamicpo.negatives.audit.leak_check import (
    SkippedAudit,
    SplitAudit,
    audit_split,
    check_audit,
)
from dynamicpo.negatives.exclusions import effective_exclusion
from dynamicpo.reports.pages.comparisons import PairedComparison
from dynamicpo.reports.pages.evaluation import evaluation_page

log = logging.getLogger(__name__)

# Of a training's counts.
_ROWS = ("rows", "rows_shared_with_sft")


def evaluate(
    preferences: Path, models: Mapping[str, Path], output: Path, config: EvaluationConfig
) -> Manifest:
    """Rank the candidates of each row with every model and with the baselines.

    Args:
        preferences: Output of negative sampling.
        models: Model folders by name; none for the baselines alone. The others are compared with
            the first.
        output: Folder to make: `NAME/metrics.json` and `NAME/ranks.parquet`, `comparisons.json`,
            `report.html`; the same files under `NAME/catalogue` and `catalogue_comparisons.json`
            where every item is ranked beside the listed ones.
        config: Split, score, rows.

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
    source = read_input(preferences, "sample_negatives")
    model_manifests = {name: read_input(folder) for name, folder in models.items()}
    manifest = _manifest(source, model_manifests, config)
    if (existing := finished(output, manifest)) is not None:
        return existing
    _check_models(models, model_manifests, config)
    tables = SplitTables(preferences)
    data = read_data(tables, source, config)
    catalogue = read_catalogue_data(tables, source, config)
    audit = _audit(tables, source, data, config)
    warnings = _check_audit(audit, config)
    with stage_output(output, manifest) as folder:
        pq.write_table(data.table, folder / "rows.parquet", compression="zstd")
        write_items(folder, data.items)
        evaluation = _Evaluation(data, catalogue, config, folder)
        evaluation.rank_baselines(tables)
        evaluation.rank_models(models)
        results = evaluation.results
        comparisons = paired_comparisons(results, [*models], config.resamples, config.seed)
        write_json(folder / "comparisons.json", comparisons)
        if catalogue is not None:
            over_catalogue = catalogue_comparisons(
                evaluation.catalogue_results, [*models], config.resamples, config.seed
            )
            write_json(folder / CATALOGUE_COMPARISONS, over_catalogue)
            data.protocol["catalogue"] = catalogue.protocol
        warnings += _result_warnings(results, evaluation.cut_items)
        # Ratios are defined for every model; only the intervals of a single user are None.
        manifest.counts = _counts(results, [*models])  # type: ignore[assignment]
        manifest.extra = {
            "protocol": data.protocol,
            "audit": audit,
            "models": _provenance(model_manifests),
            "cut_items": evaluation.cut_items,
            "warnings": warnings,
        }
        _write_page(folder, results, comparisons, manifest)
    return manifest


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


class _Evaluation:
    """Results of baselines and models, each written as soon as it is there.

    Attributes:
        results: By name.
        catalogue_results: The same, where every item is ranked beside the listed ones.
        cut_items: The history items that each model's prompts had no room for.
    """

    def __init__(
        self,
        data: EvaluationData,
        catalogue: EvaluationData | None,
        config: EvaluationConfig,
        folder: Path,
    ) -> None:
        self.results: dict[str, ModelResult] = {}
        self.catalogue_results: dict[str, ModelResult] = {}
        self.cut_items: dict[str, int] = {}
        self._data = data
        self._catalogue = catalogue
        self._config = config
        self._folder = folder
        items = data.items
        self._items = RankedItems(
            item_ids=items["item_id"].tolist(),
            popularity=items["popularity"].to_numpy(np.int64),
        )

    def rank_baselines(self, tables: SplitTables) -> None:
        """Rank with the baselines that learn from the training rows."""
        data = self._data
        config = self._config
        items = data.items
        train = tables["train"]
        scorers: dict[str, Scorer] = {}
        # All are made before any ranks: an unknown item is an error at once.
        for name in SIMPLE_BASELINES:
            scorers[name] = make_baseline(name, items, train, data.has_repeats)
        if config.sasrec:
            scorers["sasrec"] = fit_sasrec(items, train, config.seed)
        for name, scorer in scorers.items():
            blocks = score_blocks(scorer, data.table, len(items))
            ranking = data.ranking(blocks)
            if self._catalogue is not None:
                # Scored again: the scores of every item for all rows are too many to keep.
                blocks = score_blocks(scorer, data.table, len(items))
                self._add_catalogue(name, self._catalogue.ranking(blocks))
            self._add(name, ranking)

    def rank_models(self, models: Mapping[str, Path]) -> None:
        """Rank with the models, and with the base of the first where the settings say so."""
        permissions = permissions_of(self._config)
        if self._config.base:
            first, *_ = models.values()
            ranking, answers, _ = self._rank(load_base_of(first, permissions), "base")
            self._add("base", ranking, answers)
        for name, path in models.items():
            ranking, answers, num_cut = self._rank(load_model(path, permissions), name)
            self.cut_items[name] = num_cut
            self._add(name, ranking, answers)
            self._copy_training_log(name, path)

    def _copy_training_log(self, name: str, model: Path) -> None:
        """Keep how a model was trained: comparisons show it, and read evaluations alone."""
        training_log = model / "steps.jsonl"
        if training_log.is_file():
            folder = self._folder / name
            copy = folder / "steps.jsonl"
            shutil.copyfile(training_log, copy)

    def _rank(self, loaded: LoadedModel, name: str) -> ModelRanking:
        ranked = rank_with_model(loaded, self._data, self._config, name)
        if self._catalogue is not None:
            beside = rank_with_model(loaded, self._catalogue, self._config, name)
            self._add_catalogue(name, beside.ranking)
        # Models are large: one at a time, also in the cache of the GPU's memory.
        del loaded
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return ranked

    def _add(self, name: str, ranking: Ranking, answers: GeneratedAnswers | None = None) -> None:
        config = self._config
        result = make_result(
            self._data.rows,
            ranking,
            self._items,
            config.resamples,
            config.seed,
            answers,
        )
        if name in self.catalogue_results:
            result = result.with_catalogue(self.catalogue_results[name])
        write_result(self._folder / name, result, answers)
        self.results[name] = result

    def _add_catalogue(self, name: str, ranking: Ranking) -> None:
        assert self._catalogue is not None
        config = self._config
        rows = self._catalogue.rows
        result = make_result(rows, ranking, self._items, config.resamples, config.seed)
        write_result(self._folder / name / CATALOGUE_FOLDER, result)
        self.catalogue_results[name] = result


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
        provenance[name] = {
            "fingerprint": manifest.fingerprint,
            "stage": manifest.stage,
            "config": manifest.config,
            "inputs": manifest.inputs,
            "backbone": manifest.extra["base"]["backbone"],
            # Fewer than the configuration asks for, where there were no more.
            "rows": {name: manifest.counts[name] for name in _ROWS if name in manifest.counts},
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
