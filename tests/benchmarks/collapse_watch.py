"""The share of a training's time that the watch for a collapse takes, at its default.

Run `python -m tests.benchmarks.collapse_watch`. The compact model on MovieLens-100k, batches of 64
rows, DMPO with 1 and with 19 negatives: processor time of the looks, the first one among them, over
that of the training with them. A look ranks 20 candidates, whatever the number of negatives.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch

from dynamicpo.core.config import DataConfig, NegativesConfig, PreferenceConfig, SFTConfig
from dynamicpo.data.prepare import prepare_data
from dynamicpo.negatives.sampling import sample_negatives
from dynamicpo.training import preference_training, trainer
from dynamicpo.training.collapse_watch import CollapseWatch
from dynamicpo.training.sft import fine_tune
from tests.benchmarks.measure import seconds

REPORT = Path("build/benchmarks/collapse_watch.json")
LOOK = CollapseWatch._look


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Overhead of the watch for a collapse")
    parser.add_argument("--steps", type=int, default=500, help="steps of each training")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    shares = {}
    with tempfile.TemporaryDirectory() as scratch:
        preferences, adapter = prepared(Path(scratch))
        for num_negatives in (1, 19):
            config = PreferenceConfig(
                dynamic="none", num_negatives=num_negatives, max_steps=options.steps
            )
            output = Path(scratch) / str(num_negatives)
            share = look_share(preferences, adapter, output, config)
            shares[num_negatives] = share
            print(f"K {num_negatives:2}: {share:.1%} of the time are looks", flush=True)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps({"look_shares": shares}, indent=1), encoding="utf-8")
    return 0


def prepared(folder: Path) -> tuple[Path, Path]:
    """Preferences, and an SFT model of a few steps."""
    prepare_data("", "", folder / "examples", DataConfig(source="movielens", k_core=1))
    sample_negatives(folder / "examples", folder / "preferences", NegativesConfig())
    config = SFTConfig(loss_on="history", rows=1000, max_steps=10)
    fine_tune(folder / "preferences", folder / "sft", config)
    return folder / "preferences", folder / "sft"


def look_share(preferences: Path, adapter: Path, output: Path, config: PreferenceConfig) -> float:
    """Processor time of looks over that of the training loop."""
    looks: list[float] = []
    loops: list[float] = []

    def timed_look(watch: CollapseWatch, step: int) -> None:
        looks.append(seconds(lambda: LOOK(watch, step), "cpu"))

    with (
        patch.object(CollapseWatch, "_look", timed_look),
        patch.object(trainer, "train", timed(trainer.train, loops)),
    ):
        preference_training.train_preferences(preferences, adapter, output, config)
    return sum(looks) / sum(loops)


def timed(function: Callable[..., object], times: list[float]) -> Callable[..., object]:
    def run(*arguments: object) -> object:
        results: list[object] = []
        times.append(seconds(lambda: results.append(function(*arguments)), "cpu"))
        return results[0]

    return run


if __name__ == "__main__":
    raise SystemExit(main())
