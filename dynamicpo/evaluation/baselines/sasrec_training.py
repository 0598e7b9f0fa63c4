"""Training of SASRec, stopped where held-out answers get no likelier.

Its state after an epoch is a checkpoint's, from which it goes on bit for bit.
"""

import logging
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dynamicpo.core.arrays import IntArray
from dynamicpo.core.progress import Progress
from dynamicpo.evaluation.baselines.sasrec_model import Histories, SASRec, score_items
from dynamicpo.models.execution import device
from dynamicpo.negatives.sequences import IGNORED_TARGET, Sequences, cut_windows
from dynamicpo.training.checkpoints.random_states import (
    restore_torch_random_states,
    torch_random_states,
)
from dynamicpo.training.checkpoints.state import (
    Look,
    TrainingState,
    optimizer_tensors,
    restore_optimizer,
    restore_weights,
    trained_weights,
)
from dynamicpo.training.step_log import StepMetrics

if TYPE_CHECKING:
    from dynamicpo.training.checkpoints.saving import Checkpoints

log = logging.getLogger(__name__)

# Chosen on validation rows of MovieLens-100k (`python -m tests.benchmarks.sasrec_rates`).
EPOCHS = 20
LEARNING_RATE = 5e-3
_PATIENCE = 5  # epochs without a better validation loss
_BATCH_SIZE = 64
_WARM_UP_PARTS = 20  # the warm-up takes one of so many equal parts of training
_ROWS_AT_ONCE = 512  # their scores of all items are the largest tensor


class HeldOutRows(NamedTuple):
    """Rows that training stops by.

    Attributes:
        histories: What came before.
        targets: Codes of the items that came next. Shape (N,).
    """

    histories: Histories
    targets: IntArray


def train_sasrec(
    model: SASRec,
    sequences: Sequences,
    length: int,
    epochs: int,
    rng: np.random.Generator,
    held_out: HeldOutRows | None,
    checkpoints: "Checkpoints | None" = None,
) -> None:
    """Train with AdamW; windows are cut anew in every epoch.

    Args:
        model: In place.
        sequences: Of the training rows.
        length: Of a window.
        epochs: Passes over the sequences, at most.
        rng: Of windows and order.
        held_out: Rows whose loss is measured after every epoch: the weights of the best are kept,
            and training stops after some epochs without a better one. None: all epochs, the last
            weights.
        checkpoints: The state of an earlier attempt is taken from them, and that after an epoch is
            kept when it is due.
    """
    training = _Training(model, epochs, held_out)
    if checkpoints is not None:
        training.go_on(checkpoints)
    with Progress("training SASRec", epochs, "epochs") as progress:
        progress.skip(training.num_done)
        for _ in range(training.num_done):
            # Drawn as they were: what follows is then drawn as it would have been.
            _epoch_windows(sequences, length, rng)
        while not training.is_over:
            training.train_epoch(_epoch_windows(sequences, length, rng))
            progress.advance(1)
            if checkpoints is not None:
                training.keep(checkpoints)
    training.best.restore()


class _Training:
    """A training between two epochs.

    Attributes:
        num_done: Epochs done.
        is_over: Whether it has come to its end.
        best: The best weights so far.
    """

    def __init__(self, model: SASRec, epochs: int, held_out: HeldOutRows | None) -> None:
        self.num_done = 0
        self.is_over = not epochs
        self.best = _BestWeights(model)
        self._model = model
        self._epochs = epochs
        self._held_out = held_out
        parameters = model.parameters()
        self._optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.01)
        self._log: list[StepMetrics] = []

    def train_epoch(self, windows: "_Windows") -> None:
        """Train one more epoch."""
        epoch = self.num_done
        _train_epoch(self._model, self._optimizer, windows, epoch, self._epochs)
        self.num_done += 1
        self.is_over = self.num_done == self._epochs
        line: StepMetrics = {"epoch": self.num_done}
        if self._held_out is not None:
            loss = held_out_loss(self._model, self._held_out)
            self.best.look(epoch, loss)
            num_without = epoch - self.best.epoch
            self.is_over |= num_without >= _PATIENCE
            line["held_out_loss"] = loss
        self._log.append(line)

    def state(self) -> TrainingState:
        """The state to go on from."""
        state = TrainingState(
            self.num_done,
            self._epochs,
            self.is_over,
            weights=trained_weights(self._model),
            optimizer=optimizer_tensors(self._optimizer),
            random=torch_random_states(),
            steps=self._log,
        )
        state.look = self.best.seen(self.num_done)
        state.best = self.best.weights
        return state

    def keep(self, checkpoints: "Checkpoints") -> None:
        """Save the state where it is time to, or where much else may follow.

        Raises:
            DataError: Another attempt has taken over, or it can't be written.
        """
        is_due = checkpoints.is_due(self.num_done)
        if self.is_over:
            is_due = is_due or checkpoints.is_worth_it()
        if is_due:
            state = self.state()
            checkpoints.save(state, "epoch")

    def go_on(self, checkpoints: "Checkpoints") -> None:
        """Go on from the newest state, where there is one.

        Raises:
            DataError: It is of another training, or the place can't be read.
        """
        state = checkpoints.newest(self._model, self._epochs, "epoch")
        if state is None:
            return
        self.num_done = state.step
        self.is_over = state.ended
        restore_weights(self._model, state.weights)
        restore_optimizer(self._optimizer, state.optimizer)
        restore_torch_random_states(state.random)
        self._log = state.steps
        if state.look is not None:
            self.best.go_on(state.look, state.best)


class _BestWeights:
    """The weights of the epoch with the lowest loss so far.

    Attributes:
        epoch: That epoch, from 0.
        weights: By name; none where no loss was a number.
    """

    def __init__(self, model: SASRec) -> None:
        self.epoch = 0
        self.weights: dict[str, Tensor] = {}
        self._model = model
        self._loss = math.inf

    def seen(self, num_epochs: int) -> Look:
        """The numbers to go on from, besides the weights."""
        best_loss = self._loss if self.weights else None
        since = num_epochs - self.epoch
        return Look(best_step=self.epoch, best_loss=best_loss, measures_since_best=since)

    def go_on(self, look: Look, weights: dict[str, Tensor]) -> None:
        """Go on from what an earlier attempt has seen."""
        self.epoch = look["best_step"]
        self.weights = weights
        if look["best_loss"] is not None:
            self._loss = look["best_loss"]

    def look(self, epoch: int, loss: float) -> None:
        """Keep the weights where the loss is a new best."""
        if not loss < self._loss:
            return
        self.epoch = epoch
        self._loss = loss
        state = self._model.state_dict()
        self.weights = {name: weights.clone() for name, weights in state.items()}

    def restore(self) -> None:
        """Give the model the best weights; none were kept where no loss was a number."""
        if not self.weights:
            return
        self._model.load_state_dict(self.weights)
        log.info("SASRec: epoch %d is the best, held-out loss %.4f", self.epoch + 1, self._loss)


def held_out_loss(model: SASRec, rows: HeldOutRows) -> float:
    """Mean negative log-likelihood of the targets among all items, nats."""
    model.eval()
    codes, lengths = rows.histories
    num_rows = len(rows.targets)
    total = 0.0
    for start in range(0, num_rows, _ROWS_AT_ONCE):
        end = start + _ROWS_AT_ONCE
        histories = Histories(codes[start:end], lengths[start:end])
        scores = score_items(model, histories)
        targets = torch.from_numpy(rows.targets[start:end]).to(device())
        loss = nn.functional.cross_entropy(scores, targets, reduction="sum")
        total += loss.item()
    model.train()
    return total / num_rows


class _Windows(NamedTuple):
    """The windows of an epoch: items, the items that follow, and an order of the windows."""

    items: Tensor
    next_items: Tensor
    order: Tensor


def _train_epoch(
    model: SASRec,
    optimizer: torch.optim.Optimizer,
    windows: _Windows,
    epoch: int,
    epochs: int,
) -> None:
    items, next_items, order = windows
    num_windows = len(order)
    for start in range(0, num_windows, _BATCH_SIZE):
        end = start + _BATCH_SIZE
        # Less than 1 after the last batch, so that its learning rate is not 0.
        epoch_share = end / (num_windows + _BATCH_SIZE)
        share = (epoch + epoch_share) / epochs
        _set_learning_rate(optimizer, share)
        batch = order[start:end]
        _step(model, optimizer, items[batch], next_items[batch])


def _epoch_windows(sequences: Sequences, length: int, rng: np.random.Generator) -> _Windows:
    """Cut the windows of an epoch.

    They are few: all of them go to the device at once, and not batch by batch.
    """
    inputs, targets = cut_windows(sequences, length, rng)
    num_windows = len(inputs)
    order = rng.permutation(num_windows)
    return _Windows(_on_device(inputs), _on_device(targets), _on_device(order))


def _on_device(array: IntArray) -> Tensor:
    return torch.from_numpy(array).to(device())


def _step(
    model: SASRec, optimizer: torch.optim.Optimizer, items: Tensor, next_items: Tensor
) -> None:
    """Take one step of gradient descent on a batch of windows, (B, L) both."""
    # Padding is dropped before it is scored: the scores of all items are the largest tensor.
    is_counted = next_items != IGNORED_TARGET
    hidden = model(items)
    scores = model.scores(hidden[is_counted])
    targets = next_items[is_counted]
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(scores, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = model.parameters()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def _set_learning_rate(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """Set a linear warm-up and a cosine decay to 0, at a share of all steps."""
    warm_up = min(1.0, _WARM_UP_PARTS * progress)
    cosine = math.cos(math.pi * progress)
    learning_rate = LEARNING_RATE * warm_up * (1 + cosine) / 2
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
