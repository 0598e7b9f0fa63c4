"""Resident memory of preference training on many rows.

Run `python -m tests.benchmarks.rows_on_disk [--rows 1000000] [--loss dmpo]`.

The rows have a history of 10 items and 19 negatives, in the numbers of MovieLens, and train the
compact backbone for five steps, so that what grows is theirs. Each measure is a process's peak
during the stage above what was resident before it, when a training on 1,000 rows has loaded all
libraries and freed its model. Pages of the mapped file count while they are in the process.
"""

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from dynamicpo.core.config import PreferenceConfig, SFTConfig
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.outputs import stage_output
from dynamicpo.core.records.rows import PREFERENCES, write_items, write_rows
from dynamicpo.training.preference_training import train_preferences
from dynamicpo.training.sft import fine_tune
from tests.benchmarks.measure import peak_bytes, seconds

REPORT = Path("build/benchmarks/rows_on_disk.json")
ITEMS, HISTORY, NEGATIVES = 1682, 10, 19
VALIDATION = 300
FEW = 1000  # rows of the training that loads all libraries


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Resident memory of preference training")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--loss", default="dmpo", help="dmpo scores all rows first")
    options = parser.parse_args(argv)
    # A process of its own: what this one has held counts for nothing.
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Pool(1) as pool:
        pool.apply(write_preferences, (Path(folder) / "many", options.rows))
        pool.apply(write_preferences, (Path(folder) / "few", FEW))
        # Another one, which has written nothing.
        with context.Pool(1) as measuring:
            line = measuring.apply(measure, (Path(folder), options.loss))
    line = {"rows": options.rows, "loss": options.loss, **line}
    print(
        f"{line['rows']} rows, {line['loss']}: {line['peak_mb']:.0f} MB above the model, "
        f"{line['seconds']:.0f} s"
    )
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(line, indent=1) + "\n", encoding="utf-8")
    return 0


def write_preferences(folder: Path, num_rows: int) -> None:
    """Random preference rows, 100,000 at a time."""
    rng = np.random.default_rng(0)
    names = np.array([str(item) for item in range(ITEMS)])
    manifest = Manifest("sample_negatives", {"seed": 0}, {"examples": "benchmark"})
    with stage_output(folder, manifest) as partial:
        items = pd.DataFrame({"item_id": names, "title": names, "popularity": 1, "category": None})
        write_items(partial, items.astype({"item_id": str, "title": str}))
        tables = [_rows(rng, names, first, num_rows) for first in range(0, num_rows, 100_000)]
        write_rows(partial, "train", pa.concat_tables(tables))
        # Those at which the watch for a collapse looks.
        write_rows(partial, "validation", _rows(rng, names, 0, VALIDATION))


def _rows(rng: np.random.Generator, names: np.ndarray, first: int, num_rows: int) -> pa.Table:
    number = min(100_000, num_rows - first)
    drawn = rng.integers(0, ITEMS, (number, HISTORY + 1 + NEGATIVES))
    history = drawn[:, :HISTORY]
    candidates = drawn[:, HISTORY:]
    ids = [f"{row // 20}:{row % 20}" for row in range(first, first + number)]
    columns = {
        "example_id": pa.array(ids),
        "user_id": pa.array([name.split(":")[0] for name in ids]),
        "history": _lists(names, history),
        "target": pa.array(names[candidates[:, 0]]),
        "timestamp": pa.array(np.arange(number, dtype=np.float64)),
        "candidates": _lists(names, candidates),
        "rejected": _lists(names, candidates[:, 1:]),
    }
    return pa.table(columns, schema=PREFERENCES)


def _lists(names: np.ndarray, drawn: np.ndarray) -> pa.ListArray:
    number, length = drawn.shape
    bounds = np.arange(number + 1, dtype=np.int32) * length
    return pa.ListArray.from_arrays(pa.array(bounds), pa.array(names[drawn.reshape(-1)]))


def measure(folder: Path, loss: str) -> dict[str, float]:
    """Peak and time of the stage on many rows, after one on few."""
    fine_tune(folder / "few", folder / "sft", SFTConfig(max_steps=1))
    settings = {"loss": loss, "num_negatives": NEGATIVES, "max_steps": 5}
    config = PreferenceConfig(**settings)
    train_preferences(folder / "few", folder / "sft", folder / "trained-few", config)

    def run() -> None:
        train_preferences(folder / "many", folder / "sft", folder / "trained-many", config)

    took: list[float] = []
    peak = peak_bytes(lambda: took.append(seconds(run)))
    return {"peak_mb": peak / 1e6, "seconds": took[0]}


if __name__ == "__main__":
    raise SystemExit(main())
