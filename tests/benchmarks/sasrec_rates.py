"""SASRec's learning rate, chosen on validation rows as the quickstart's recipe was.

Run `python -m tests.benchmarks.sasrec_rates [--seeds 2] [--root build/sasrec-rates]`.

Each rate is trained with every seed on the quickstart's data, and ranks the validation rows: their
lists, and every item. The rate with the best mean HitRatio@1 is chosen. No test row is read.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from dynamicpo.core.records.manifest import read_input
from dynamicpo.core.records.rows import read_items
from dynamicpo.data.prepare import prepare_data
from dynamicpo.evaluation.baselines import sasrec_training
from dynamicpo.evaluation.baselines.sasrec import fit_sasrec
from dynamicpo.evaluation.kept_rankings import rank_with_scorer
from dynamicpo.evaluation.rows import EvaluationData, SplitTables, read_all_items, read_data
from dynamicpo.metrics.ranking import row_metrics
from dynamicpo.negatives.sampling import sample_negatives
from tests.benchmarks.results_cells import PRESET
from tests.benchmarks.stage_configs import stage_configs

ROOT = Path("build/sasrec-rates")
RATES = (1e-3, 2e-3, 5e-3, 1e-2)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="SASRec's learning rate")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args(argv)
    found = measure(options.root, range(options.seeds))
    text = json.dumps(found, indent=1) + "\n"
    (options.root / "sasrec-rates.json").write_text(text, encoding="utf-8")
    print("| rate | HitRatio@1, lists | NDCG@10, all items | seconds |\n|---|---|---|---|")
    for rate, metrics in found.items():
        row = [f"{metrics[name]:.4f}" for name in ("hit_ratio_at_1", "ndcg_at_10")]
        print(f"| {rate} | {' | '.join(row)} | {metrics['seconds']:.0f} |")
    return 0


def measure(root: Path, seeds: range) -> dict[str, dict[str, float]]:
    """Means over the seeds, by the rate."""
    configs = stage_configs("training", PRESET, {})
    prepare_data("", "", root / "examples", configs.data)
    preferences = root / "preferences"
    sample_negatives(root / "examples", preferences, configs.negatives)
    config = replace(configs.evaluation, split="validation", candidates="listed")
    tables = SplitTables(preferences)
    source = read_input(preferences, "sample_negatives")
    listed = read_data(tables, source, config)
    everything = read_all_items(tables, source, config)
    found = {}
    for rate in RATES:
        sasrec_training.LEARNING_RATE = rate
        of_seeds = [_metrics(tables, seed, listed, everything) for seed in seeds]
        names = of_seeds[0]
        found[f"{rate:g}"] = {
            name: float(np.mean([values[name] for values in of_seeds])) for name in names
        }
    return found


def _metrics(
    tables: SplitTables, seed: int, listed: EvaluationData, everything: EvaluationData
) -> dict[str, float]:
    """Metrics of one training, and the processor seconds that it took."""
    items = read_items(tables.folder)
    start = time.process_time()
    scorer = fit_sasrec(items, tables["train"], seed, validation=tables["validation"])
    found = {"seconds": time.process_time() - start}
    for data, name in ((listed, "hit_ratio_at_1"), (everything, "ndcg_at_10")):
        ranking = rank_with_scorer(scorer, data, None)
        fewest = int(ranking.num_candidates.min())
        values = row_metrics(ranking.better, ranking.tied, fewest, [1, 10])
        found[name] = float(values[name].mean())
    return found


if __name__ == "__main__":
    raise SystemExit(main())
