"""Does the dynamic beta pay? The study's grid at 19 negatives, extended to where it could.

Run `python -m tests.benchmarks.beta_search [--workers 2] [--root build/beta-search]`.

First 52 cells of one seed: boundary selection with a fixed beta, and with the dynamic one
(arXiv 2605.00327), for several betas and margins, uniform and half hard negatives, a short and a
long training. The margin pulls a dynamic beta towards half of its base, so that a fixed one gets
its chance at lower values. Then the best of each kind by its mean over the four contexts, and the
default, are trained with three more seeds: at most 88 cells. The comparisons are on those seeds,
which chose nothing. Everything is ranked on the validation split; no test row is read.

The rule, stated before a cell ran: the default becomes the fixed beta if the default is worse than
the best fixed one (p below .05 after Holm), the best dynamic one if that is better than the best
fixed one; else it stays as published.
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.records.manifest import read_input
from dynamicpo.data.prepare import prepare_data
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.evaluation.saved import read_saved_result
from dynamicpo.metrics.intervals import Difference, holm
from dynamicpo.negatives.sampling import sample_negatives
from dynamicpo.runs.signatures import pipelines_folder
from dynamicpo.study.contrasts import contrast
from dynamicpo.training.preference_training import train_preferences
from dynamicpo.training.sft import fine_tune
from tests.benchmarks.stage_configs import Configs, stage_configs

ROOT = Path("build/beta-search")
PRESET = pipelines_folder() / "negative_scaling" / "studies" / "reproduce.yaml"
NUM_NEGATIVES = 19
CHOOSING_SEED = 0
CONFIRMING_SEEDS = (1, 2, 3)


class Arm(NamedTuple):
    """Settings that are compared.

    Attributes:
        beta: The fixed beta, or the dynamic one's base.
        margin: Margin constant of the dynamic beta, nats; None of a fixed beta.
    """

    beta: float
    margin: float | None = None

    @property
    def name(self) -> str:
        if self.margin is None:
            return f"fixed-{self.beta:g}"
        return f"dynamic-{self.beta:g}-m{self.margin:g}"


class Context(NamedTuple):
    """What an arm is trained on.

    Attributes:
        strategy: How the negatives of training rows are drawn.
        rows: Training rows, each once.
    """

    strategy: str
    rows: int

    @property
    def name(self) -> str:
        return f"{self.strategy}-{self.rows}"


class Cell(NamedTuple):
    """One training."""

    context: Context
    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        return f"{self.context.name}/{self.arm.name}-s{self.seed}"


DEFAULT = Arm(1.0, 6.0)
FIXED = tuple(Arm(beta) for beta in (0.25, 0.5, 1.0, 2.0))
DYNAMIC = tuple(Arm(beta, margin) for beta in (0.5, 1.0, 2.0) for margin in (0.0, 2.0, 6.0))
CONTEXTS = tuple(Context(kind, rows) for kind in ("uniform", "hard") for rows in (8_000, 32_000))


class Hits(NamedTuple):
    """HitRatio@1 of validation rows.

    Attributes:
        by_cell: 0 or 1 of each row, by the cell. Shape (N,) each.
        users: The user of each row.
    """

    by_cell: Mapping[Cell, FloatArray]
    users: Sequence[str]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Does the dynamic beta pay?")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args(argv)
    write_report(options.root, search(options.root, options.workers, {}))
    print((options.root / "beta-search.md").read_text(encoding="utf-8"))
    return 0


# Any: parameters of the pipeline, of several types.
def search(root: Path, workers: int, changes: Mapping[str, Any]) -> Hits:
    """Train and rank all cells; what is finished is kept, so that a second run goes on."""
    configs = study_configs(changes)
    prepare(root, configs, changes)
    chosen_from = plan(FIXED + DYNAMIC, [CHOOSING_SEED])
    first = run_cells(chosen_from, root, workers, configs)
    arms = dict.fromkeys([best_arm(first, FIXED), best_arm(first, DYNAMIC), DEFAULT])
    second = run_cells(plan([*arms], CONFIRMING_SEEDS), root, workers, configs)
    return Hits({**first.by_cell, **second.by_cell}, first.users)


def plan(arms: Iterable[Arm], seeds: Iterable[int]) -> list[Cell]:
    """Every arm in every context with every seed."""
    return [Cell(context, arm, seed) for seed in seeds for context in CONTEXTS for arm in arms]


def study_configs(changes: Mapping[str, Any]) -> Configs:
    """The settings of `make reproduce`, evaluated on validation rows."""
    configs = stage_configs("negative_scaling", PRESET, changes)
    return configs._replace(
        preference=replace(configs.preference, loss="dmpo", num_negatives=NUM_NEGATIVES),
        evaluation=replace(configs.evaluation, split="validation", sasrec=False),
    )


def prepare(root: Path, configs: Configs, changes: Mapping[str, Any]) -> None:
    """Make what all cells share: rows with both kinds of negatives, and the SFT model."""
    tables = [changes.get(name, "") for name in ("data_interactions", "data_items")]
    prepare_data(*tables, root / "examples", configs.data)
    for strategy in {context.strategy: None for context in CONTEXTS}:
        negatives = replace(configs.negatives, strategy=strategy)
        sample_negatives(root / "examples", root / strategy, negatives)
    fine_tune(root / "uniform", root / "sft", configs.sft)


def run_cells(cells: Sequence[Cell], root: Path, workers: int, configs: Configs) -> Hits:
    """Train and rank cells side by side, a processor each."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    by_cell = {}
    users: Sequence[str] = ()
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running = [pool.submit(run_cell, cell, root, configs) for cell in cells]
        for cell, done in zip(cells, running, strict=True):
            by_cell[cell], users = done.result()
            print(f"{cell.name}: HitRatio@1 {by_cell[cell].mean():.4f}", flush=True)
    return Hits(by_cell, users)


def run_cell(cell: Cell, root: Path, configs: Configs) -> tuple[FloatArray, Sequence[str]]:
    """HitRatio@1 of each validation row after a training, and its user."""
    arm = cell.arm
    dynamic = "selection" if arm.margin is None else "full"
    config = replace(
        configs.preference,
        dynamic=dynamic,
        beta=arm.beta,
        margin=DEFAULT.margin if arm.margin is None else arm.margin,
        rows=cell.context.rows,
        seed=cell.seed,
    )
    model = root / cell.name
    train_preferences(root / cell.context.strategy, root / "sft", model, config)
    # The lists of held-out rows are the same, whatever the negatives of training rows.
    evaluation = root / "evaluations" / cell.name
    evaluate(root / "uniform", {"model": model}, evaluation, configs.evaluation)
    source = read_input(evaluation, "evaluate")
    result = read_saved_result(evaluation / "model", source).result
    return result.row_values("hit_ratio_at_1"), result.rows.users


def best_arm(hits: Hits, arms: Sequence[Arm]) -> Arm:
    """The arm with the best mean over the contexts."""

    def mean(arm: Arm) -> float:
        return float(_values(hits, arm, [CHOOSING_SEED]).mean())

    return max(arms, key=mean)


def _values(hits: Hits, arm: Arm, seeds: Iterable[int]) -> FloatArray:
    """Means over the contexts, of each seed and row. Shape (S, N)."""
    of_seeds = []
    for seed in seeds:
        cells = [Cell(context, arm, seed) for context in CONTEXTS]
        of_contexts = np.stack([hits.by_cell[cell] for cell in cells])
        of_seeds.append(of_contexts.mean(axis=0))
    return np.stack(of_seeds)


def confirm(hits: Hits) -> dict[str, Difference]:
    """Differences of the dynamic beta to the fixed one, on seeds that chose nothing."""
    fixed = best_arm(hits, FIXED)
    # A dict, as the default may be the best.
    dynamic = dict.fromkeys([best_arm(hits, DYNAMIC), DEFAULT])
    of_fixed = _values(hits, fixed, CONFIRMING_SEEDS)
    found = {}
    for arm in dynamic:
        values = _values(hits, arm, CONFIRMING_SEEDS)
        found[f"{arm.name} - {fixed.name}"] = contrast(values, of_fixed, hits.users)
    corrected = holm([difference.p for difference in found.values()])
    pairs = zip(found.items(), corrected, strict=True)
    return {name: difference._replace(p=p) for (name, difference), p in pairs}


def write_report(root: Path, hits: Hits) -> None:
    """Write `beta-search.md`, and `beta-search.json` with the same numbers."""
    differences = confirm(hits)
    numbers = {
        "cells": {cell.name: float(values.mean()) for cell, values in hits.by_cell.items()},
        "differences": {name: found._asdict() for name, found in differences.items()},
    }
    text = json.dumps(numbers, indent=1) + "\n"
    (root / "beta-search.json").write_text(text, encoding="utf-8")
    lines = [*_table(hits), "", *_sentences(differences, len(hits.by_cell))]
    (root / "beta-search.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _table(hits: Hits) -> list[str]:
    """HitRatio@1 of each arm in each context, seed 0."""
    names = [context.name for context in CONTEXTS]
    lines = [f"| beta | {' | '.join(names)} | mean |", "|" + "---|" * (len(names) + 2)]
    for arm in FIXED + DYNAMIC:
        cells = [Cell(context, arm, CHOOSING_SEED) for context in CONTEXTS]
        means = [float(hits.by_cell[cell].mean()) for cell in cells]
        row = [f"{mean:.4f}" for mean in (*means, np.mean(means))]
        lines.append(f"| {arm.name} | {' | '.join(row)} |")
    return lines


def _sentences(differences: Mapping[str, Difference], num_cells: int) -> list[str]:
    lines = [f"{num_cells} cells; p after Holm for {len(differences)} comparisons."]
    for name, found in differences.items():
        bounds = f"[{found.low:+.4f}, {found.high:+.4f}]"
        lines.append(f"{name}: {found.difference:+.4f} {bounds}, p {found.p:.3f}.")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
