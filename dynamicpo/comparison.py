"""Evaluations side by side: only those of the same rows and the same protocol."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from dynamicpo import pages
from dynamicpo.errors import DataError
from dynamicpo.records import Manifest, finished, read_items, read_manifest, stage_output, write_json
from dynamicpo.results import BASELINES, Result, paired, read_result

log = logging.getLogger(__name__)

_EXAMPLES = 5  # rows won, and as many lost, that the page shows
_FIRST = ("sft",)


class _Entry(NamedTuple):
    """A model or baseline of an evaluation: its result, training log, and how it was made (empty for a baseline)."""

    result: Result
    steps: list[dict[str, float]]
    facts: Mapping[str, Any]


def compare_evaluations(folders: Mapping[str, Path] | Sequence[Path], output: Path) -> Manifest:
    """Compare all models of several evaluations, row by row.

    Args:
        folders: Outputs of `evaluate`; with names, these tell models of one name apart.
        output: Folder to make: `comparison.json`, `table.md`, `report.html`.

    Returns:
        The manifest; `counts` holds each model's metrics as `NAME_metric`.

    Raises:
        DataError: No evaluation, an unfinished one, or evaluations of different rows or protocols.
    """
    named = [*folders.items()] if isinstance(folders, Mapping) else [(path.name, path) for path in folders]
    if not named:
        raise DataError("comparison: needs at least one evaluation, got none. Name the folders of evaluations.")
    sources = [read_manifest(path, "evaluate") for _, path in named]
    _check_protocols([str(path) for _, path in named], sources)
    settings = {name: sources[0].config[name] for name in ("resamples", "seed")}
    pairs = zip(named, sources, strict=True)
    inputs = {f"{place} {label}": source.fingerprint for place, ((label, _), source) in enumerate(pairs)}
    manifest = Manifest("compare_evaluations", settings, inputs)
    if (existing := finished(output, manifest)) is not None:
        return existing
    entries = _ordered(_collect(named, sources))
    with stage_output(output, manifest) as folder:
        warnings = list(dict.fromkeys(line for source in sources for line in source.extra["warnings"]))
        report = replace(_report(entries, named[0][1], sources[0].extra["protocol"], settings), warnings=warnings)
        facts = {name: getattr(report, name) for name in ("metrics", "comparisons", "differences")}
        write_json(folder / "comparison.json", {"protocol": sources[0].extra["protocol"], **facts})
        table = pages.markdown_table(pages.metrics_table(report.metrics))
        (folder / "table.md").write_text("".join(f"**{line}**\n\n" for line in warnings) + table, encoding="utf-8")
        (folder / "report.html").write_text(pages.comparison_page(report), encoding="utf-8")
        manifest.counts = {f"{a}_{b}": value for a, metrics in report.metrics.items() for b, value in metrics.items()}
        manifest.extra = {"protocol": sources[0].extra["protocol"], "warnings": warnings}
    return manifest


def _check_protocols(paths: Sequence[str], sources: Sequence[Manifest]) -> None:
    """Refuse numbers that must not stand side by side."""
    first = sources[0].extra["protocol"]
    for path, source in zip(paths, sources, strict=True):
        other = source.extra["protocol"]
        names = sorted(name for name in {*first, *other} if first.get(name) != other.get(name))
        if names:
            values = ", ".join(f"{name} ({first.get(name)} and {other.get(name)})" for name in names)
            raise DataError(
                f"comparison: evaluations must have the same rows and protocol, {paths[0]} and {path} differ in "
                f"{values}. Evaluate both in the same way."
            )


def _collect(named: Sequence[tuple[str, Path]], sources: Sequence[Manifest]) -> dict[str, _Entry]:
    """Every model once; different models of one name get their evaluation's name in front."""
    found: dict[str, list[tuple[str, _Entry]]] = {}
    for (label, path), source in zip(named, sources, strict=True):
        names = [*BASELINES, *source.inputs["models"].split()]
        for name in names:
            if (path / name).is_dir():
                entry, others = _read(path / name, source), found.setdefault(name, [])
                if not any(_same(entry, other) for _, other in others):
                    others.append((label, entry))
    entries: dict[str, _Entry] = {}
    for name, alike in found.items():
        for label, entry in alike:
            unique = name if len(alike) == 1 else f"{label}/{name}"
            entries[unique if unique not in entries else f"{unique} {len(entries)}"] = entry
    return entries


def _read(folder: Path, source: Manifest) -> _Entry:
    log_path = folder / "steps.jsonl"
    lines = log_path.read_text(encoding="utf-8").splitlines() if log_path.is_file() else []
    facts = source.extra["models"].get(folder.name, {})
    return _Entry(read_result(folder, source.config["split"]), [json.loads(line) for line in lines], facts)


def _same(one: _Entry, other: _Entry) -> bool:
    """The same model on the same rows: by its fingerprint, or for a baseline by its scores."""
    if one.facts or other.facts:
        return bool(one.facts.get("fingerprint") == other.facts.get("fingerprint"))
    return one.result.scores.tobytes() == other.result.scores.tobytes()


def _ordered(entries: Mapping[str, _Entry]) -> dict[str, _Entry]:
    """Baselines, then SFT, then the others as they came."""
    first = [name for name in (*BASELINES, *_FIRST) if name in entries]
    return {name: entries[name] for name in [*first, *(name for name in entries if name not in first)]}


def _report(
    entries: Mapping[str, _Entry], rows: Path, protocol: Mapping[str, Any], settings: Mapping[str, int]
) -> pages.Report:
    results = {name: entry.result for name, entry in entries.items()}
    models = [name for name, entry in entries.items() if entry.facts]
    comparisons = paired(results, models, settings["resamples"], settings["seed"])
    return pages.Report(
        metrics={name: result.metrics for name, result in results.items()},  # type: ignore[misc]
        ranks={name: result.rank_counts() for name, result in results.items()},
        comparisons=comparisons,
        training={name: entry.steps for name, entry in entries.items() if entry.steps},
        examples=_examples(results, models, rows),
        differences=_differences(entries, models),
        facts={"protocol": protocol, **settings, "models": {name: entries[name].facts for name in models}},
    )


def _differences(entries: Mapping[str, _Entry], models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings and inputs in which the models differ: for each its value in each of them."""
    flat = {
        name: {
            "backbone": entries[name].facts["backbone"],
            "stage": entries[name].facts["stage"],
            **entries[name].facts["config"],
            **{f"input {role}": mark for role, mark in entries[name].facts["inputs"].items()},
        }
        for name in models
    }
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    return {
        key: {name: values[key] for name, values in flat.items() if key in values}
        for key in keys
        if len({json.dumps(values.get(key)) for values in flat.values()}) > 1
    }


def _examples(results: Mapping[str, Result], models: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """The rows that the best model wins and loses by most against SFT, or else against the first model."""
    if len(models) < 2:
        return []
    b = _FIRST[0] if _FIRST[0] in models else models[0]
    key = next(name for name in results[b].metrics if name.endswith("_hit_ratio_at_1"))
    a = max((name for name in models if name != b), key=lambda name: results[name].metrics[key] or 0)
    table = pq.read_table(folder / "rows.parquet")
    items = read_items(folder)
    titles = dict(zip(items["item_id"], items["title"], strict=True))
    gain = results[b].mean_rank - results[a].mean_rank
    order = gain.argsort(kind="stable")
    lost, won = order[:_EXAMPLES], order[::-1][:_EXAMPLES]
    chosen = [("won", row) for row in won if gain[row] > 0] + [("lost", row) for row in lost if gain[row] < 0]
    examples = []
    for outcome, place in chosen:
        row = table.slice(int(place), 1).to_pylist()[0]
        tops = {side: results[name].best[place] for side, name in (("a", a), ("b", b))}
        examples.append(
            {
                "a": a,
                "b": b,
                "outcome": outcome,
                "example_id": row["example_id"],
                "history": [titles[item] for item in row["history"]],
                "target": titles[row["target"]],
                **{f"rank_{side}": float(results[name].mean_rank[place]) for side, name in (("a", a), ("b", b))},
                **{f"top_{side}": titles[item] for side, item in tops.items()},
            }
        )
    return examples
