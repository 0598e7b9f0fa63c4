"""Evaluation: models and baselines rank the candidates of the same held-out rows."""

import gc
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from dynamicpo import keyed, pages
from dynamicpo.baselines import baseline_scores
from dynamicpo.config import EvaluationConfig
from dynamicpo.errors import ConfigError, DataError
from dynamicpo.evaluation.candidates import Scored, score_candidates
from dynamicpo.modeling import Loaded, load_base_of, load_model
from dynamicpo.records import (
    Manifest,
    canonical,
    config_dict,
    fingerprint,
    finished,
    read_items,
    read_manifest,
    read_rows,
    stage_output,
    write_items,
    write_json,
)
from dynamicpo.results import BASELINES, Result, Rows, make_result, paired, write_result

log = logging.getLogger(__name__)

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FILES = ("comparisons.json", "items.parquet", "manifest.json", "report.html", "rows.parquet", "run.json")
_COLUMNS = ("example_id", "user_id", "history", "target", "candidates")
_LEAKING = {
    "published": "The published candidate lists give the answer away to whoever knows the lists of other rows.",
    "hard": "Hard negatives are the target's own neighbours, so a list points at its target even without a history.",
}


class _Data(NamedTuple):
    """The rows to evaluate, and what baselines and metrics need besides.

    Attributes:
        table: The rows' columns.
        rows: Their keys and targets.
        items: The items table.
        codes: Each candidate's place in it. Shape (N, A).
    """

    table: pa.Table
    rows: Rows
    items: pd.DataFrame
    codes: NDArray[np.int64]


def evaluate(preferences: Path, models: Mapping[str, Path], output: Path, config: EvaluationConfig) -> Manifest:
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
    _check_names(models, config)
    source = read_manifest(preferences, "sample_negatives")
    known = {name: read_manifest(folder) for name, folder in models.items()}
    inputs = {"preferences": source.fingerprint, "models": " ".join(models)}
    inputs |= {f"model {name}": manifest.fingerprint for name, manifest in known.items()}
    manifest = Manifest("evaluate", config_dict(config), inputs)
    if (existing := finished(output, manifest)) is not None:
        return existing
    for name, facts in known.items():
        if "kind" not in facts.extra:
            raise DataError(f"{models[name]}: must be a model folder, but it comes from {facts.stage}. Correct {name}.")
    data = _read(preferences, config)
    with stage_output(output, manifest) as folder:
        pq.write_table(data.table, folder / "rows.parquet", compression="zstd")
        write_items(folder, data.items)
        results, cut = _evaluate_all(preferences, models, folder, data, config)
        comparisons = paired(results, [*models], config.resamples, config.seed)
        write_json(folder / "comparisons.json", comparisons)
        manifest.counts = _counts(results, [*models])
        manifest.extra = {"protocol": _protocol(source, data, config), "models": _facts(known), "cut_items": cut}
        warnings = _warnings(manifest, results)
        page = pages.evaluation_page(
            {name: result.metrics for name, result in results.items()},  # type: ignore[misc]
            {name: result.rank_counts() for name, result in results.items()},
            comparisons,
            {**manifest.extra, "configuration": manifest.config, "inputs": inputs},
            warnings,
        )
        (folder / "report.html").write_text(page, encoding="utf-8")
    return manifest


def _check_names(models: Mapping[str, Path], config: EvaluationConfig) -> None:
    """Refuse, all at once, names that can't be folders of an evaluation, and a base without a model."""
    taken = {*BASELINES, *_FILES}
    problems = []
    for place, name in enumerate(models):
        if not _PLAIN.fullmatch(name):
            must = "must be up to 64 letters, digits, '.', '_' or '-' and start with a letter or digit"
            problems.append(f"model name: {must}, got {name!r}. Rename it.")
        elif name.casefold() in taken:
            problems.append(f"model name: must not be one of {', '.join(sorted(taken))}, got {name!r}. Rename it.")
        elif name.casefold() in [other.casefold() for other in [*models][:place]]:
            problems.append(f"model name: must differ from the others in more than case, got {name!r}. Rename it.")
    if config.base and not models:
        problems.append("base: needs a model whose base it is, got none. Name a model, or leave base out.")
    if problems:
        raise ConfigError("\n".join(problems))


def _read(preferences: Path, config: EvaluationConfig) -> _Data:
    """The rows of the configuration: all of the split, or some chosen by key."""
    table, items, where = read_rows(preferences, config.split), read_items(preferences), preferences / config.split
    order = keyed.ranking(config.seed, f"evaluation/{config.split}", table["example_id"].to_pylist())
    if not len(order):
        raise DataError(f"{where}: must hold at least one row, got none. Evaluate another split.")
    if config.rows > len(order):
        raise ConfigError(f"rows: must be <= {len(order)}, the rows of the {config.split} split, got {config.rows}.")
    table = table.select(list(_COLUMNS)).take(pa.array(np.sort(order[: config.rows or len(order)]))).combine_chunks()
    listed: list[list[str]] = table["candidates"].to_pylist()
    names, targets = table["example_id"].to_pylist(), table["target"].to_pylist()
    for name, target, candidates in zip(names, targets, listed, strict=True):
        if len(candidates) != len(listed[0]) or candidates.count(target) != 1:
            raise DataError(
                f"{where}: row {name} must list its target {target!r} once among {len(listed[0])} candidates, got "
                f"{candidates.count(target)} times among {len(candidates)}. Sample negatives again."
            )
    places = [candidates.index(target) for candidates, target in zip(listed, targets, strict=True)]
    rows = Rows(config.split, names, table["user_id"].to_pylist(), np.array(places, dtype=np.int64))
    codes = pd.Index(items["item_id"]).get_indexer(pd.Index([item for candidates in listed for item in candidates]))
    return _Data(table, rows, items, np.asarray(codes, dtype=np.int64).reshape(len(listed), -1))


def _evaluate_all(
    preferences: Path, models: Mapping[str, Path], folder: Path, data: _Data, config: EvaluationConfig
) -> tuple[dict[str, Result], dict[str, int]]:
    """Results of baselines and models, written as they are made, and the history items cut by each model."""
    results: dict[str, Result] = {}
    cut: dict[str, int] = {}
    popularity = data.items["popularity"].to_numpy(np.int64)

    def keep(name: str, scored: Scored) -> None:
        results[name] = make_result(
            data.rows, scored.scores, (data.codes, popularity), config.resamples, config.seed, scored.answers
        )
        write_result(folder / name, results[name], scored.answers)

    train = read_rows(preferences, "train")
    for name in BASELINES[:-1]:
        keep(name, Scored(baseline_scores(name, data.table, data.items, train), None, 0))
    if config.base:
        keep("base", _scored(load_base_of(next(iter(models.values()))), data, config, "base"))
    for name, path in models.items():
        scored = _scored(load_model(path), data, config, name)
        keep(name, scored)
        cut[name] = scored.cut_items
        if (path / "steps.jsonl").is_file():
            shutil.copyfile(path / "steps.jsonl", folder / name / "steps.jsonl")
    return results, cut


def _scored(loaded: Loaded, data: _Data, config: EvaluationConfig, name: str) -> Scored:
    scored = score_candidates(loaded, data.table, data.items, config, name)
    del loaded
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return scored


def _counts(results: Mapping[str, Result], models: list[str]) -> dict[str, Any]:
    if len(models) == 1:
        return dict(results[models[0]].metrics)
    return {f"{name}_{metric}": value for name, result in results.items() for metric, value in result.metrics.items()}


def _protocol(source: Manifest, data: _Data, config: EvaluationConfig) -> dict[str, Any]:
    """What must be equal for numbers to be comparable."""
    sampled: Mapping[str, Any] = source.extra.get("protocol", {})
    names = ("example_id", "history", "target", "candidates")
    return {
        "split": config.split,
        "score": config.score,
        **{name: sampled.get(name, "unknown") for name in ("strategy", "exclude")},
        "num_candidates": data.codes.shape[1],
        "num_rows": len(data.table),
        "rows": fingerprint([canonical(data.table[name].to_pylist()) for name in names]),
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
    warnings = [text for strategy, text in _LEAKING.items() if manifest.extra["protocol"]["strategy"] == strategy]
    for name, result in results.items():
        split = result.rows.split
        if number := result.metrics[f"{split}_nan_scores"]:
            warnings.append(f"{number} of {result.scores.size} scores of {name} are NaN; they rank worst.")
        if cut := manifest.extra["cut_items"].get(name):
            warnings.append(f"Prompts of {name} were too long: {cut} history items, the oldest, were cut.")
    if any(result.metrics[f"{result.rows.split}_users"] == 1 for result in results.values()):
        warnings.append("All rows are of one user: intervals are not available.")
    for text in warnings:
        log.warning("evaluation: %s", text)
    return warnings
