"""The cells of a study, from the evaluations of its models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from dynamicpo.core.choices import BASELINES, VARIANTS, Loss
from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.shapes import as_shape
from dynamicpo.evaluation.delivered import LAST, delivered_rule
from dynamicpo.evaluation.saved import SavedResult, evaluated_models, read_saved_result
from dynamicpo.reports.training_log import (
    BOUNDARY_GRADIENT,
    RELATIVE_BOUNDARY_GRADIENT,
    mean_of_last_steps,
    relative_boundary_gradient,
)
from dynamicpo.study.contrasts import Cells
from dynamicpo.study.kinds import SFT, Kind, kind_at, kind_name, kind_order

# The settings that are studied, in which cells may differ.
_STUDIED = ("loss", "dynamic", "num_negatives", "seed")


class _CellConfig(TypedDict):
    loss: Loss
    dynamic: str
    num_negatives: int
    seed: int


class _CellInputs(TypedDict):
    adapter: str


class _Cell(TypedDict):
    config: _CellConfig
    inputs: _CellInputs
    backbone: Any  # compared, and nothing else


class StudyCells(NamedTuple):
    """All cells of a study, and what they have in common.

    Attributes:
        cells: By kind.
        users: The user of each row.
        seeds: Those of every kind.
        adapter: Fingerprint of the SFT model that all started from.
        shared: The settings and inputs that all have in common.
    """

    cells: dict[Kind, Cells]
    users: Sequence[str]
    seeds: list[int]
    adapter: str
    shared: JsonObject


def read_cells(paths: Sequence[Path], sources: Sequence[Manifest]) -> StudyCells:
    """The cells of a study.

    Args:
        paths: Evaluations of cells.
        sources: Their manifests.

    Raises:
        DataError: A model that is no cell, cells that differ in more than they may, or in their
            seeds.
    """
    entries = _read_trained(paths, sources)
    if not entries:
        raise DataError(
            "study: needs at least one cell, got none. Give the evaluations of trained models."
        )
    by_kind = _by_kind_and_seed(entries)
    seeds = _shared_seeds(by_kind)
    cells = {}
    # In the order of reports, so that the order of the evaluations does not matter.
    for kind in sorted(by_kind, key=kind_order):
        cells[kind] = _cells_of([by_kind[kind][seed] for seed in seeds])
    first = entries[0]
    adapter = first.provenance["inputs"]["adapter"]
    return StudyCells(cells, first.result.rows.users, seeds, adapter, _shared_settings(first))


def read_sft(path: Path, source: Manifest, adapter: str) -> dict[Kind, Cells]:
    """The SFT model as a cell without a seed.

    Raises:
        DataError: The evaluation is not of the SFT model that the cells started from.
    """
    names = evaluated_models(source)
    for name in names:
        entry = read_saved_result(path / name, source)
        # Recognised by its content: its name is the user's choice.
        if entry.provenance["fingerprint"] == adapter:
            return {SFT: Cells(entry.result.hits[None], {})}
    raise DataError(
        f"{path}: must hold the SFT model that all cells started from, but has "
        f"{', '.join(names) or 'no model'} of another fingerprint. Evaluate the one they started "
        "from."
    )


def baseline_hits(path: Path, source: Manifest) -> dict[str, float]:
    """HitRatio@1 of the baselines, chance left out."""
    hit_ratios = {}
    # The first one is chance, which the number of candidates says.
    for name in BASELINES[1:]:
        if (path / name).is_dir():
            entry = read_saved_result(path / name, source)
            hit_ratios[name] = float(entry.result.hits.mean())
    return hit_ratios


def _read_trained(paths: Sequence[Path], sources: Sequence[Manifest]) -> list[SavedResult]:
    """The models of all evaluations, which must be cells of one study."""
    entries: list[SavedResult] = []
    for path, source in zip(paths, sources, strict=True):
        for name in evaluated_models(source):
            entry = read_saved_result(path / name, source)
            _check_is_cell(path / name, entry)
            # Differing from the first is enough to see, as being alike is transitive.
            if entries:
                _check_alike(path / name, entries[0], entry)
            entries.append(entry)
    return entries


def _by_kind_and_seed(entries: Sequence[SavedResult]) -> dict[Kind, dict[int, SavedResult]]:
    by_kind: dict[Kind, dict[int, SavedResult]] = {}
    for entry in entries:
        config = entry.provenance["config"]
        kind = kind_at(config["loss"], config["dynamic"], config["num_negatives"])
        by_seed = by_kind.setdefault(kind, {})
        by_seed[config["seed"]] = entry
    return by_kind


def _check_is_cell(path: Path, entry: SavedResult) -> None:
    stage = entry.provenance.get("stage")
    if stage != "preference_training" or not entry.training_log:
        raise DataError(
            f"{path}: must be a model of preference training with its steps.jsonl, but it comes "
            f"from {stage} with {len(entry.training_log)} steps. Leave it out."
        )
    as_shape(path.parent / "manifest.json", entry.provenance, _Cell)
    if delivered_rule(entry.provenance) != LAST:
        raise DataError(
            f"{path}: a cell must have the last weights of its training, but has the best by "
            "validation. Train it again with deliver 'last'."
        )
    variant = entry.provenance["config"]["dynamic"]
    if variant not in VARIANTS:
        raise DataError(
            f"{path}: dynamic must be one of {', '.join(VARIANTS)}, got {variant!r}, as earlier "
            "versions of dynamicpo wrote it. Train it again."
        )


def _check_alike(path: Path, first: SavedResult, entry: SavedResult) -> None:
    """Refuse a cell that differs from the first one in anything that is not studied."""
    expected = _settings(first)
    actual = _settings(entry)
    differences = []
    for name, value in expected.items():
        if name not in _STUDIED and value != actual.get(name):
            differences.append(f"{name} ({value} and {actual.get(name)})")
    if differences:
        raise DataError(
            f"{path}: cells must be alike in all that is not studied, but differ in "
            f"{', '.join(differences)}."
        )


def _settings(entry: SavedResult) -> JsonObject:
    """The settings that determine a cell: its configuration, inputs and base model."""
    provenance = entry.provenance
    return {
        **provenance["config"],
        # Cells of earlier versions do not say it.
        "deliver": delivered_rule(provenance),
        **provenance["inputs"],
        "backbone": provenance["backbone"],
    }


def _shared_settings(entry: SavedResult) -> JsonObject:
    shared: JsonObject = {}
    for name, value in entry.provenance["config"].items():
        if name not in _STUDIED:
            shared[name] = value
    return {**shared, **entry.provenance["inputs"]}


def _shared_seeds(by_kind: Mapping[Kind, Mapping[int, SavedResult]]) -> list[int]:
    """The seeds of every kind; cells are compared seed by seed, so that all must have the same."""
    first, *others = by_kind
    seeds = sorted(by_kind[first])
    for kind in others:
        seeds_of_kind = sorted(by_kind[kind])
        if seeds_of_kind != seeds:
            raise DataError(
                f"study: all kinds of cells must have the same seeds, {kind_name(first)} has "
                f"{seeds} and {kind_name(kind)} has {seeds_of_kind}. Train the missing ones."
            )
    return seeds


def _cells_of(entries: Sequence[SavedResult]) -> Cells:
    """The cells of one kind, seed by seed."""
    records = [_figures(entry) for entry in entries]
    figures = {}
    for name in records[0]:
        figures[name] = np.array([record[name] for record in records])
    hits_by_seed = [entry.result.hits for entry in entries]
    return Cells(np.stack(hits_by_seed), figures)


def _figures(entry: SavedResult) -> dict[str, float]:
    """Measures at the end of training."""
    log = entry.training_log
    final_loss = mean_of_last_steps(log, "loss")
    # The first step's loss is that before any update.
    first_loss = log[0]["loss"]
    relative = [{RELATIVE_BOUNDARY_GRADIENT: value} for value in relative_boundary_gradient(log)]
    return {
        "final_loss": final_loss,
        "loss_share": final_loss / first_loss,
        BOUNDARY_GRADIENT: mean_of_last_steps(log, BOUNDARY_GRADIENT),
        RELATIVE_BOUNDARY_GRADIENT: mean_of_last_steps(relative, RELATIVE_BOUNDARY_GRADIENT),
        "boundary_fraction": mean_of_last_steps(log, "boundary_fraction"),
        "violation_share": mean_of_last_steps(log, "violation_share"),
    }
