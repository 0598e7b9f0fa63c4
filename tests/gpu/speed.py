"""Rows a second, memory and share of the card's matrix rate: ours against the published way.

Ours: the prompt once for all its answers, the head at answer tokens only, the reference from the
cache. Published: a prompt for each answer, logits of every token, without and with the reference's
forward pass in each step. Each at its own best batch, LoRA on all linear layers, base weights in
bfloat16, no checkpointing of activations.
"""

import gc
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dynamicpo.objective import preference_losses
from dynamicpo.objective.boundary import boundary_negatives, dynamic_betas
from dynamicpo.scoring import Row, answer_logps
from dynamicpo.scoring.packing import packed_length
from tests.gpu.models import SHAPES, device, lastfm_like_rows, lora_model

NUM_NEGATIVES = 15
# The public LastFM set: 2,495 test rows are a tenth, so about 20,000 rows train, three epochs in
# the paper.
LASTFM_TRAINING_ROWS = 20_000
PAPER_EPOCHS = 3
PAPER_A100_HOURS = 62.6


def published_logps(model: nn.Module, rows: list[Row]) -> Tensor:
    """Scores (B, A) of a padded sequence for each prompt and answer.

    Log-probabilities of the whole vocabulary everywhere.
    """
    place = device()
    sequences = [torch.tensor([*row.prompt_ids, *ids]) for row in rows for ids in row.answer_ids]
    prompt_sizes = torch.tensor([len(row.prompt_ids) for row in rows for _ in row.answer_ids])
    token_ids = pad_sequence(sequences, batch_first=True).to(place)
    sizes = torch.tensor([len(ids) for ids in sequences])
    positions = torch.arange(token_ids.shape[1])
    mask = (positions < sizes[:, None]).long().to(place)
    predicted = positions[1:] >= prompt_sizes[:, None]
    counted = mask[:, 1:] * predicted.to(place)
    logits = model(input_ids=token_ids, attention_mask=mask).logits[:, :-1]
    logps = logits.float().log_softmax(-1).gather(2, token_ids[:, 1:, None])[..., 0]
    return (logps * counted).sum(1).view(len(rows), -1)


def step(model: nn.Module, rows: list[Row], score: Callable[..., Tensor], dynamic: bool) -> None:
    """Forward, the objective and backward.

    No optimizer, as an adapter's costs nothing beside it.
    """
    model.zero_grad(set_to_none=True)
    with torch.autocast(device().type, dtype=torch.bfloat16):
        logps = score(model, rows)
        # Cached reference log-probabilities cost nothing in a step.
        result = preference_losses(logps[:, 0], logps[:, 1:], loss="dmpo", dynamic=dynamic)
        result.losses.mean().backward()


def ours(model: nn.Module, rows: list[Row]) -> Tensor:
    return answer_logps(model, rows, "auto", 10**7)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """The median of some runs after one that warms up."""
    run()
    times = []
    for _ in range(repeats):
        synchronize()
        started = time.perf_counter()
        run()
        synchronize()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def measured(run: Callable[[], object], num_rows: int, repeats: int = 3) -> dict[str, float]:
    """Rows a second and peak memory above nothing; a batch that does not fit says so."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        taken = seconds(run, repeats)
    except torch.OutOfMemoryError:
        return {"rows": num_rows, "out_of_memory": 1.0}
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "rows": num_rows,
        "seconds": taken,
        "rows_per_second": num_rows / taken,
        "peak_gigabytes": peak / 1e9,
    }


def best(lines: list[dict[str, float]]) -> dict[str, float]:
    return max(lines, key=lambda line: line.get("rows_per_second", 0.0))


def until_full(
    sizes: list[int], run: Callable[[list[Row]], object], rows: list[Row], deadline: float
) -> list[dict[str, float]]:
    """Ever larger batches, until one is too large, no faster than the one before, or time is up."""
    lines: list[dict[str, float]] = []
    for size in sizes:
        batch = rows[:size]
        lines.append(measured(lambda batch=batch: run(batch), size, repeats=2))
        slower = len(lines) > 1 and lines[-1].get("rows_per_second", 0.0) < 1.02 * lines[-2].get(
            "rows_per_second", 0.0
        )
        if "out_of_memory" in lines[-1] or slower or time.monotonic() > deadline:
            break
    return lines


def product_seconds(model: nn.Module, tokens: int, places: int) -> tuple[float, float]:
    """Seconds and operations of the matrix products a LoRA step can't do without, in bfloat16.

    Forward and backward through activations: 4 x (weights of the layers x tokens + of the head x
    places that predict).
    """
    head = model.get_base_model().get_output_embeddings()
    shapes: Counter[tuple[int, int, int]] = Counter()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "lora_" not in name:
            rows = places if module is head else tokens
            shapes[(*module.weight.shape, rows)] += 1
    total, operations = 0.0, 0.0
    for (out_size, in_size, rows), number in shapes.items():
        weight = torch.randn(out_size, in_size, device=device(), dtype=torch.bfloat16)
        inputs = torch.randn(rows, in_size, device=device(), dtype=torch.bfloat16)
        gradient = torch.randn(rows, out_size, device=device(), dtype=torch.bfloat16)

        def both(
            weight: Tensor = weight, inputs: Tensor = inputs, gradient: Tensor = gradient
        ) -> None:
            torch.mm(inputs, weight.T)
            torch.mm(gradient, weight)

        # Many in a row, so that the time of a launch does not count.
        total += number * seconds(lambda both=both: [both() for _ in range(10)]) / 10
        operations += number * 4 * out_size * in_size * rows
    return total, operations


def selection_seconds(num_rows: int) -> float:
    """Boundary selection and dynamic beta of a step's rows, alone."""
    chosen = torch.randn(num_rows, device=device()) - 20
    rejected = torch.randn(num_rows, NUM_NEGATIVES, device=device()) * 4 - 24
    mask = torch.ones_like(rejected, dtype=torch.bool)

    def select() -> None:
        boundary = boundary_negatives(chosen, rejected, mask)
        dynamic_betas(chosen, rejected, boundary, mask, 1.0, 6.0)

    return seconds(select, 9)


def expensive_kernels(run: Callable[[], object], number: int = 10) -> list[dict[str, Any]]:
    """The kernels on which the card spends most of a step."""
    if not torch.cuda.is_available():
        return []
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        synchronize()
    kernels = [event for event in profile.events() if event.device_type.name == "CUDA"]
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in kernels:
        spent[event.name] += event.device_time_total
        calls[event.name] += 1
    whole = sum(spent.values()) or 1
    return [
        {
            "kernel": name[:160],
            "microseconds": time_spent,
            "share": time_spent / whole,
            "calls": calls[name],
        }
        for name, time_spent in spent.most_common(number)
    ]


def largest_k(model: nn.Module, vocabulary: int, deadline: float) -> dict[str, int]:
    """The largest K of a doubling series, ours and published, of which one row fits into memory.

    A way that ran out of time, and not of memory, has no `..._is_limit` of 1.
    """
    result = {"ours": 0, "published": 0}
    for name, score in (("published", published_logps), ("ours", ours)):
        number = NUM_NEGATIVES
        while time.monotonic() < deadline and number <= 4096:
            row = lastfm_like_rows(1, number, vocabulary)
            if "out_of_memory" in measured(
                lambda row=row, score=score: step(model, row, score, True), 1, repeats=1
            ):
                result[f"{name}_is_limit"] = 1
                break
            result[name] = number
            number = 2 * number + 1
    return result


def run(
    shape: str,
    limit_seconds: float,
    tokens_a_step: list[int],
    save: Callable[[dict[str, Any]], object] = lambda report: None,
) -> dict[str, Any]:
    """A shape: both ways, the share, and what the objective adds.

    Args:
        shape: A name in `SHAPES`.
        limit_seconds: Time for everything.
        tokens_a_step: Unique tokens of the steps that are tried.
        save: Called with the report whenever it has grown, so that a time limit loses little.
    """
    deadline = time.monotonic() + limit_seconds
    vocabulary = SHAPES[shape]["vocab_size"]
    started = time.perf_counter()
    model = lora_model(shape, torch.bfloat16)
    synchronize()
    report: dict[str, Any] = {"shape": shape, "build_seconds": time.perf_counter() - started}
    rows = lastfm_like_rows(512, NUM_NEGATIVES, vocabulary)
    measure_ours(report, model, rows, tokens_a_step, deadline - 0.5 * limit_seconds)
    save(report)
    batch = rows[: int(best(report["ours"])["rows"])]
    measure_objective(report, model, batch)
    save(report)
    measure_published(report, model, rows, deadline - 0.3 * limit_seconds)
    save(report)
    report["kernels"] = expensive_kernels(lambda: step(model, batch, ours, True))
    save(report)
    for kernel in report["kernels"]:
        print(f"{kernel['share']:6.1%} {kernel['calls']:5d} {kernel['kernel'][:80]}")
    report["largest_k"] = largest_k(model, vocabulary, deadline)
    print(f"{shape}: largest K {report['largest_k']}")
    return report


def measure_ours(
    report: dict[str, Any],
    model: nn.Module,
    rows: list[Row],
    tokens_a_step: list[int],
    deadline: float,
) -> None:
    """Our way at several batches, and the share of the products' rate at the best of them."""
    mean_tokens = sum(map(packed_length, rows)) / len(rows)
    report["unique_tokens_a_row"] = mean_tokens
    started = time.perf_counter()
    step(model, rows[:4], ours, True)
    synchronize()
    report["first_step_seconds"] = time.perf_counter() - started
    # At least so many tokens: rows differ in length.
    sizes = [math.ceil(tokens / mean_tokens) + 1 for tokens in tokens_a_step]
    report["ours"] = until_full(sizes, lambda batch: step(model, batch, ours, True), rows, deadline)
    fastest = best(report["ours"])
    hours = LASTFM_TRAINING_ROWS * PAPER_EPOCHS / fastest["rows_per_second"] / 3600
    report["paper_lastfm_hours"] = {"here": hours, "published_a100": PAPER_A100_HOURS}
    print(f"{report['shape']}: ours {fastest}, the paper's LastFM run {hours:.2f} hours")

    batch = rows[: int(fastest["rows"])]
    tokens = sum(map(packed_length, batch))
    places = sum(1 + packed_length(row) - len(row.prompt_ids) for row in batch)
    products, operations = product_seconds(model, tokens, places)
    report["products"] = {
        "tokens": tokens,
        "seconds": products,
        "teraflops": operations / products / 1e12,
        "share_of_step": products / fastest["seconds"],
    }
    print(f"{report['shape']}: products {report['products']}")


def measure_objective(report: dict[str, Any], model: nn.Module, batch: list[Row]) -> None:
    """A step's wall clock without and with DynamicPO, and its selection alone."""
    plain = measured(lambda: step(model, batch, ours, False), len(batch), repeats=5)
    dynamic = measured(lambda: step(model, batch, ours, True), len(batch), repeats=5)
    selection = selection_seconds(len(batch))
    report["dynamicpo"] = {
        "step_seconds_without": plain["seconds"],
        "step_seconds_with": dynamic["seconds"],
        "added": dynamic["seconds"] / plain["seconds"] - 1,
        "selection_seconds": selection,
        "selection_share": selection / dynamic["seconds"],
    }
    print(f"{report['shape']}: DynamicPO {report['dynamicpo']}")


def measure_published(
    report: dict[str, Any], model: nn.Module, rows: list[Row], deadline: float
) -> None:
    """The published way, without and with its reference, at its own best batch."""

    def published(batch: list[Row]) -> None:
        step(model, batch, published_logps, False)

    def published_with_reference(batch: list[Row]) -> None:
        with torch.no_grad(), torch.autocast(device().type, dtype=torch.bfloat16):
            with model.disable_adapter():
                published_logps(model, batch)
        published(batch)

    report["published"] = until_full([2, 4, 8, 16], published, rows, deadline)
    size = int(best(report["published"])["rows"])
    report["published_with_reference"] = [
        measured(lambda: published_with_reference(rows[:size]), size, repeats=1)
    ]
    fastest = best(report["ours"])
    for name in ("published", "published_with_reference"):
        ratio = fastest["rows_per_second"] / best(report[name])["rows_per_second"]
        report[f"faster_than_{name}"] = ratio
        print(f"{report['shape']}: {ratio:.1f} times {name}")
