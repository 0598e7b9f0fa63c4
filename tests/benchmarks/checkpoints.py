"""Time and bytes of a checkpoint, and the time that a kill costs.

Run `python -m tests.benchmarks.checkpoints [--rounds 3]`.

Checkpoints are those of a LoRA training of SmolLM2-135M's size, and of a training of all its
weights: weights, two moments of AdamW, random states, the lines of 1,000 steps. They are written to
a folder, to Google Cloud Storage and to Kubeflow's own store; the servers run on this machine and
share its cores. A kill is a real one, in a process, two steps after a checkpoint; it costs the
second process's start (without its imports: it is forked) and the steps since then.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from dynamicpo.core.config import DataConfig, NegativesConfig
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.storage import find_files
from dynamicpo.data.prepare import prepare_data
from dynamicpo.negatives.sampling import sample_negatives
from dynamicpo.training.checkpoints.attempts import Attempt
from dynamicpo.training.checkpoints.random_states import random_states
from dynamicpo.training.checkpoints.state import TrainingState, read_state, write_state
from tests.benchmarks.measure import seconds
from tests.fixtures import killed_trainings, object_stores
from tests.fixtures.tables import write_tables

REPORT = Path("build/benchmarks/checkpoints.json")
# Numbers that training changes: adapters of rank 8 on q and v, and all of SmolLM2-135M.
WEIGHTS = {"LoRA": 460_800, "all weights": 134_515_008}
SERVERS = {"gs": object_stores.fake_gcs, "minio": object_stores.seaweedfs}
NUM_STEPS = 1000


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time and bytes of a checkpoint")
    parser.add_argument("--rounds", type=int, default=3, help="repeats of every measure")
    parser.add_argument("--stores", nargs="+", default=["folder", *SERVERS])
    parser.add_argument("--weights", nargs="+", default=list(WEIGHTS), choices=list(WEIGHTS))
    options = parser.parse_args(argv)
    checkpoints = []
    for store in options.stores:
        for weights in options.weights:
            line = measured(store, weights, options.rounds)
            checkpoints.append(line)
            print(
                f"{store:7} {weights:12} {line['megabytes']:7.1f} MB  "
                f"save {line['save_seconds']:6.2f} s  read {line['read_seconds']:6.2f} s",
                flush=True,
            )
    kill = kill_cost()
    print(f"a kill: {kill['lost_seconds']:.1f} s lost, {kill['start_seconds']:.1f} s of it a start")
    report = {"checkpoints": checkpoints, "kill": kill}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def measured(store: str, weights: str, rounds: int) -> dict[str, object]:
    """Medians of saving a checkpoint, and of finding and reading the newest one."""
    state = state_of(WEIGHTS[weights])
    request = Manifest("benchmark", {}, {})
    saves, reads = [], []
    with place(store) as root:
        for _ in range(rounds):
            attempt = Attempt(root, request, keep=1)
            attempt.begin()
            saves.append(seconds(lambda: save(attempt, state)))  # noqa: B023
            size = sum(file.size for file in find_files(attempt.prefix))
            later = Attempt(root, request, keep=1)
            later.begin()
            reads.append(seconds(lambda: read(later)))  # noqa: B023
            later.end()
    return {
        "store": store,
        "weights": weights,
        "megabytes": size / 1e6,
        "save_seconds": statistics.median(saves),
        "read_seconds": statistics.median(reads),
    }


def state_of(num_weights: int) -> TrainingState:
    def numbers() -> Tensor:
        return torch.randn(num_weights)

    moments = {"0.exp_avg": numbers(), "0.exp_avg_sq": numbers(), "0.step": torch.tensor(1.0)}
    lines = [{"step": step + 1, "loss": 0.5, "learning_rate": 1e-4} for step in range(NUM_STEPS)]
    return TrainingState(
        step=NUM_STEPS,
        num_steps=2 * NUM_STEPS,
        ended=False,
        weights={"weights": numbers()},
        optimizer=moments,
        random=random_states(),
        steps=lines,
    )


def save(attempt: Attempt, state: TrainingState) -> None:
    with attempt.new_checkpoint() as folder:
        write_state(folder, state, attempt.request, attempt.mark)


def read(attempt: Attempt) -> TrainingState:
    for folder in attempt.whole_checkpoints():
        return read_state(folder, attempt.request)
    raise AssertionError("it has just been saved")


@contextmanager
def place(store: str) -> Iterator[str]:
    if store == "folder":
        with tempfile.TemporaryDirectory() as folder:
            yield f"{folder}/kept"
        return
    with SERVERS[store]() as url:
        before = dict(os.environ)
        os.environ.update(object_stores.environment(store, url))
        try:
            yield f"{store}://bucket/kept"
        finally:
            os.environ.clear()
            os.environ.update(before)


def kill_cost() -> dict[str, float]:
    """Seconds of a killed training and its restart, above those of one that is not killed."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        interactions, items = write_tables(folder)
        prepare_data(interactions, items, folder / "examples", DataConfig())
        config = NegativesConfig(num_candidates=6)
        sample_negatives(folder / "examples", folder / "preferences", config)
        preferences = folder / "preferences"

        def timed(moment: str, output: str) -> float:
            start = time.perf_counter()
            paths = (preferences, folder, folder / output, str(folder / f"{output}-kept"))
            killed_trainings.run_process(moment, "sft", *paths)
            return time.perf_counter() - start

        # The first process waits for the one that all others are forked from.
        timed("never", "warm-up")
        whole = timed("never", "whole")
        killed = timed("computing", "killed")
        restart = timed("never", "killed")
        # Another start finds the finished output and ends.
        start_up = timed("never", "whole")
    lost = killed + restart - whole
    return {"whole_seconds": whole, "lost_seconds": lost, "start_seconds": start_up}


if __name__ == "__main__":
    raise SystemExit(main())
