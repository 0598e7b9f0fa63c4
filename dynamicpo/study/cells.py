"""The cells of a study, from the evaluations of its models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynamicpo.core.choices import BASELINES
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.evaluation.results import COMPARED, Result
from dynamicpo.evaluation.saved import Entry, models_of, read_entry
from dynamicpo.metrics.ranking import row_metrics
from dynamicpo.reports.training_log import GRADIENT, RELATIVE, last, relative_gradient
from dynamicpo.study.grid import kind_at, variant_of
from dynamicpo.study.verdict import SFT, Cells, Floats, Kind, kind_name, order

_FREE = {
    "loss",
    "dynamic",
    "ablation",
    "num_negatives",
    "seed",
}  # in what the cells of a study may differ


class Found(NamedTuple):
    """The cells of a study.

    Attributes:
        cells: By kind.
        users: The user of each row.
        seeds: Those of every kind.
        adapter: Fingerprint of the SFT model that all started from.
        shared: The settings that all have in common.
    """

    cells: dict[Kind, Cells]
    users: Sequence[str]
    seeds: list[int]
    adapter: str
    shared: dict[str, Any]


def read_cells(paths: Sequence[Path], sources: Sequence[Manifest]) -> Found:
    """The cells of a study.

    Args:
        paths: Evaluations of cells.
        sources: Their manifests.

    Raises:
        DataError: A model that is no cell, cells that differ in more than they may, or in their seeds.
    """
    trained: dict[Kind, dict[int, Entry]] = {}
    entries: list[Entry] = []
    for path, source in zip(paths, sources, strict=True):
        for name in models_of(source):
            entries.append(_checked(path / name, read_entry(path / name, source), entries[:1]))
            config = entries[-1].facts["config"]
            variant = variant_of(config["dynamic"], config["ablation"])
            kind = kind_at(config["loss"], variant, config["num_negatives"])
            trained.setdefault(kind, {})[config["seed"]] = entries[-1]
    if not entries:
        raise DataError(
            "study: needs at least one cell, got none. Give the evaluations of trained models."
        )
    seeds = _seeds(trained)
    cells = {
        kind: _cells([trained[kind][seed] for seed in seeds]) for kind in sorted(trained, key=order)
    }
    facts = entries[0].facts
    shared = {name: value for name, value in facts["config"].items() if name not in _FREE} | facts[
        "inputs"
    ]
    return Found(cells, entries[0].result.rows.users, seeds, facts["inputs"]["adapter"], shared)


def read_sft(path: Path, source: Manifest, adapter: str) -> dict[Kind, Cells]:
    """The SFT model as a cell without a seed.

    Raises:
        DataError: The evaluation is not of the SFT model that the cells started from.
    """
    found = {name: read_entry(path / name, source) for name in models_of(source)}
    for entry in found.values():
        if entry.facts["fingerprint"] == adapter:
            return {SFT: Cells(hits(entry.result)[None], {})}
    raise DataError(
        f"{path}: must hold the SFT model that all cells started from, but has {', '.join(found) or 'no model'} of "
        "another fingerprint. Evaluate the one they started from."
    )


def baseline_hits(path: Path, source: Manifest) -> dict[str, float]:
    """HitRatio@1 of the baselines, chance left out."""
    names = [name for name in BASELINES[1:] if (path / name).is_dir()]
    return {name: float(hits(read_entry(path / name, source).result).mean()) for name in names}


def hits(result: Result) -> Floats:
    """HitRatio@1 of each row, the expected value under ties. Shape (N,)."""
    return np.asarray(row_metrics(result.better, result.tied, 1, [1])[COMPARED])


def _checked(place: Path, entry: Entry, first: Sequence[Entry]) -> Entry:
    """The entry, which must be a cell, and like the first one in all that is not studied."""
    facts = entry.facts
    if facts["stage"] != "preference_training" or not entry.steps:
        raise DataError(
            f"{place}: must be a model of preference training with its steps.jsonl, but it comes from "
            f"{facts['stage']} with {len(entry.steps)} steps. Leave it out."
        )
    for other in first:
        before, now = (
            {**item["config"], **item["inputs"], "backbone": item["backbone"]}
            for item in (other.facts, facts)
        )
        names = [name for name in before if name not in _FREE and before[name] != now.get(name)]
        if names:
            values = ", ".join(f"{name} ({before[name]} and {now.get(name)})" for name in names)
            raise DataError(
                f"{place}: cells must be alike in all that is not studied, but differ in {values}."
            )
    return entry


def _seeds(trained: Mapping[Kind, Mapping[int, Entry]]) -> list[int]:
    kinds = list(trained)
    seeds = sorted(trained[kinds[0]])
    for kind in kinds[1:]:
        if sorted(trained[kind]) != seeds:
            raise DataError(
                f"study: all kinds of cells must have the same seeds, {kind_name(kinds[0])} has {seeds} and "
                f"{kind_name(kind)} has {sorted(trained[kind])}. Train the missing ones."
            )
    return seeds


def _cells(entries: Sequence[Entry]) -> Cells:
    rows = [_figures(entry) for entry in entries]
    figures = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Cells(np.stack([hits(entry.result) for entry in entries]), figures)


def _figures(entry: Entry) -> dict[str, float]:
    """What training ended with; the first step's loss is that before any update."""
    relative = [{RELATIVE: value} for value in relative_gradient(entry.steps)]
    return {
        "final_loss": last(entry.steps, "loss"),
        "loss_share": last(entry.steps, "loss") / entry.steps[0]["loss"],
        GRADIENT: last(entry.steps, GRADIENT),
        RELATIVE: last(relative, RELATIVE),
        "boundary_fraction": last(entry.steps, "boundary_fraction"),
        "violation_share": last(entry.steps, "violation_share"),
    }
