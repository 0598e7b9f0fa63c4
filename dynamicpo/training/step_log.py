"""The lines of `steps.jsonl`: a line of metrics for each step of a training, and its progress."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dynamicpo.core.progress import Progress

StepMetrics: TypeAlias = dict[str, float | int]  # a line of steps.jsonl


class StepLog(TrainerCallback):
    """Writes a line of metrics for each step, and shows progress.

    Args:
        path: File to append to, inside the unfinished output.
        pop_metrics: Returns the metrics of the step that has ended.
        progress: Progress in steps.
        passes: How often the data set holds each row.
    """

    def __init__(
        self, path: Path, pop_metrics: Callable[[], StepMetrics], progress: Progress, passes: int
    ) -> None:
        """Start with no steps."""
        self._passes = passes
        self.steps: list[StepMetrics] = []
        self._path = path
        self._pop_metrics = pop_metrics
        self._progress = progress
        self._learning_rate = math.nan

    def go_on(self, steps: list[StepMetrics]) -> None:
        """Go on after the steps of an earlier attempt."""
        self.steps = [*steps]
        with self._path.open("w", encoding="utf-8") as stream:
            for line in steps:
                text = json.dumps(line)
                stream.write(f"{text}\n")
        self._progress.skip(len(steps))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember the learning rate of the coming step: at its end the next one is set already."""
        optimizer: torch.optim.Optimizer = kwargs["optimizer"]
        self._learning_rate = float(optimizer.param_groups[0]["lr"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the line of the step."""
        line: StepMetrics = {
            "step": state.global_step,
            "epoch": round(float(state.epoch) * self._passes, 4),
            "learning_rate": self._learning_rate,
        }
        line |= self._pop_metrics()
        self.steps.append(line)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self._progress.advance(1, f"loss {line['loss']:.4f}")
