"""Early stopping: training ends when validation no longer improves; the best weights are kept."""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

log = logging.getLogger(__name__)


class EarlyStopping(TrainerCallback):
    """Measures validation every so many steps, and stops training when it has got no better.

    Args:
        model: The model in training.
        validation_loss: Computes the loss on held-out rows. Lower is better.
        eval_steps: Steps between two measures.
        patience: Measures without a new best after which training stops.

    Attributes:
        best_step: The step of the best measure; 0 before the first.
        best_loss: Its loss.
    """

    def __init__(
        self,
        model: nn.Module,
        validation_loss: Callable[[], float],
        eval_steps: int,
        patience: int,
    ) -> None:
        """Start without a measure."""
        self.best_step = 0
        self.best_loss = math.inf
        self._model = model
        self._validation_loss = validation_loss
        self._eval_steps = eval_steps
        self._patience = patience
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
        log.info("step %d: validation loss %.4f", state.global_step, loss)
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
