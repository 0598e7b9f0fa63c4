"""`transformers.Trainer` with a loss of ours, a line of metrics for each step, and progress.

All that depends on the trainer of transformers stands here.
"""

import json
import logging
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, NotRequired, TypeAlias, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from dynamicpo.core.errors import DataError
from dynamicpo.core.progress import Progress
from dynamicpo.scoring.transformers_internals import (
    count_labels_in_place,
    switch_noise_off,
    use_one_gpu,
)
from dynamicpo.training.launchers import without_launcher_settings
from dynamicpo.training.row_store import Rows
from dynamicpo.training.schedule import Schedule

log = logging.getLogger(__name__)

# Arguments of the trainer that no configuration changes.
_FIXED_ARGUMENTS = {
    "optim": "adamw_torch",
    "weight_decay": 0.0,
    # Logging, progress and saving are ours.
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
IGNORED_LABEL = -100  # as in transformers and torch: a label that does not count
_FINAL_STEPS = 10  # so few that training has moved little in them, and enough to smooth batches


class LabelledBatch(TypedDict):
    """Labels of a batch: the trainer divides the sum of its losses by the number that count.

    `num_labels`, that number, is added to what a collator returns.
    """

    labels: Tensor
    num_labels: NotRequired[int]


class BatchLoss(NamedTuple):
    """The loss of a batch.

    Attributes:
        total: Sum over the labels that count. 0-d.
        metrics: Means over the batch, for the training log. 0-d, on the device.
    """

    total: Tensor
    metrics: dict[str, Tensor]


Example = TypeVar("Example")
Batch = TypeVar("Batch", bound=LabelledBatch)
Collate: TypeAlias = Callable[[list[Example]], Batch]
BatchLossFunction: TypeAlias = Callable[[nn.Module, Batch], BatchLoss]
StepMetrics: TypeAlias = dict[str, float]  # a line of steps.jsonl


def _with_num_labels(collate: Collate[Example, Batch]) -> Collate[Example, Batch]:
    """Have a collator count the labels, while they are on the host: a GPU would be waited for."""

    def collate_and_count(rows: list[Example]) -> Batch:
        batch = collate(rows)
        is_counted = batch["labels"] != IGNORED_LABEL
        num_labels = is_counted.sum()
        batch["num_labels"] = int(num_labels)
        return batch

    return collate_and_count


class _MicroBatchMetrics(NamedTuple):
    num_labels: int
    metrics: dict[str, Tensor]


class LossTrainer(Trainer, Generic[Batch]):
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

    def __init__(
        self,
        loss_function: BatchLossFunction[Batch],
        model: PreTrainedModel,
        arguments: TrainingArguments,
        schedule: Schedule,
        rows: Rows,
        collate: Collate[Example, Batch],
    ) -> None:
        """Have the trainer count all labels of a step, and leave the division to us."""
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=_with_num_labels(collate),
        )
        self._loss_function = loss_function
        self._schedule = schedule
        self._micro_batches: list[_MicroBatchMetrics] = []
        # Without this the trainer hands over no `num_items_in_batch`, and divides the loss by the
        # number of micro-batches, which is wrong where they have unequal numbers of labels.
        self.model_accepts_loss_kwargs = True
        count_labels_in_place(self)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LambdaLR:
        """The learning rates of our schedule."""
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer,
                partial(self._schedule.rate_share, num_steps=num_training_steps),
            )
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Sum of the batch's losses over the number of labels in all micro-batches of the step."""
        # The trainer puts the model into training mode before each call.
        if not self._schedule.dropout:
            switch_noise_off(model)
        total, metrics = self._loss_function(model, inputs)
        num_labels = inputs["num_labels"]
        batch_mean = total.detach() / num_labels
        logged = _MicroBatchMetrics(num_labels, {"loss": batch_mean, **metrics})
        self._micro_batches.append(logged)
        divisor = num_labels if num_items_in_batch is None else num_items_in_batch
        loss = total / divisor
        # As `Trainer` has it for callers that want the model's outputs: there are none here.
        return (loss, {}) if return_outputs else loss

    def pop_step_metrics(self) -> StepMetrics:
        """Means over the micro-batches since the last call, weighted by their labels."""
        micro_batches = self._micro_batches
        self._micro_batches = []
        names = list(micro_batches[0].metrics)
        rows = []
        for micro_batch in micro_batches:
            values = [micro_batch.metrics[name].float() for name in names]
            rows.append(torch.stack(values))
        # One copy to the host for all metrics of the step: each would wait for the GPU.
        table = torch.stack(rows).cpu()
        num_labels = [float(micro_batch.num_labels) for micro_batch in micro_batches]
        weights = torch.tensor(num_labels)
        weighted = table * weights[:, None]
        means = weighted.sum(0) / weights.sum()
        return dict(zip(names, means.tolist(), strict=True))


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

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember the learning rate of the coming step: at its end the next one is set already."""
        optimizer: torch.optim.Optimizer = kwargs["optimizer"]
        self._learning_rate = float(optimizer.param_groups[0]["lr"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the line of the step.

        Raises:
            DataError: The loss is not finite.
        """
        line: StepMetrics = {
            "step": state.global_step,
            "epoch": round(float(state.epoch) * self._passes, 4),
            "learning_rate": self._learning_rate,
        }
        line |= self._pop_metrics()
        if not math.isfinite(line["loss"]):
            raise DataError(
                f"step {state.global_step}: the loss must be finite, got {line['loss']}. "
                "Lower the learning rate."
            )
        self.steps.append(line)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self._progress.advance(1, f"loss {line['loss']:.4f}")


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
        DataError: No rows, a batch that micro-batches do not fill, or a loss that is not finite.
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
            trainer.add_callback(step_log)
            if schedule.early_stopping is not None:
                trainer.add_callback(schedule.early_stopping)
            trainer.train()
            if schedule.early_stopping is not None:
                schedule.early_stopping.restore_best()
    return step_log.steps


def _training_arguments(schedule: Schedule, num_steps: int, scratch: str) -> TrainingArguments:
    num_micro_batches = schedule.batch_size // schedule.micro_batch_size
    arguments = TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=schedule.micro_batch_size,
        gradient_accumulation_steps=num_micro_batches,
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
