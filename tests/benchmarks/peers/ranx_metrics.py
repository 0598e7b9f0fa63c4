"""ranx's ranking metrics of the same candidates, compiled. Runs in the project's environment."""

from typing import Any

import numpy as np
from ranx import Qrels, Run, evaluate

from tests.benchmarks.peers.answering import answer_with
from tests.benchmarks.peers.timed_metrics import KS, timed_twice

NAMES = {f"hit_rate@{k}": f"hit_ratio_at_{k}" for k in KS}
NAMES |= {f"ndcg@{k}": f"ndcg_at_{k}" for k in KS} | {"mrr": "mrr"}


def measure(request: dict[str, Any]) -> dict[str, Any]:
    return timed_twice(request, values)


def values(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    relevant = {}
    lists = {}
    for row, target in enumerate(targets.tolist()):
        relevant[str(row)] = {str(target): 1}
        items = enumerate(scores[row].tolist())
        lists[str(row)] = {str(item): score for item, score in items}
    theirs = evaluate(Qrels(relevant), Run(lists), list(NAMES))
    return {ours: float(theirs[name]) for name, ours in NAMES.items()}


if __name__ == "__main__":
    answer_with(measure)
