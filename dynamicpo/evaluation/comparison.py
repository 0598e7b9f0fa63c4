"""Evaluations side by side: only those of the same rows and the same protocol."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from dynamicpo.core.choices import BASELINES
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest, fingerprint, write_json
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.rows import read_items
from dynamicpo.evaluation.results import COMPARED, Result, paired
from dynamicpo.evaluation.saved import Entry, models_of, read_entry, read_sources, warnings_of
from dynamicpo.reports.pages.evaluation import EvaluationReport, comparison_page
from dynamicpo.reports.pages.example_rows import ExampleRow, Outcome
from dynamicpo.reports.pages.metric_tables import metrics_table
from dynamicpo.reports.pages.tables import markdown_table

_EXAMPLES = 5  # rows won, and as many lost, that the page shows
_FIRST = ("sft",)


class Found(NamedTuple):
    """All models and baselines of several evaluations.

    Attributes:
        entries: By names that are all different.
        twins: Different models that were given the same name: the later one of two runs, then the earlier.
    """

    entries: dict[str, Entry]
    twins: list[tuple[str, str]]


def compare_evaluations(
    folders: Mapping[str, Path | Sequence[Path]] | Sequence[Path],
    output: Path,
    runs: Mapping[str, Mapping[str, Any]] | None = None,
) -> Manifest:
    """Compare all models of several evaluations, row by row.

    Args:
        folders: Outputs of `evaluate`; with names (a run's name for all that it made), these tell models of one name
            apart.
        output: Folder to make: `comparison.json`, `table.md`, `report.html`.
        runs: What is known of each run: parameters, image, commit, ... Shown where they differ.

    Returns:
        The manifest; `counts` holds each model's metrics as `NAME_metric`.

    Raises:
        DataError: No evaluation, an unfinished one, or evaluations of different rows or protocols.
    """
    named = _named(folders)
    if not named:
        raise DataError(
            "comparison: needs at least one evaluation, got none. Name the folders of evaluations."
        )
    sources = read_sources([path for _, path in named], "comparison")
    settings = {name: sources[0].config[name] for name in ("resamples", "seed")}
    pairs = zip(named, sources, strict=True)
    inputs = {
        f"{place} {label}": source.fingerprint for place, ((label, _), source) in enumerate(pairs)
    }
    if runs:
        inputs["runs"] = fingerprint(runs)
    manifest = Manifest("compare_evaluations", settings, inputs)
    if (existing := finished(output, manifest)) is not None:
        return existing
    with stage_output(output, manifest) as folder:
        warnings = warnings_of(sources)
        report = _report(
            _collect(named, sources),
            named[0][1],
            sources[0].extra["protocol"],
            settings,
            runs or {},
        )
        report = replace(report, warnings=warnings)
        facts = {
            name: getattr(report, name)
            for name in ("metrics", "comparisons", "differences", "runs")
        }
        order = {"models": [*report.metrics], "run_names": [*(runs or {})]}
        write_json(
            folder / "comparison.json", {"protocol": sources[0].extra["protocol"], **order, **facts}
        )
        table = markdown_table(metrics_table(report.metrics))
        (folder / "table.md").write_text(
            "".join(f"**{line}**\n\n" for line in warnings) + table, encoding="utf-8"
        )
        (folder / "report.html").write_text(comparison_page(report), encoding="utf-8")
        manifest.counts = {
            f"{a}_{b}": value  # type: ignore[misc]  # None for a metric that is not defined
            for a, metrics in report.metrics.items()
            for b, value in metrics.items()
        }
        manifest.extra = {"protocol": sources[0].extra["protocol"], "warnings": warnings}
    return manifest


def _named(folders: Mapping[str, Path | Sequence[Path]] | Sequence[Path]) -> list[tuple[str, Path]]:
    """Every folder with the name of its run, or its own."""
    if not isinstance(folders, Mapping):
        return [(path.name, path) for path in folders]
    several = {
        name: [given] if isinstance(given, Path) else given for name, given in folders.items()
    }
    return [(name, path) for name, paths in several.items() for path in paths]


def _collect(named: Sequence[tuple[str, Path]], sources: Sequence[Manifest]) -> Found:
    """Every model once; different models of one name get their evaluation's name in front."""
    found: dict[str, list[tuple[str, Entry]]] = {}
    for (label, path), source in zip(named, sources, strict=True):
        for name in (*BASELINES, *models_of(source)):
            if (path / name).is_dir():
                entry, others = read_entry(path / name, source), found.setdefault(name, [])
                if not any(_same(entry, other) for _, other in others):
                    others.append((label, entry))
    entries: dict[str, Entry] = {}
    twins: list[tuple[str, str]] = []
    for name, alike in found.items():
        unique: list[str] = []
        for label, entry in alike:
            full = name if len(alike) == 1 else f"{label}/{name}"
            unique.append(full if full not in entries else f"{full} {len(entries)}")
            entries[unique[-1]] = entry
        twins += [(later, unique[0]) for later in unique[1:] if name not in BASELINES]
    return Found(_ordered(entries), twins)


def _same(one: Entry, other: Entry) -> bool:
    """The same model on the same rows: by its fingerprint, or for a baseline by its scores."""
    if one.facts or other.facts:
        return bool(one.facts.get("fingerprint") == other.facts.get("fingerprint"))
    return one.result.scores.tobytes() == other.result.scores.tobytes()


def _ordered(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Baselines, then SFT, then the others as they came."""
    first = [name for name in (*BASELINES, *_FIRST) if name in entries]
    return {
        name: entries[name] for name in [*first, *(name for name in entries if name not in first)]
    }


def _report(
    found: Found,
    rows: Path,
    protocol: Mapping[str, Any],
    settings: Mapping[str, int],
    runs: Mapping[str, Mapping[str, Any]],
) -> EvaluationReport:
    entries = found.entries
    results = {name: entry.result for name, entry in entries.items()}
    models = [name for name, entry in entries.items() if entry.facts]
    comparisons = paired(results, models, settings["resamples"], settings["seed"], found.twins)
    return EvaluationReport(
        metrics={name: result.metrics for name, result in results.items()},
        ranks={name: result.rank_counts() for name, result in results.items()},
        comparisons=comparisons,
        training={name: entry.steps for name, entry in entries.items() if entry.steps},
        examples=_examples(results, models, found.twins, rows),
        differences=_differing({name: _settings(entries[name]) for name in models}),
        runs=_differing(runs),
        details={
            "protocol": protocol,
            **settings,
            "models": {name: entries[name].facts for name in models},
            **({"runs": runs} if runs else {}),
        },
    )


def _settings(entry: Entry) -> dict[str, Any]:
    """How a model was made, one value for each name."""
    return {
        "backbone": entry.facts["backbone"],
        "stage": entry.facts["stage"],
        **entry.facts["config"],
        **{f"input {role}": mark for role, mark in entry.facts["inputs"].items()},
    }


def _differing(flat: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings that differ between models or runs: for each its value in each of them."""
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    return {
        key: {name: values[key] for name, values in flat.items() if key in values}
        for key in keys
        if len({json.dumps(values.get(key), sort_keys=True) for values in flat.values()}) > 1
    }


def _opponents(
    results: Mapping[str, Result], models: Sequence[str], twins: Sequence[tuple[str, str]]
) -> tuple[str, str] | None:
    """The best model, and whose rows it is shown to win and lose: its twin of another run, or SFT, or the first."""

    def hits(name: str) -> float:
        return results[name].metrics[f"{results[name].rows.split}_{COMPARED}"] or 0

    best = max(models, key=hits, default="")
    for pair in twins:
        if best in pair:
            return best, pair[1] if pair[0] == best else pair[0]
    b = next((name for name in models if name in _FIRST), models[0] if models else "")
    others = [name for name in models if name != b]
    return (max(others, key=hits), b) if others else None


def _examples(
    results: Mapping[str, Result],
    models: Sequence[str],
    twins: Sequence[tuple[str, str]],
    folder: Path,
) -> list[ExampleRow]:
    """The rows that the best model wins and loses by most against another."""
    opponents = _opponents(results, models, twins)
    if opponents is None:
        return []
    a, b = opponents
    table = pq.read_table(folder / "rows.parquet")
    items = read_items(folder)
    titles = dict(zip(items["item_id"], items["title"], strict=True))
    gain = results[b].mean_rank - results[a].mean_rank
    order = gain.argsort(kind="stable")
    lost, won = order[:_EXAMPLES], order[::-1][:_EXAMPLES]
    chosen: list[tuple[Outcome, int]] = [("won", row) for row in won if gain[row] > 0]
    chosen += [("lost", row) for row in lost if gain[row] < 0]
    examples: list[ExampleRow] = []
    for outcome, index in chosen:
        row = table.slice(int(index), 1).to_pylist()[0]
        example: ExampleRow = {
            "a": a,
            "b": b,
            "outcome": outcome,
            "example_id": row["example_id"],
            "history": [titles[item] for item in row["history"]],
            "target": titles[row["target"]],
            "rank_a": float(results[a].mean_rank[index]),
            "rank_b": float(results[b].mean_rank[index]),
            "top_a": titles[results[a].best[index]],
            "top_b": titles[results[b].best[index]],
        }
        examples.append(example)
    return examples
