"""Shared prompts against repeated ones: `python -m tests.benchmarks.scoring [--rounds 5] [--threads 2]`.

For K negatives, seconds a row of forward + backward: shared (a batch of 4 rows), (a) plain (repeated prompts, one row),
(b) plain and a reference's forward pass in every step, as the published code does. Every round takes each once, with
the limit of the machine beside it; what is shown are medians of the rounds' ratios. Memory is the peak of one row.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from dynamicpo.generation import generate_answers
from dynamicpo.objective import preference_losses
from dynamicpo.packing import packed_length
from dynamicpo.scoring import Row, answer_logps, score_rows
from tests.benchmarks.measure import Limit, peak_bytes, seconds
from tests.benchmarks.workload import data_sets, load, load_rows, shared_beginnings, typical, with_negatives

REPORTS = Path("build/benchmarks")
BATCH = 2
PLAIN_BUDGET = 4096


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Cost of scoring with shared and with repeated prompts")
    parser.add_argument("--rounds", type=int, default=5, help="repeats of every measure")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu, with one thread, on a busy machine"
    )
    parser.add_argument("--negatives", type=int, nargs="+", default=[1, 5, 15, 19, 50], metavar="K")
    parser.add_argument("--data", nargs="+", default=data_sets())
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    model, tokenizer = load()
    limit = Limit(model)
    report: dict[str, Any] = {"threads": options.threads, "clock": options.clock, "rounds": options.rounds, "data": {}}
    for name in options.data:
        rows = load_rows(name, tokenizer)
        lines = [training(model, limit, rows, number, options) for number in options.negatives]
        result = {"training": lines, "trie_saving": shared_beginnings([with_negatives(row, 15) for row in rows])}
        result["line"] = cost_line(lines, REPORTS / f"scoring-{name}.svg", name)
        result["evaluation"] = evaluation(model, tokenizer, rows, options)
        report["data"][name] = result
        show(name, result)
    (REPORTS / "scoring.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def step(model: nn.Module, rows: list[Row], backend: str, token_budget: int) -> None:
    """DynamicPO's loss without a reference, as cached reference log-probabilities cost nothing in a step."""
    model.zero_grad()
    logps = answer_logps(model, rows, backend, token_budget)
    preference_losses(logps[:, 0], logps[:, 1:], loss="dmpo").losses.mean().backward()


def training(model: nn.Module, limit: Limit, rows: list[Row], num_negatives: int, options: Any) -> dict[str, float]:
    """All measures of a K: medians over the rounds."""
    batch = typical([with_negatives(row, num_negatives) for row in rows], BATCH)
    tokens, places = sum(map(packed_length, batch)), sum(map(predicting, batch))

    def shared() -> None:
        step(model, batch, "auto", 10**6)

    def plain() -> None:
        step(model, batch[:1], "plain", PLAIN_BUDGET)

    def reference() -> None:
        with torch.no_grad():
            answer_logps(model, batch[:1], "plain", PLAIN_BUDGET)

    memory = {
        "shared_bytes": peak_bytes(lambda: step(model, batch[:1], "auto", 10**6)),
        "plain_bytes": peak_bytes(plain),
    }
    shared()
    rounds = []
    for _ in range(options.rounds):
        floor = limit.seconds(tokens, places, options.clock)
        ours, theirs = seconds(shared, options.clock), seconds(plain, options.clock)
        with_reference = theirs + seconds(reference, options.clock)
        rounds.append(
            {
                "shared_seconds": ours / BATCH,
                "plain_seconds": theirs,
                "published_seconds": with_reference,
                "faster_than_plain": theirs * BATCH / ours,
                "faster_than_published": with_reference * BATCH / ours,
                "share_of_limit": floor / ours,
                "operations_per_second": limit.operations(tokens, places) / ours,
            }
        )
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    sizes = {
        "num_negatives": num_negatives,
        "prompt_tokens": sum(len(row.prompt_ids) for row in batch) / BATCH,
        "tokens": tokens / BATCH,
        "plain_tokens": sum(len(row.prompt_ids) + len(ids) - 1 for row in batch for ids in row.answer_ids) / BATCH,
        "all_parameters_share_of_limit": medians["share_of_limit"]
        * limit.operations(tokens, tokens)
        / limit.operations(tokens, places),
    }
    return {**sizes, **medians, **memory, "memory_ratio": memory["plain_bytes"] / memory["shared_bytes"]}


def predicting(row: Row) -> int:
    """Places from which a token is predicted: the prompt's end, and all fed answer tokens."""
    return 1 + packed_length(row) - len(row.prompt_ids)


def cost_line(lines: list[dict[str, float]], path: Path, name: str) -> dict[str, float]:
    """Seconds a row against answer tokens: a straight line whose slope is a token's cost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fed = np.array([line["tokens"] - line["prompt_tokens"] for line in lines])
    times = np.array([line["shared_seconds"] for line in lines])
    if len(lines) < 3:
        return {}
    slope, start = np.polyfit(fed, times, 1)
    error = float(((times - slope * fed - start) ** 2).sum() / ((times - times.mean()) ** 2).sum())
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    axes.plot(fed, slope * fed + start, color="0.6", label=f"{start:.3f} s + {1e3 * slope:.2f} ms a token")
    axes.plot(fed, times, "o", color="tab:blue", label="measured")
    for line, x, y in zip(lines, fed, times, strict=True):
        axes.annotate(f"K = {line['num_negatives']}", (x, y), xytext=(4, -12), textcoords="offset points")
    axes.set(xlabel="answer tokens of a row", ylabel="seconds a row, forward and backward", ylim=(0, None), title=name)
    axes.legend()
    axes.figure.savefig(path)
    prompt = float(np.mean([line["prompt_tokens"] for line in lines]))
    return {
        "seconds_per_answer_token": float(slope),
        "seconds_per_prompt_token": float(start) / prompt,
        "explained": 1 - error,
    }


def evaluation(model: nn.Module, tokenizer: Any, rows: list[Row], options: Any) -> dict[str, float]:
    """Seconds a row to rank 20 candidates, and to generate one of them greedily (as long as a tuned model's answer)."""
    result = {}
    for size in (1, 8):
        batch = typical([with_negatives(row, 19) for row in rows], size)
        times: dict[str, list[float]] = {"rank": [], "generate": []}
        for _ in range(options.rounds + 1):
            times["rank"].append(seconds(lambda rows=batch: score_rows(model, rows), options.clock))
            times["generate"].append(
                seconds(lambda rows=batch: generate_answers(model, tokenizer, rows, constrained=True), options.clock)
            )
        for name, values in times.items():
            result[f"{name}_seconds_batch_{size}"] = statistics.median(values[1:]) / size
    return result


def show(name: str, result: dict[str, Any]) -> None:
    print(f"\n{name}: seconds a row, forward + backward; memory in MB above the loaded model")
    print(f"{'K':>4} {'tokens':>7} {'plain':>7} | {'shared':>7} {'plain':>7} {'+ ref':>7} | {'x':>6} {'x ref':>6} "
          f"| {'limit':>6} {'all':>6} | {'MB':>6} {'MB':>6} {'x':>5}")  # fmt: skip
    for line in result["training"]:
        print(
            f"{line['num_negatives']:>4} {line['tokens']:>7.0f} {line['plain_tokens']:>7.0f} "
            f"| {line['shared_seconds']:>7.3f} {line['plain_seconds']:>7.2f} {line['published_seconds']:>7.2f} "
            f"| {line['faster_than_plain']:>6.2f} {line['faster_than_published']:>6.2f} "
            f"| {line['share_of_limit']:>6.1%} {line['all_parameters_share_of_limit']:>6.1%} "
            f"| {line['shared_bytes'] / 1e6:>6.0f} {line['plain_bytes'] / 1e6:>6.0f} {line['memory_ratio']:>5.1f}"
        )
    if line := result["line"]:
        print(
            f"a row: {1e3 * line['seconds_per_prompt_token']:.2f} ms a prompt token, "
            f"{1e3 * line['seconds_per_answer_token']:.2f} ms an answer token; a straight line explains "
            f"{line['explained']:.2%}"
        )
    print(f"a token trie would save {result['trie_saving']:.1%} of the answers' tokens")
    for size in (1, 8):
        rank, generate = (result["evaluation"][f"{kind}_seconds_batch_{size}"] for kind in ("rank", "generate"))
        print(f"batches of {size}: ranking 20 candidates {rank:.3f} s a row, generating one answer {generate:.3f} s")


if __name__ == "__main__":
    raise SystemExit(main())
