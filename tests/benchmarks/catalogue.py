"""Ranking a whole catalogue with SmolLM2-135M.

Run `python -m tests.benchmarks.catalogue [--rounds 3] [--threads 2]`.

After a MovieLens prompt (a history, no candidates) every one of the 1,682 titles gets its
log-probability: by the token tree with the target's own score as the floor (what evaluation does),
by the whole tree, by one prompt shared by packed answers without a tree, and by separate answers, a
prompt each. The last would take minutes a row, so it is measured on 32 titles drawn at random, and
multiplied. Every round takes another row of median length. The first three must agree on the
target's rank.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynamicpo.core.arrays import Float32Array
from dynamicpo.core.config import DataConfig
from dynamicpo.core.records.rows import EXAMPLES, Row, read_items, read_rows
from dynamicpo.data.prepare import prepare_data
from dynamicpo.models import backbones
from dynamicpo.models.backbones import BaseModelSpec
from dynamicpo.models.base_models import load_base_model
from dynamicpo.prompts.encoding import Prompts, PromptSettings
from dynamicpo.prompts.loader import load_template
from dynamicpo.scoring.catalogue_scoring import catalogue_scores
from dynamicpo.scoring.shared_prefix import answer_logps
from dynamicpo.scoring.token_trie import make_trie
from tests.benchmarks.measure import CLOCKS

REPORT = Path("build/benchmarks/catalogue.json")
SEPARATE = 32  # titles that stand for all in the separate way
TOKENS_AT_ONCE = 4096
WAYS = {
    "floor": "token tree, floor at the target",
    "tree": "token tree",
    "packed": "shared prompt, packed answers",
    "separate": "separate answers",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Cost of ranking every item of a catalogue")
    parser.add_argument("--rounds", type=int, default=3, help="rows")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=[*CLOCKS], default="wall", help="cpu, with one thread, on a busy machine"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    model, tokenizer = load_base_model(BaseModelSpec(backbones.SMOLLM2))
    prompts, answers, targets = load_rows(tokenizer, options.rounds)
    list(catalogue_scores(model.eval(), prompts[:1], answers[:SEPARATE]))  # the first call is slow
    rows = zip(prompts, targets, strict=True)
    rounds = [measure(model, prompt, answers, target, options.clock) for prompt, target in rows]
    seconds = {way: statistics.median(each[way] for each in rounds) for way in WAYS}
    report = {
        "threads": options.threads,
        "clock": options.clock,
        "titles": len(answers),
        "prompt_tokens": statistics.mean(map(len, prompts)),
        "answer_tokens": sum(map(len, answers)),
        "tree_tokens": make_trie(answers).num_evaluated,
        "seconds": seconds,
        "rounds": rounds,
    }
    show(report)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def load_rows(tokenizer: Any, number: int) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Held-out prompts of median length, the answer of every title, and each row's target."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "examples"
        prepare_data("", "", folder, DataConfig(source="movielens", k_core=1))
        table, items = read_rows(folder, "test", EXAMPLES), read_items(folder)
    names = items["item_id"].tolist()
    built = Prompts(tokenizer, items, PromptSettings("title", load_template("movies"), False, 512))
    answers = built.answers(names)
    longest = max(map(len, answers))
    rows = table.take(random.Random(0).sample(range(len(table)), 200)).to_pylist()
    made = [
        (built.prompt(row["example_id"], row["history"], longest), names.index(row["target"]))
        for row in rows
    ]
    middle = statistics.median(len(prompt) for prompt, _ in made)
    chosen = sorted(made, key=lambda each: abs(len(each[0]) - middle))[:number]
    return [prompt for prompt, _ in chosen], answers, [target for _, target in chosen]


def measure(
    model: nn.Module, prompt: list[int], answers: list[list[int]], target: int, clock: str
) -> dict[str, float]:
    """Seconds of one row in every way, and the target's rank."""
    some = random.Random(0).sample(answers, SEPARATE)
    runs = {
        "floor": lambda: next(catalogue_scores(model, [prompt], answers, [target]))[0],
        "tree": lambda: next(catalogue_scores(model, [prompt], answers))[0],
        "packed": lambda: alone(model, prompt, answers, "auto"),
        "separate": lambda: alone(model, prompt, some, "plain"),
    }
    times, ranks = {}, {}
    for way, run in runs.items():
        start = CLOCKS[clock]()
        scores = run()
        times[way] = CLOCKS[clock]() - start
        if way != "separate":
            ranks[way] = int((scores > scores[target] + 1e-3).sum()) + 1
    times["separate"] *= len(answers) / SEPARATE
    if len({*ranks.values()}) != 1:
        raise RuntimeError(f"the ways must agree on the target's rank, got {ranks}")
    return {**times, "rank": ranks["floor"]}


@torch.no_grad()
def alone(
    model: nn.Module, prompt: list[int], answers: Sequence[list[int]], backend: str
) -> Float32Array:
    """Without a tree; parts of as many answers as fit into one pass."""
    parts, room = [[]], TOKENS_AT_ONCE - len(prompt)
    for answer in answers:
        if sum(map(len, parts[-1])) + len(answer) > room:
            parts.append([])
        parts[-1].append(answer)
    return torch.cat(
        [answer_logps(model, [Row(prompt, part)], backend, TOKENS_AT_ONCE)[0] for part in parts]
    ).numpy()


def show(report: dict[str, Any]) -> None:
    titles, seconds = report["titles"], report["seconds"]
    print(
        f"\n{titles} titles after a prompt of {report['prompt_tokens']:.0f} tokens: "
        f"{report['answer_tokens']} tokens, {report['tree_tokens']} in the tree; "
        f"{len(report['rounds'])} rows, medians, {report['threads']} threads"
    )
    print(f"{'way':32} {'s a row':>9} {'ms a title':>11} {'cost in answers':>16}")
    for way, title in WAYS.items():
        cost = seconds[way] / (seconds["separate"] / titles)
        print(f"{title:32} {seconds[way]:>9.2f} {1e3 * seconds[way] / titles:>11.2f} {cost:>16.0f}")


if __name__ == "__main__":
    raise SystemExit(main())
