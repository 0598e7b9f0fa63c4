"""What the quickstart's recipe is worth: five seeds, two test splits, three claims.

Run `make results`, or `python -m tests.benchmarks.results [--seeds 5] [--workers 2]`.

Every cell repeats negatives, SFT, preference training with DMPO and with DynamicPO-DMPO, and SASRec
(`results_cells`). One split is by time, the other tests every user's last item. Finished cells are
kept in build/results; the table and its numbers are written there.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks.results_cells import OTHER_STRATEGIES, Cell, prepare, run_cell
from tests.benchmarks.results_claims import Finding, Measured, judge, read_catalogue, read_listed

ROOT = Path("build/results")
SPLITS: Mapping[str, str] = {"time": "the last tenth by time", "leave-one-out": "every last item"}
MODELS = ("dynamicpo-dmpo", "dmpo", "sft", "sasrec", "cooccurrence", "popularity")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What the quickstart's recipe is worth")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args(argv)
    cells = plan(options.seeds)
    run_all(cells, options.root, options.workers, {})
    write_report(options.root, cells)
    print((options.root / "results.md").read_text(encoding="utf-8"))
    return 0


def plan(num_seeds: int) -> list[Cell]:
    """All cells, seed by seed, so that what is stopped early has every split."""
    cells = []
    for seed in range(num_seeds):
        for split in SPLITS:
            is_first = seed == 0 and split == "time"
            cells.append(Cell(split, seed, OTHER_STRATEGIES if is_first else ()))
    return cells


# Any: parameters of the pipeline, of several types.
def run_all(cells: Sequence[Cell], root: Path, workers: int, changes: Mapping[str, Any]) -> None:
    """Run cells side by side, a processor each."""
    for cell in {cell.split: cell for cell in cells}.values():
        prepare(cell, root, changes)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        started = time.perf_counter()
        running = [pool.submit(run_cell, cell, root, changes) for cell in cells]
        for cell, done in zip(cells, running, strict=True):
            done.result()
            print(f"{cell.name}: done after {time.perf_counter() - started:.0f} s", flush=True)


def write_report(root: Path, cells: Sequence[Cell]) -> None:
    """Write `results.md`, and `results.json` with the same numbers."""
    lines, numbers = [], {}
    for split, title in SPLITS.items():
        seeds = [cell for cell in cells if cell.split == split]
        evaluations = [root / cell.name / "evaluation" for cell in seeds]
        listed = read_listed(evaluations, MODELS)
        catalogue = read_catalogue(evaluations, MODELS)
        findings, beside = judge(listed), judge(catalogue)
        lines += _split_lines(title, listed, catalogue, findings, beside)
        numbers[split] = {
            "listed": _means(listed),
            "catalogue": _means(catalogue),
            "claims": [finding._asdict() | {"holds": finding.holds} for finding in findings],
            "catalogue_differences": [finding._asdict() for finding in beside],
        }
    lines += _other_lines(root, cells)
    (root / "results.md").write_text("\n".join(lines), encoding="utf-8")
    text = json.dumps(numbers, indent=1)
    (root / "results.json").write_text(f"{text}\n", encoding="utf-8")


def _means(measured: Measured) -> dict[str, list[float]]:
    """The mean of each model for each seed."""
    return {name: values.mean(axis=1).tolist() for name, values in measured.values.items()}


def _split_lines(
    title: str,
    listed: Measured,
    catalogue: Measured,
    findings: Sequence[Finding],
    beside: Sequence[Finding],
) -> list[str]:
    num_rows, num_users = len(listed.users), len({*listed.users})
    lines = [f"{title}: {num_rows:,} rows of {num_users} users", ""]
    lines += ["| | HitRatio@1 in lists | its seeds | NDCG@10 over the catalogue |"]
    lines += ["|---|---|---|---|"]
    for name, values in listed.values.items():
        seeds = values.mean(axis=1)
        spread = f"{_number(seeds.min())} to {_number(seeds.max())}"
        of_all = catalogue.values[name].mean()
        lines += [f"| {name} | {_number(seeds.mean())} | {spread} | {_number(of_all, 4)} |"]
    lines += ["", "| claim | in lists | p (Holm) | | over the catalogue |", "|---|---|---|---|---|"]
    for finding, other in zip(findings, beside, strict=True):
        claim = finding.claim
        text = f"{claim.a} − {claim.b} > {_number(claim.bound, 2) if claim.bound else '0'}"
        verdict = "holds" if finding.holds else "is not shown"
        lines += [f"| {text} | {_interval(finding)} | {finding.p:.2g} | {verdict} | "]
        lines[-1] += f"{_interval(other, 4)} |"
    return [*lines, ""]


def _other_lines(root: Path, cells: Sequence[Cell]) -> list[str]:
    lines = ["HitRatio@1 of the first seed, by what the lists hold:", ""]
    names: list[str] = ["popularity-weighted"]
    measured = [read_listed([root / cells[0].name / "evaluation"], MODELS)]
    for strategy in cells[0].strategies:
        names.append(strategy)
        path = root / cells[0].name / f"{strategy}-evaluation"
        measured.append(read_listed([path], MODELS))
    lines += [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for model in MODELS:
        values = [_number(entry.values[model].mean()) for entry in measured]
        lines += [f"| {model} | {' | '.join(values)} |"]
    return [*lines, ""]


def _interval(finding: Finding, digits: int = 3) -> str:
    sign = "+" if finding.difference >= 0 else ""
    difference = sign + _number(finding.difference, digits)
    return f"{difference} [{_number(finding.low, digits)}, {_number(finding.high, digits)}]"


def _number(value: float, digits: int = 3) -> str:
    """`.302`, `-.004`."""
    return f"{value:.{digits}f}".replace("0.", ".", 1)


if __name__ == "__main__":
    raise SystemExit(main())
