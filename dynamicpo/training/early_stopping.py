"""The best weights of a training by validation, and its end when that no longer improves."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dynamicpo.training.checkpoints.state import Look

log = logging.getLogger(__name__)


class EarlyStopping(TrainerCallback):
    """Measures validation every so many steps, keeps the best weights, and may end the training.

    Args:
        model: The model in training.
        validation_loss: Computes the loss on held-out rows. Lower is better.
        eval_steps: Steps between two measures.
        patience: Measures without a new best after which training stops; infinite for never.
        measure: What is measured, for messages.

    Attributes:
        best_step: The step of the best measure; 0 before the first.
        best_loss: Its loss.
    """

    def __init__(
        self,
        model: nn.Module,
        validation_loss: Callable[[], float],
        eval_steps: int,
        patience: float = math.inf,
        measure: str = "loss",
    ) -> None:
        """Start without a measure."""
        self.best_step = 0
        self.best_loss = math.inf
        self._model = model
        self._validation_loss = validation_loss
        self._eval_steps = eval_steps
        self._patience = patience
        self._measure = measure
        self._measures_since_best = 0
        self._best_weights: dict[str, Tensor] = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Measure when it is time to, and always at the last step."""
        is_last = state.global_step >= state.max_steps
        if state.global_step % self._eval_steps and not is_last:
            return control
        loss = self._validation_loss()
        log.info("step %d: validation %s %.4f", state.global_step, self._measure, loss)
        if loss < self.best_loss:
            self.best_step = state.global_step
            self.best_loss = loss
            self._measures_since_best = 0
            self._best_weights = _copy_trainable(self._model)
        else:
            self._measures_since_best += 1
        if self._measures_since_best >= self._patience:
            control.should_training_stop = True
        return control

    def look(self) -> Look:
        """Its measures so far, for a checkpoint; the best weights belong to it."""
        return {
            "best_step": self.best_step,
            # JSON has no infinity.
            "best_loss": self.best_loss if self._best_weights else None,
            "measures_since_best": self._measures_since_best,
        }

    def counts(self) -> dict[str, float]:
        """The best measure, by the names that a manifest has for it."""
        name = f"best_validation_{self._measure}".replace(" ", "_")
        return {"best_step": self.best_step, name: self.best_loss}

    def best_weights(self) -> Mapping[str, Tensor]:
        """The weights of the best measure; none before the first."""
        return self._best_weights

    def go_on(self, look: Look, best_weights: Mapping[str, Tensor]) -> None:
        """Go on from what an earlier attempt has seen."""
        self.best_step = look["best_step"]
        best_loss = look["best_loss"]
        self.best_loss = math.inf if best_loss is None else best_loss
        self._measures_since_best = look["measures_since_best"]
        self._best_weights = dict(best_weights)

    @torch.no_grad()
    def restore_best(self) -> None:
        """Put the best weights back into the model."""
        for name, parameter in self._model.named_parameters():
            if name in self._best_weights:
                parameter.copy_(self._best_weights[name])


def _copy_trainable(model: nn.Module) -> dict[str, Tensor]:
    """Copy the weights that training changes, to the CPU: a GPU's memory is for activations."""
    # `cpu` alone would return the very tensor where it is on the CPU already.
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
