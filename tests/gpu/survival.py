"""Does a training on the card survive what ends others?

A kill in the middle of a step, after which it goes on from its checkpoint (the optimizer's moments
and the random states of the card are in it); memory that runs out; a launcher of one process. Each
has the losses and weights of a training that nothing happened to: the very bytes on CPUs, where
all sums have one order, and within a tolerance on a card.

`python -m tests.gpu.survival PREFERENCES ADAPTER OUTPUT CHECKPOINTS` is the one that is killed.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from dynamicpo.core.config import PreferenceConfig
from dynamicpo.core.config_checkpoints import CheckpointConfig
from dynamicpo.models.checkpoints import load_model
from dynamicpo.training.checkpoints.state import trained_weights
from dynamicpo.training.preference_training import train_preferences
from dynamicpo.training.sft import fine_tune
from dynamicpo.training.step_log import StepLog
from dynamicpo.training.trainer import LossTrainer
from tests.fixtures.killed_trainings import at_call
from tests.gpu.parts import run_parts
from tests.gpu.stages import Folders, make_folders, preference_config, sft_config

HAS_CARD = torch.cuda.is_available()
STEPS, CHECKPOINT_STEPS, KILLED_IN = 8, 4, 6
NO_MEMORY_AT = 3  # calls of the backward pass
LAUNCHED = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
# Sums of atomic additions have any order on a card, those of half a micro-batch another one, and
# Adam takes small gradients by their sign. Losses by their size, weights by how far they went.
LOSS_TOLERANCE = 1e-2
WEIGHT_TOLERANCE = 0.1


class Trained(NamedTuple):
    """A training that has ended.

    Attributes:
        losses: Of each step.
        weights: Those that training changes.
        messages: What it logged.
    """

    losses: list[float]
    weights: Tensor
    messages: list[str]


def config_of(**settings: Any) -> PreferenceConfig:
    """A training with looks at validation, which are in its checkpoint, too."""
    values = {"max_steps": STEPS, "watch_steps": 2, "watch_rows": 20}
    return preference_config(**{**values, **settings})


def train(folders: Folders, adapter: Path, output: Path, kept: Path, **settings: Any) -> Trained:
    place = CheckpointConfig(checkpoints=str(kept), checkpoint_steps=CHECKPOINT_STEPS)
    with logged() as messages:
        train_preferences(folders.preferences, adapter, output, config_of(**settings), place)
    lines = (output / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    return Trained([json.loads(line)["loss"] for line in lines], weights_of(output), messages)


def weights_of(output: Path) -> Tensor:
    """The weights of a folder that training changes, one after the other."""
    weights = trained_weights(load_model(output, trainable=True).model)
    return torch.cat([weights[name].float().cpu().flatten() for name in sorted(weights)])


@contextmanager
def logged() -> Iterator[list[str]]:
    """The messages of the package in the block."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("dynamicpo")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def killed_training(preferences: Path, adapter: Path, output: Path, kept: Path) -> None:
    """Train, and end between the gradients of a step and the step, as a lost node does."""

    def die(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    end_of_backward = StepLog.on_pre_optimizer_step
    with patch.object(StepLog, "on_pre_optimizer_step", at_call(KILLED_IN, end_of_backward, die)):
        train(Folders(preferences, adapter), adapter, output, kept)


def said(trained: Trained, text: str) -> str:
    """The message with a text.

    Raises:
        ValueError: There is none.
    """
    for message in trained.messages:
        if text in message:
            return message
    raise ValueError(f"nothing in the log says {text!r}")


class Survival:
    """The parts, which are compared with one training that nothing happened to."""

    def __init__(self, scratch: Path) -> None:
        """Make rows, an adapter and that training."""
        self._scratch = scratch
        self._folders = make_folders(scratch)
        self._adapter = scratch / "sft"
        config = sft_config(self._folders, max_steps=2)
        fine_tune(self._folders.preferences, self._adapter, config)
        self._start = weights_of(self._adapter)
        self._expected = self._train("uninterrupted")

    def _train(self, name: str, **settings: Any) -> Trained:
        output, kept = self._scratch / name, self._scratch / f"{name}-kept"
        return train(self._folders, self._adapter, output, kept, **settings)

    def _differences(self, found: Trained, exact: bool) -> dict[str, float]:
        """Largest difference of losses, as a share of them, and that of weights, of their way.

        Raises:
            ValueError: They are larger than they may be.
        """
        expected = self._expected
        pairs = zip(found.losses, expected.losses, strict=True)
        losses = max(abs(one - other) / abs(other) for one, other in pairs)
        way = (expected.weights - self._start).norm()
        weights = float((found.weights - expected.weights).norm() / way)
        allowed = (0, 0) if exact else (LOSS_TOLERANCE, WEIGHT_TOLERANCE)
        if losses > allowed[0] or weights > allowed[1]:
            raise ValueError(f"losses differ by {losses:.2g}, weights by {weights:.2g}")
        return {"losses": losses, "weights": weights}

    def kill_and_resume(self) -> dict[str, Any]:
        """A process that is killed, and another one that goes on."""
        name = "killed"
        paths = (
            self._folders.preferences,
            self._adapter,
            self._scratch / name,
            self._scratch / f"{name}-kept",
        )
        command = [sys.executable, "-m", __name__, *map(str, paths)]
        ended = subprocess.run(command, check=False)
        if ended.returncode != -signal.SIGKILL:
            raise ValueError(f"must be killed, but ended with exit code {ended.returncode}")
        resumed = self._train(name)
        message = said(resumed, f"going on from step {CHECKPOINT_STEPS} of {STEPS}")
        return {"said": message, **self._differences(resumed, exact=not HAS_CARD)}

    def out_of_memory(self) -> dict[str, Any]:
        """An allocation that fails in the middle of a step's gradients."""

        def fail(*arguments: Any) -> None:
            raise torch.OutOfMemoryError("injected")

        backward = at_call(NO_MEMORY_AT, LossTrainer._backward, fail)
        with patch.object(LossTrainer, "_backward", backward):
            halved = self._train("halved")
        message = said(halved, "out of memory")
        return {"said": message, **self._differences(halved, exact=False)}

    def one_process(self) -> dict[str, Any]:
        """The environment of torchrun with one process, and the setting."""
        with patched_environment(LAUNCHED):
            alone = self._train("alone", num_processes=1)
        return {
            "cards": torch.cuda.device_count(),
            **self._differences(alone, exact=not HAS_CARD),
        }


@contextmanager
def patched_environment(variables: Mapping[str, str]) -> Iterator[None]:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    with patch.dict(os.environ, {**variables, **place}):
        yield


def run() -> dict[str, Any]:
    """Everything, each part failing alone."""
    with tempfile.TemporaryDirectory() as scratch:
        survival = Survival(Path(scratch))
        return run_parts(
            {
                "kill_and_resume": survival.kill_and_resume,
                "out_of_memory": survival.out_of_memory,
                "one_process": survival.one_process,
            }
        )


if __name__ == "__main__":
    killed_training(*map(Path, sys.argv[1:]))
