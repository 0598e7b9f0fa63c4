"""The project's SASRec: trained, and scores of all items for the rows to rank."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from dynamicpo.core.records.rows import read_items, read_rows
from dynamicpo.evaluation.baselines.sasrec import fit_sasrec
from tests.benchmarks.peers.answering import answer_with


def train(request: dict[str, Any]) -> dict[str, Any]:
    preferences = Path(request["preferences"])
    items = read_items(preferences)
    rows = read_rows(preferences, "train")
    validation = read_rows(preferences, "validation")
    start = time.process_time()
    scorer = fit_sasrec(items, rows, seed=request["seed"], validation=validation)
    trained = time.process_time()
    scores = scorer(read_rows(preferences, "test"))
    np.save(request["scores"], scores.astype(np.float32))
    return {"seconds": trained - start, "scoring_seconds": time.process_time() - trained}


if __name__ == "__main__":
    answer_with(train)
