"""SFT, preference training and evaluation by their stage functions on the card.

Also what a training step costs. Small folders, so that it takes seconds: does each stage run in
bfloat16 (and in 4 bits where bitsandbytes is there), does a step copy to the host only what it
must, is FlexAttention compiled again after the first batches, and how much time is lost to the data
loader.
"""

import importlib.util
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynamicpo.core.config import EvaluationConfig, PreferenceConfig, SFTConfig
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.scoring import answer_logps
from dynamicpo.training.preference_training import train_preferences
from dynamicpo.training.sft import fine_tune
from tests.fixtures.folders import preference_rows, write_preferences, write_title_model
from tests.gpu.models import SHAPES, lastfm_like_rows, lora_model
from tests.gpu.parts import run_parts
from tests.gpu.speed import step

WARM_BATCHES = 4
MEASURED_BATCHES = 8


@dataclass(frozen=True)
class Folders:
    """What the stages read.

    Attributes:
        preferences: Preference rows.
        backbone: A tiny Llama that knows the titles' words.
    """

    preferences: Path
    backbone: Path


def make_folders(scratch: Path) -> Folders:
    """Preference rows of 40 users, and a backbone for them."""
    rows = {
        "train": preference_rows("train", num_users=40, each=6),
        "validation": preference_rows("validation"),
        "test": preference_rows("test"),
    }
    preferences = write_preferences(scratch / "preferences", rows)
    write_title_model(scratch / "model")
    return Folders(preferences, scratch / "model-base")


def sft_config(folders: Folders, **settings: Any) -> SFTConfig:
    values = {"backbone": str(folders.backbone), "template": "titles", "tuning": "lora"}
    values |= {"max_length": 64, "batch_size": 16, "max_steps": 8, "precision": "bfloat16"}
    return SFTConfig(**{**values, **settings})


def preference_config(**settings: Any) -> PreferenceConfig:
    values = {"num_negatives": 5, "batch_size": 16, "max_steps": 8}
    return PreferenceConfig(**{**values, **settings})


def run_chain(folders: Folders, output: Path, quantization: str) -> dict[str, Any]:
    """Seconds and figures of SFT, preference training and evaluation with generated answers."""
    report: dict[str, Any] = {}
    started = time.perf_counter()
    sft = fine_tune(
        folders.preferences, output / "sft", sft_config(folders, quantization=quantization)
    )
    report["sft"] = {"seconds": time.perf_counter() - started, "loss": sft.counts["final_loss"]}
    started = time.perf_counter()
    trained = train_preferences(
        folders.preferences, output / "sft", output / "dynamicpo", preference_config()
    )
    report["preference_training"] = {
        "seconds": time.perf_counter() - started,
        "loss": trained.counts["final_loss"],
    }
    started = time.perf_counter()
    models = {"sft": output / "sft", "dynamicpo": output / "dynamicpo"}
    config = EvaluationConfig(generate=True, resamples=100)
    evaluation = evaluate(folders.preferences, models, output / "evaluation", config)
    report["evaluation"] = {
        "seconds": time.perf_counter() - started,
        "hit_ratio_at_1": evaluation.counts["dynamicpo_test_hit_ratio_at_1"],
    }
    return report


def copies_to_host(folders: Folders, output: Path) -> dict[str, Any]:
    """Device-to-host copies a step of preference training.

    The slope between a short and a longer training.
    """
    if not torch.cuda.is_available():
        return {"skipped": "no card"}
    counts = {}
    for steps in (6, 16):
        config = preference_config(max_steps=steps, epochs=4.0)
        activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities) as profile:
            train_preferences(
                folders.preferences, output / "sft", output / f"copies-{steps}", config
            )
        names = [event.name for event in profile.events() if event.device_type.name == "CUDA"]
        counts[steps] = sum("Memcpy DtoH" in name for name in names)
    return {"copies": counts, "copies_a_step": (counts[16] - counts[6]) / 10}


def recompilations(shape: str) -> dict[str, Any]:
    """Graphs that the compiler makes in the first batches of different lengths and after them."""
    counters = torch._dynamo.utils.counters["stats"]
    model: nn.Module = lora_model(shape, torch.bfloat16)
    rows = lastfm_like_rows(400, 15, SHAPES[shape]["vocab_size"], seed=5)
    graphs = []
    seconds = []
    start = 0
    for number in range(WARM_BATCHES + MEASURED_BATCHES):
        # Batches of 8 to 30 rows, so that no two are of one length.
        size = 8 + 2 * number if number else 20
        batch = rows[start : start + size]
        start += size
        began = time.perf_counter()
        step(model, batch, lambda model, rows: answer_logps(model, rows, "auto", 10**7), True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        graphs.append(int(counters["unique_graphs"]))
    return {
        "graphs_after_each_batch": graphs,
        "graphs_after_warm_up": graphs[-1] - graphs[WARM_BATCHES - 1],
        "seconds_of_each_batch": seconds,
    }


def loader_share(folders: Folders, output: Path) -> dict[str, float]:
    """Share of a training's wall time spent waiting for the collator and the copy to the card."""
    from torch.utils.data import DataLoader

    waited = 0.0
    original = DataLoader.__iter__

    def timed(self: Any) -> Any:
        nonlocal waited
        iterator = original(self)
        while True:
            began = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                waited += time.perf_counter() - began
            yield batch

    DataLoader.__iter__ = timed  # type: ignore[method-assign]
    started = time.perf_counter()
    try:
        config = preference_config(max_steps=20, epochs=4.0)
        train_preferences(folders.preferences, output / "sft", output / "loader", config)
    finally:
        DataLoader.__iter__ = original  # type: ignore[method-assign]
    whole = time.perf_counter() - started
    return {"waited_seconds": waited, "whole_seconds": whole, "share": waited / whole}


def run(shape: str) -> dict[str, Any]:
    """Everything, each part failing alone."""
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as scratch:
        folders = make_folders(Path(scratch))
        output = Path(scratch) / "out"
        output.mkdir()
        parts: dict[str, Any] = {
            "bfloat16": lambda: run_chain(folders, output, "none"),
            "copies_to_host": lambda: copies_to_host(folders, output),
            "loader": lambda: loader_share(folders, output),
            "recompilations": lambda: recompilations(shape),
        }
        if importlib.util.find_spec("bitsandbytes") is not None:
            (output / "4bit").mkdir()
            parts["4bit"] = lambda: run_chain(folders, output / "4bit", "4bit")
        return run_parts(parts)
