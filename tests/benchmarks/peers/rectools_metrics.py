"""RecTools' ranking metrics of the same candidates. Runs in the environment `rectools`."""

from typing import Any

import numpy as np
import pandas as pd
from rectools.metrics import MRR, NDCG, HitRate, calc_metrics

from tests.benchmarks.peers.answering import answer_with
from tests.benchmarks.peers.timed_metrics import KS, timed_twice


def measure(request: dict[str, Any]) -> dict[str, Any]:
    return timed_twice(request, values)


def values(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    num_rows, num_candidates = scores.shape
    order = np.argsort(-scores, axis=1, kind="stable")
    rows = np.arange(num_rows)
    ranks = np.arange(num_candidates) + 1
    ranked = {
        "user_id": np.repeat(rows, num_candidates),
        "item_id": order.reshape(-1),
        "rank": np.tile(ranks, num_rows),
    }
    lists = pd.DataFrame(ranked)
    relevant = pd.DataFrame({"user_id": rows, "item_id": targets})
    metrics = {"mrr": MRR(num_candidates)}
    for k in KS:
        metrics[f"hit_ratio_at_{k}"] = HitRate(k)
        # With one relevant item a row the best list has it first, whatever K; RecTools divides by
        # a list of K relevant items otherwise.
        metrics[f"ndcg_at_{k}"] = NDCG(k, divide_by_achievable=True)
    found = calc_metrics(metrics, lists, relevant)
    return {name: float(value) for name, value in found.items()}


if __name__ == "__main__":
    answer_with(measure)
