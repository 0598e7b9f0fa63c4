"""Share of the machine's limit that a step of training reaches.

Run `python -m tests.benchmarks.limit [--rounds 7]`.

A step takes 4 x parameters x unique tokens operations (LoRA: forward, and backward through
activations). Their rate is compared with that of the model's own matrix products, measured right
before each step under the same load: one process with all cores, or a process of one thread for
each core, all at the same time, as `dynamicpo run --workers` trains the cells of a study. A step
takes as many rows as the default token budget of a forward pass. "predicting" counts the head only
where a token is predicted, which is all that is computed. Medians over rounds and processes.
"""

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import torch

from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.packing import packed_length
from dynamicpo.scoring.shared_prefix import TOKEN_BUDGET, answer_logps
from tests.benchmarks.measure import Limit, seconds
from tests.benchmarks.workload import (
    data_sets,
    load,
    load_rows,
    predicting,
    step,
    typical,
    with_negatives,
)

REPORT = Path("build/benchmarks/limit.json")
MOST_SECONDS = 900  # that processes wait for each other


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Share of the rate of a model's matrix products")
    parser.add_argument("--rounds", type=int, default=7, help="repeats of every measure")
    parser.add_argument("--cores", type=int, default=torch.get_num_threads())
    parser.add_argument("--negatives", type=int, nargs="+", default=[15], metavar="K")
    parser.add_argument("--data", nargs="+", default=data_sets())
    options = parser.parse_args(argv)
    tokenizer = load()[1]
    lines = []
    for name in options.data:
        rows = load_rows(name, tokenizer)
        for number in options.negatives:
            few = [with_negatives(row, number) for row in rows]
            batch = typical(few, max(1, TOKEN_BUDGET // packed_length(typical(few, 1)[0])))
            for processes in sorted({1, options.cores}):
                line = {"data": name, "num_negatives": number, "processes": processes}
                lines.append(
                    line | together(batch, processes, options.cores // processes, options.rounds)
                )
    show(lines)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(
        json.dumps({"rounds": options.rounds, "results": lines}, indent=2) + "\n", encoding="utf-8"
    )
    return 0


def together(batch: list[Row], processes: int, threads: int, rounds: int) -> dict[str, float]:
    """Medians of what processes measure at the same time."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _begin, (context.Barrier(processes), threads)) as pool:
        measured = pool.starmap(_measure, [(batch, rounds)] * processes, chunksize=1)
    each = [measures for process in measured for measures in process]
    medians = {name: statistics.median(measures[name] for measures in each) for name in each[0]}
    return {
        "threads": threads,
        "rows": len(batch),
        **medians,
        "row_seconds": medians["step_seconds"] / len(batch) / processes,
    }


_meet: Callable[[], Any]


def _begin(barrier: Barrier, threads: int) -> None:
    global _meet
    _meet = partial(barrier.wait, MOST_SECONDS)
    torch.set_num_threads(threads)


def _measure(batch: list[Row], rounds: int) -> list[dict[str, float]]:
    """Measure the limit and a step in turn, in one process; all processes wait for each other."""
    model, _ = load()
    limit = Limit(model)
    tokens = sum(map(packed_length, batch))
    positions = sum(map(predicting, batch))

    def ours() -> None:
        step(model, lambda: answer_logps(model, batch, "auto", 10**6))

    ours()
    products = limit.measured(tokens, positions)
    result = []
    for _ in range(rounds):
        _meet()
        floor = products()
        _meet()
        taken = seconds(ours)
        result.append(
            {
                "share": limit.operations(tokens, tokens)
                / limit.operations(tokens, positions)
                * floor
                / taken,
                "share_predicting": floor / taken,
                "step_seconds": taken,
                "products_per_second": limit.operations(tokens, positions) / floor,
            }
        )
    return result


def show(lines: list[dict[str, Any]]) -> None:
    print(
        "share of the rate of the model's own products, which is a process's; "
        "seconds a row of all processes together"
    )
    print("data         K  rows  processes x threads  seconds   share  predicting  products")
    for line in lines:
        print(
            f"{line['data']:<9} {line['num_negatives']:>4}  {line['rows']:>4}"
            f"  {line['processes']:>9} x {line['threads']:<7}"
            f"  {line['row_seconds']:>7.3f}  {line['share']:>6.1%}"
            f"  {line['share_predicting']:>10.1%}"
            f"  {line['products_per_second'] / 1e9:>5.0f} GFLOP/s"
        )


if __name__ == "__main__":
    raise SystemExit(main())
