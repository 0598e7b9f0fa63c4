"""`transformers.Trainer` with a loss of ours, a line of metrics for each step, and progress.

All that depends on the trainer of transformers stands here.
"""

import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import Generic

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from dynamicpo.core.errors import DataError
from dynamicpo.core.progress import Progress
from dynamicpo.distributed.group import is_main, world_size
from dynamicpo.distributed.launchers import without_launcher_settings
from dynamicpo.scoring.transformers_internals import (
    expect_process_group,
    switch_noise_off,
    use_one_gpu,
)
from dynamicpo.training.batches import (
    Batch,
    BatchLoss,
    BatchLossFunction,
    Collate,
    StepRows,
)
from dynamicpo.training.checkpoints.random_states import random_states, restore_random_states
from dynamicpo.training.checkpoints.state import (
    TrainingState,
    optimizer_tensors,
    restore_optimizer,
    restore_weights,
    trained_weights,
)
from dynamicpo.training.checkpoints.stopping import stop_requests
from dynamicpo.training.gradients import StepGradients, share_weights
from dynamicpo.training.memory_report import MemoryReport
from dynamicpo.training.micro_batches import Example
from dynamicpo.training.reporting import make_reporting
from dynamicpo.training.row_store import Rows
from dynamicpo.training.schedule import Schedule
from dynamicpo.training.sharding import gather_weights, shard_layers
from dynamicpo.training.step_log import StepLog, StepMetrics

log = logging.getLogger(__name__)

# Arguments of the trainer that no configuration changes.
_FIXED_ARGUMENTS = {
    "optim": "adamw_torch",
    "weight_decay": 0.0,
    # Logging, reporting, progress and saving are ours.
    "logging_strategy": "no",
    # It copies each micro-batch's loss to the host, which waits for the GPU.
    "logging_nan_inf_filter": False,
    "report_to": [],
    "disable_tqdm": True,
    "save_strategy": "no",
    # The columns are arguments of our losses, not of the model, and would all be dropped.
    "remove_unused_columns": False,
    # Batches of token ids are too small to gain from it, and those of rows hold no tensors.
    "dataloader_pin_memory": False,
}
# The name since transformers 5.18, and the one before it, which 5.17 has on GPU machines.
_CHECKPOINTING_ARGUMENT = (
    "activation_checkpointing"
    if "activation_checkpointing" in TrainingArguments.__dataclass_fields__
    else "gradient_checkpointing"
)
_FINAL_STEPS = 10  # so few that training has moved little in them, and enough to smooth batches


class LossTrainer(Trainer, Generic[Example, Batch]):
    """A trainer that minimises a loss of ours.

    Args:
        loss_function: The sum of a batch's losses.
        model: The model to train.
        arguments: Length, batches and device.
        schedule: Learning rates, and whether dropout is on.
        rows: The training rows.
        collate: Rows to a batch.
    """

    lr_scheduler: LambdaLR | None
    step_log: StepLog

    def __init__(
        self,
        loss_function: BatchLossFunction[Batch],
        model: PreTrainedModel,
        arguments: TrainingArguments,
        schedule: Schedule,
        rows: Rows,
        collate: Collate[Example, Batch],
    ) -> None:
        """Have the trainer hand over a step's rows as they are, and leave the division to us."""
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=lambda rows: {"step": StepRows(rows)},
        )
        self._loss_function = loss_function
        self._schedule = schedule
        self._gradients = StepGradients[Example, Batch](
            collate, self._backward, schedule.micro_batch_size, schedule.seed
        )
        self._resumed: TrainingState | None = None

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LambdaLR:
        """The learning rates of our schedule."""
        if self.lr_scheduler is None:
            self.lr_scheduler = self._learning_rates(optimizer or self.optimizer, steps_done=0)
        return self.lr_scheduler

    def _learning_rates(self, optimizer: torch.optim.Optimizer, steps_done: int) -> LambdaLR:
        share = partial(self._schedule.rate_share, num_steps=self.args.max_steps)
        return LambdaLR(optimizer, share, last_epoch=steps_done - 1)

    def train_from(self, state: TrainingState, scratch: Path) -> None:
        """Train from a state on, with what an uninterrupted training would have at this step.

        Args:
            state: The state after some step.
            scratch: An empty folder.
        """
        self._gradients.cutter.max_tokens = state.max_tokens
        if state.ended or state.step >= state.num_steps:
            restore_weights(self.model, state.weights)
            return
        self._resumed = state
        position = TrainerState(
            global_step=state.step,
            train_batch_size=self.args.train_batch_size,
            logging_steps=self.args.logging_steps,
            eval_steps=self.args.eval_steps,
            save_steps=self.args.save_steps,
        )
        # The trainer takes no more from there than the position: the rest comes by the methods
        # below, in place of its own, which would unpickle.
        position.save_to_json(str(scratch / TRAINER_STATE_NAME))
        self.train(resume_from_checkpoint=str(scratch))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        restore_weights(self.model, self._state_to_restore().weights)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        state = self._state_to_restore()
        restore_optimizer(self.optimizer, state.optimizer)
        self.lr_scheduler = self._learning_rates(self.optimizer, state.step)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        restore_random_states(self._state_to_restore().random)
        # The last of the three: its weights take as much memory as the model's.
        self._resumed = None

    def _state_to_restore(self) -> TrainingState:
        assert self._resumed is not None, "the trainer restores what it was not told to"
        return self._resumed

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        checkpoints = self._schedule.checkpoints
        assert checkpoints is not None, "nothing else asks the trainer to save"
        checkpoints.save(self._current_state(checkpoints.is_over))

    def _current_state(self, is_over: bool) -> TrainingState:
        state = TrainingState(
            step=self.state.global_step,
            num_steps=self.state.max_steps,
            ended=is_over,
            weights=trained_weights(self.model),
            optimizer=optimizer_tensors(self.optimizer),
            random=random_states(),
            steps=self.step_log.steps,
            max_tokens=self._gradients.cutter.max_tokens,
        )
        early_stopping = self._schedule.early_stopping
        if early_stopping is not None:
            state.look = early_stopping.look()
            state.best = dict(early_stopping.best_weights())
        if self._schedule.watch is not None:
            state.looks = self._schedule.watch.state()
        return state

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, StepRows[Example]],
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Gradients of a step's mean loss, a micro-batch after the other; returns that loss.

        Raises:
            DataError: The loss is not finite, or a row does not fit into memory.
        """
        model.train()
        if not self._schedule.dropout:
            switch_noise_off(model)
        rows = inputs["step"].rows
        self._step_metrics = self._gradients.compute(model, rows, self.state.global_step + 1)
        return torch.tensor(self._step_metrics["loss"], device=self.args.device)

    def _backward(self, batch: Batch, divisor: float) -> BatchLoss:
        """Add the gradients of a batch's losses over a number."""
        loss = self.batch_loss(batch)
        self.accelerator.backward(loss.total / divisor)
        return loss

    def batch_loss(self, batch: Batch) -> BatchLoss:
        """The loss of a batch, with what its backward pass takes."""
        batch = self._prepare_inputs(batch)
        with self.compute_loss_context_manager():
            return self._loss_function(self.model, batch)

    def pop_step_metrics(self) -> StepMetrics:
        """Metrics of the step that has ended."""
        watch = self._schedule.watch
        if watch is None:
            return self._step_metrics
        looked = watch.measures_of_step(self.state.global_step, self._step_metrics["loss"])
        return {**self._step_metrics, **looked}


def train(
    model: PreTrainedModel,
    rows: Rows,
    collate: Collate[Example, Batch],
    loss_function: BatchLossFunction[Batch],
    schedule: Schedule,
    folder: Path,
    label: str,
) -> list[StepMetrics]:
    """Train a model in place.

    Args:
        model: Its trainable weights change.
        rows: Rows for the collator.
        collate: Rows to a batch with `labels`.
        loss_function: The loss of a batch.
        schedule: Steps, rates, seed, and early stopping, where it is wanted.
        folder: Folder for `steps.jsonl`.
        label: Name in progress and messages.

    Returns:
        The lines of `steps.jsonl`.

    Raises:
        DataError: No rows, a batch that micro-batches do not fill, a loss that is not finite, or a
            row that does not fit into memory.
    """
    if len(rows) == 0:
        raise DataError(
            f"{label}: needs at least one row to train on, got none. "
            "Lower --rows' exclusions or add data."
        )
    schedule.check()
    num_steps = schedule.num_steps(len(rows))
    # The trainer wants a folder, though it saves nothing.
    with tempfile.TemporaryDirectory() as scratch, without_launcher_settings():
        arguments = _training_arguments(schedule, num_steps, scratch)
        trainer = LossTrainer(loss_function, model, arguments, schedule, rows, collate)
        # Without its progress bar the trainer prints to stdout, which is for results.
        trainer.remove_callback(PrinterCallback)
        with Progress(label, num_steps, "steps") as progress:
            path = folder / "steps.jsonl"
            step_log = StepLog(path, trainer.pop_step_metrics, progress, schedule.passes)
            trainer.step_log = step_log
            trainer.add_callback(step_log)
            memory = MemoryReport[Example](
                model, lambda rows: trainer.batch_loss(collate(rows)).total, schedule
            )
            memory.log(label, rows)
            reporting = make_reporting(schedule.reporting, step_log, schedule.run_name or label)
            if reporting is not None and is_main():
                trainer.add_callback(reporting)
            for callback in (schedule.early_stopping, schedule.watch):
                if callback is not None:
                    trainer.add_callback(callback)
            _train_to_the_end(trainer, schedule, Path(scratch))
            if schedule.early_stopping is not None:
                schedule.early_stopping.restore_best()
    gather_weights(model)
    return step_log.steps


def _train_to_the_end(
    trainer: LossTrainer[Example, Batch], schedule: Schedule, scratch: Path
) -> None:
    """Train from the newest checkpoint on, or from the first step where there is none."""
    share_weights(trainer.model)
    if schedule.sharding == "full":
        # Before there is an optimizer, which keeps its state in parts as well.
        shard_layers(trainer.model)
    checkpoints = schedule.checkpoints
    if checkpoints is None:
        trainer.train()
        return
    # The last one: what it saves is of all others' step, too.
    trainer.add_callback(checkpoints)
    state = checkpoints.newest(trainer.model, trainer.args.max_steps)
    with stop_requests(checkpoints.stop):
        if state is None:
            trainer.train()
            return
        trainer.step_log.go_on(state.steps)
        if schedule.early_stopping is not None and state.look is not None:
            schedule.early_stopping.go_on(state.look, state.best)
        if schedule.watch is not None:
            schedule.watch.go_on(state.looks, [line["loss"] for line in state.steps])
        trainer.train_from(state, scratch)


def _training_arguments(schedule: Schedule, num_steps: int, scratch: str) -> TrainingArguments:
    if world_size() > 1:
        expect_process_group()
    arguments = TrainingArguments(
        output_dir=scratch,
        # Micro-batches are cut by us.
        per_device_train_batch_size=schedule.batch_size,
        max_steps=num_steps,
        learning_rate=schedule.learning_rate,
        max_grad_norm=schedule.max_grad_norm,
        # It seeds NumPy's old generator as well, which takes 32 bits.
        seed=schedule.seed % 2**32,
        use_cpu=not torch.cuda.is_available(),
        **{_CHECKPOINTING_ARGUMENT: schedule.gradient_checkpointing},
        **_FIXED_ARGUMENTS,
    )
    use_one_gpu(arguments)
    return arguments


def final_mean(steps: list[StepMetrics], name: str) -> float:
    """Mean of a metric over the last steps."""
    values = [step[name] for step in steps[-_FINAL_STEPS:]]
    return float(np.mean(values))
