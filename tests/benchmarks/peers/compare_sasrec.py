"""RecBole's SASRec and ours on the same rows and split: quality and seconds."""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dynamicpo.core.choices import SPLITS
from dynamicpo.core.records.rows import read_items, read_rows
from tests.benchmarks.peers import rows as prepared
from tests.benchmarks.peers.environments import environment_python
from tests.benchmarks.peers.processes import Answer, ask, tried
from tests.benchmarks.peers.tables import megabytes, table

SEED = 0
# Besides its defaults. With its batches of 2,048 rows and dropout of .5 it takes hundreds of epochs
# of 40 s; so it gets the dropout of ours, and as many steps as fit into two minutes.
SETTINGS = {
    "hidden_dropout_prob": 0.2,
    "attn_dropout_prob": 0.2,
    "train_batch_size": 128,
    "epochs": 3,
    "seed": SEED,
}
COLUMNS = {
    "way": ("SASRec of", "s"),
    "hit_ratio_at_1": ("HitRatio@1, lists", ".3f"),
    "ndcg_at_5": ("NDCG@5, lists", ".3f"),
    "catalogue_ndcg_at_10": ("NDCG@10, all items", ".3f"),
    "seconds": ("processor seconds of training", ".0f"),
    "epochs": ("epochs", "d"),
    "best_epoch": ("best", "d"),
    "peak_bytes": ("peak memory", megabytes),
}


def compare() -> tuple[str, list[dict[str, Any]]]:
    """A table and its lines."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        preferences = prepared.prepare(folder)
        rows = write_plain_rows(preferences, folder)
        ways: dict[str, Callable[[str], Answer]] = {
            "ours": partial(_ours, preferences),
            "RecBole 1.2.1": partial(_recbole, preferences, rows),
        }
        lines = []
        for way, run in ways.items():
            scores = folder / "scores.npy"
            line = tried({"way": way}, lambda: run(str(scores)))  # noqa: B023
            if "error" not in line:
                line |= _quality(preferences, scores)
            lines.append(line)
            print(f"SASRec, {way}: done", flush=True)
    return table(lines, COLUMNS), lines


def write_plain_rows(preferences: Path, folder: Path) -> Path:
    """Each split's rows as user, history and target, for code that reads none of our files."""
    rows = {}
    for split in SPLITS:
        table = read_rows(preferences, split)
        columns = table.select(["user_id", "history", "target"])
        rows[split] = [list(row.values()) for row in columns.to_pylist()]
    path = folder / "rows.json"
    text = json.dumps(rows)
    path.write_text(text, encoding="utf-8")
    return path


def _ours(preferences: Path, scores: str) -> Answer:
    return ask("our_sasrec", {"preferences": str(preferences), "scores": scores, "seed": SEED})


def _recbole(preferences: Path, rows: Path, scores: str) -> Answer:
    items = read_items(preferences)
    request = {
        "rows": str(rows),
        "items": items["item_id"].tolist(),
        "settings": SETTINGS,
        "scores": scores,
    }
    python = environment_python("recbole")
    return ask("recbole_sasrec", request, python)


def _quality(preferences: Path, path: Path) -> dict[str, float]:
    table = read_rows(preferences, "test")
    test = prepared.ranked_rows(table, read_items(preferences))
    scores = np.load(path)
    return prepared.quality(scores.astype(np.float64), test)
