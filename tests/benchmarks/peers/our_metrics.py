"""The project's ranking metrics of scored candidates."""

from typing import Any

import numpy as np

from dynamicpo.metrics.ranking import ranking_metrics
from tests.benchmarks.peers.answering import answer_with
from tests.benchmarks.peers.timed_metrics import KS, timed_twice


def measure(request: dict[str, Any]) -> dict[str, Any]:
    return timed_twice(request, values)


def values(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    metrics = ranking_metrics(scores, targets, ks=KS)
    del metrics["num_nan_scores"]
    return metrics


if __name__ == "__main__":
    answer_with(measure)
