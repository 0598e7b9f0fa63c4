"""Shared prompts against repeated ones.

Run `python -m tests.benchmarks.scoring [--rounds 5] [--threads 2]`.

For K negatives, seconds a row of forward + backward: shared (a batch of 2 rows); (a) repeated
prompts as published (one padded batch, logits of every token); (b) the same and a reference's
forward pass in every step; and our own plain backend, which repeats prompts too but has the head at
answer tokens only and nothing padded. Every round takes each once; the medians of the rounds'
ratios are shown. Memory is the peak of one row. Published batches of more than 19 negatives do not
fit and are left out.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.generation import generate_answers
from dynamicpo.scoring.packing import packed_length
from dynamicpo.scoring.shared_prefix import answer_logps, score_rows
from tests.benchmarks.measure import peak_bytes, seconds
from tests.benchmarks.published import published_logps
from tests.benchmarks.workload import (
    data_sets,
    load,
    load_rows,
    shared_beginnings,
    step,
    typical,
    with_negatives,
)

REPORTS = Path("build/benchmarks")
BATCH = 2
PLAIN_BUDGET = 4096
MOST_PUBLISHED = 19  # negatives of a row whose logits of every token still fit into memory


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Cost of scoring with shared and with repeated prompts"
    )
    parser.add_argument("--rounds", type=int, default=5, help="repeats of every measure")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu, with one thread, on a busy machine",
    )
    parser.add_argument("--negatives", type=int, nargs="+", default=[1, 5, 15, 19, 50], metavar="K")
    parser.add_argument("--data", nargs="+", default=data_sets())
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    model, tokenizer = load()
    report: dict[str, Any] = {
        "threads": options.threads,
        "clock": options.clock,
        "rounds": options.rounds,
        "data": {},
    }
    for name in options.data:
        rows = load_rows(name, tokenizer)
        lines = [training(model, rows, number, options) for number in options.negatives]
        result = {
            "training": lines,
            "trie_saving": shared_beginnings([with_negatives(row, 15) for row in rows]),
        }
        result["line"] = cost_line(lines, REPORTS / f"scoring-{name}.svg", name)
        result["evaluation"] = evaluation(
            model, tokenizer, rows, load_rows(name, tokenizer, list_candidates=False), options
        )
        report["data"][name] = result
        show(name, result)
    (REPORTS / "scoring.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def training(
    model: nn.Module, rows: list[Row], num_negatives: int, options: Any
) -> dict[str, float]:
    """All measures of a K: medians over the rounds."""
    batch = typical([with_negatives(row, num_negatives) for row in rows], BATCH)

    def shared(rows: list[Row] = batch) -> None:
        step(model, lambda: answer_logps(model, rows, "auto", 10**6))

    def plain() -> None:
        step(model, lambda: answer_logps(model, batch[:1], "plain", PLAIN_BUDGET))

    def published() -> None:
        step(model, lambda: published_logps(model, batch[0]))

    def reference() -> None:
        with torch.no_grad():
            published_logps(model, batch[0])

    fits = num_negatives <= MOST_PUBLISHED
    memory = {
        "shared_bytes": peak_bytes(lambda: shared(batch[:1])),
        "plain_bytes": peak_bytes(plain),
    }
    if fits:
        memory["published_bytes"] = peak_bytes(published)
    shared()
    rounds = []
    for _ in range(options.rounds):
        times = {
            "shared": seconds(shared, options.clock) / BATCH,
            "plain": seconds(plain, options.clock),
        }
        if fits:
            times["published"] = seconds(published, options.clock)
            times["published_with_reference"] = times["published"] + seconds(
                reference, options.clock
            )
        ratios = {
            f"faster_than_{name}": taken / times["shared"]
            for name, taken in times.items()
            if name != "shared"
        }
        rounds.append({**{f"{name}_seconds": taken for name, taken in times.items()}, **ratios})
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    sizes = {
        "num_negatives": num_negatives,
        "prompt_tokens": sum(len(row.prompt_ids) for row in batch) / BATCH,
        "tokens": sum(map(packed_length, batch)) / BATCH,
        "plain_tokens": sum(
            len(row.prompt_ids) + len(ids) - 1 for row in batch for ids in row.answer_ids
        )
        / BATCH,
    }
    ratios = {
        f"{name}_memory_ratio": taken / memory["shared_bytes"] for name, taken in memory.items()
    }
    return {
        **sizes,
        **medians,
        **memory,
        **{name.replace("_bytes", ""): ratio for name, ratio in ratios.items()},
    }


def cost_line(lines: list[dict[str, float]], path: Path, name: str) -> dict[str, float]:
    """Seconds a row against answer tokens: a straight line whose slope is a token's cost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    answer_tokens = np.array([line["tokens"] - line["prompt_tokens"] for line in lines])
    times = np.array([line["shared_seconds"] for line in lines])
    if len(lines) < 3:
        return {}
    slope, start = np.polyfit(answer_tokens, times, 1)
    error = float(
        ((times - slope * answer_tokens - start) ** 2).sum() / ((times - times.mean()) ** 2).sum()
    )
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    axes.plot(
        answer_tokens,
        slope * answer_tokens + start,
        color="0.6",
        label=f"{start:.3f} s + {1e3 * slope:.2f} ms a token",
    )
    axes.plot(answer_tokens, times, "o", color="tab:blue", label="measured")
    for line, x, y in zip(lines, answer_tokens, times, strict=True):
        axes.annotate(
            f"K = {line['num_negatives']}", (x, y), xytext=(4, -12), textcoords="offset points"
        )
    axes.set(
        xlabel="answer tokens of a row",
        ylabel="seconds a row, forward and backward",
        ylim=(0, None),
        title=name,
    )
    axes.legend()
    axes.figure.savefig(path)
    prompt = float(np.mean([line["prompt_tokens"] for line in lines]))
    return {
        "seconds_per_answer_token": float(slope),
        "seconds_per_prompt_token": float(start) / prompt,
        "explained": 1 - error,
    }


def evaluation(
    model: nn.Module, tokenizer: Any, listed: list[Row], plain: list[Row], options: Any
) -> dict[str, dict[str, float]]:
    """Seconds a row to generate one of 20 listed candidates, and to rank the same 20.

    Generation is greedy (the published way), as long as a tuned model's answer. They are ranked
    with the list in the prompt, and without it, as by default.
    """
    result = {}
    for size in (1, 8):
        rows, short = (
            typical([with_negatives(row, 19) for row in which], size) for which in (listed, plain)
        )
        ways: dict[str, Callable[[], Any]] = {
            "generate": lambda rows=rows: generate_answers(
                model, [tokenizer.eos_token_id], rows, constrained=True
            ),
            "rank_listed": lambda rows=rows: score_rows(model, rows),
            "rank": lambda rows=short: score_rows(model, rows),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds + 1):
            for name, way in ways.items():
                times[name].append(seconds(way, options.clock) / size)
        result[f"batch_{size}"] = {
            name: statistics.median(values[1:]) for name, values in times.items()
        }
    return result


COLUMNS = {
    "num_negatives": ("K", "4.0f"),
    "tokens": ("tokens", "7.0f"),
    "plain_tokens": ("repeated", "8.0f"),
    "shared_seconds": ("shared s", "8.3f"),
    "published_seconds": ("(a) s", "7.2f"),
    "published_with_reference_seconds": ("(b) s", "7.2f"),
    "plain_seconds": ("plain s", "7.2f"),
    "faster_than_published": ("(a) x", "6.2f"),
    "faster_than_published_with_reference": ("(b) x", "6.2f"),
    "faster_than_plain": ("plain x", "7.2f"),
    "shared_bytes": ("bytes", "8.1e"),
    "published_memory_ratio": ("(a) x", "6.1f"),
    "plain_memory_ratio": ("plain x", "7.1f"),
}


def show(name: str, result: dict[str, Any]) -> None:
    print(f"\n{name}: seconds a row, forward + backward; bytes above the loaded model")
    widths = {column: int(form.split(".")[0]) for column, (_, form) in COLUMNS.items()}
    print(" ".join(f"{title:>{widths[column]}}" for column, (title, _) in COLUMNS.items()))
    for line in result["training"]:
        cells = [
            f"{line[column]:{form}}" if column in line else "-"
            for column, (_, form) in COLUMNS.items()
        ]
        print(
            " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths.values(), strict=True))
        )
    if line := result["line"]:
        print(
            f"a row: {1e3 * line['seconds_per_prompt_token']:.2f} ms a prompt token, "
            f"{1e3 * line['seconds_per_answer_token']:.2f} ms an answer token; "
            f"a straight line explains {line['explained']:.2%}"
        )
    print(f"a token trie would save {result['trie_saving']:.1%} of the answers' tokens")
    for size, times in result["evaluation"].items():
        print(
            f"{size}: generating one of 20 listed candidates {times['generate']:.3f} s a row, "
            f"ranking them {times['rank_listed']:.3f} s, "
            f"ranking them without the list {times['rank']:.3f} s"
        )


if __name__ == "__main__":
    raise SystemExit(main())
