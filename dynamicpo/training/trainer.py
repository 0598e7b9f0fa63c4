"""Both training stages run `transformers.Trainer`; this is all we add to it.

A loss of ours in place of its own, one line of metrics per step in `steps.jsonl`, and progress.
"""

import json
import logging
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from dynamicpo.core.errors import DataError
from dynamicpo.core.progress import Progress

log = logging.getLogger(__name__)

# Sum of the losses that the step divides by its number of labels, and what to log (0-d tensors, means of the batch).
BatchLoss = Callable[[nn.Module, Mapping[str, Any]], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; field names as in the stages' configurations."""

    epochs: float
    max_steps: int
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    warmup_share: float
    max_grad_norm: float
    gradient_checkpointing: bool
    seed: int

    @classmethod
    def of(cls, config: Any, learning_rate: float) -> "Schedule":
        """The schedule in a stage's configuration, with the learning rate that holds for the model."""
        values = {name: getattr(config, name) for name in cls.__dataclass_fields__}
        return cls(**{**values, "learning_rate": learning_rate})


class LossTrainer(Trainer):
    """`transformers.Trainer` with a loss of ours; batches carry `labels`, whose counted entries divide the sum."""

    def __init__(self, *, batch_loss: BatchLoss, **kwargs: Any) -> None:
        """Keep the loss, and say that it is scaled for gradient accumulation already."""
        super().__init__(**kwargs)
        self.batch_loss = batch_loss
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False
        self.logged: list[tuple[int, dict[str, Tensor]]] = []

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Sum of the batch's losses over the number of labels in the whole step."""
        total, logged = self.batch_loss(model, inputs)
        count = int((inputs["labels"] != -100).sum())
        loss = total / (num_items_in_batch if num_items_in_batch is not None else count)
        self.logged.append((count, {"loss": total.detach() / count, **logged}))
        return (loss, {}) if return_outputs else loss


class StepLog(TrainerCallback):
    """Writes a line of metrics per step and shows progress."""

    def __init__(self, path: Path, label: str) -> None:
        """Keep the file's place; it is written as the steps go, inside the unfinished output."""
        self._path, self._label = path, label
        self._grad_norm = 0.0
        self.trainer: LossTrainer | None = None
        self.steps: list[dict[str, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the progress."""
        self._progress = Progress(self._label, state.max_steps, "steps")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the learning rate the coming step uses."""
        self._rate = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One line: means over the step's micro-batches, weighted by their labels. One copy to the host."""
        assert self.trainer is not None
        logged, self.trainer.logged = self.trainer.logged, []
        names = list(logged[0][1])
        weights = torch.tensor([float(count) for count, _ in logged])
        values = torch.stack(
            [torch.stack([row[name].float() for name in names]) for _, row in logged]
        ).cpu()
        means = (values * weights[:, None]).sum(0) / weights.sum()
        line = {
            "step": state.global_step,
            "epoch": round(float(state.epoch), 4),
            "learning_rate": self._rate,
        }
        line |= {name: float(value) for name, value in zip(names, means.tolist(), strict=True)}
        if not math.isfinite(line["loss"]):
            raise DataError(
                f"step {state.global_step}: the loss must be finite, got {line['loss']}. Lower the learning rate."
            )
        self.steps.append(line)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self._progress.advance(1, f"loss {line['loss']:.4f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the progress."""
        self._progress.__exit__(None, None, None)


def train(
    model: nn.Module,
    rows: Dataset,
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    batch_loss: BatchLoss,
    schedule: Schedule,
    folder: Path,
    label: str,
) -> list[dict[str, float]]:
    """Train a model in place.

    Args:
        model: Its trainable weights change.
        rows: What the collator makes batches of.
        collate: Rows to a batch with `labels`.
        batch_loss: See `BatchLoss`.
        schedule: Steps, rates, seed.
        folder: Where `steps.jsonl` goes.
        label: What progress calls it.

    Returns:
        The lines of `steps.jsonl`.
    """
    if len(rows) == 0:
        raise DataError(
            f"{label}: needs at least one row to train on, got none. Lower --rows' exclusions or add data."
        )
    micro = min(schedule.micro_batch_size or schedule.batch_size, schedule.batch_size)
    if schedule.batch_size % micro:
        raise DataError(
            f"batch_size: must be a multiple of micro_batch_size ({micro}), got {schedule.batch_size}."
        )
    steps = StepLog(folder / "steps.jsonl", label)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = LossTrainer(
            batch_loss=batch_loss,
            model=model,
            args=_arguments(schedule, micro, scratch, len(rows)),
            train_dataset=rows,
            data_collator=collate,
            callbacks=[steps],
        )
        trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
        steps.trainer = trainer
        trainer.train()
    return steps.steps


def _arguments(schedule: Schedule, micro: int, scratch: str, num_rows: int) -> TrainingArguments:
    per_epoch = -(-num_rows // schedule.batch_size)
    total = schedule.max_steps or max(1, round(per_epoch * schedule.epochs))
    return TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=schedule.batch_size // micro,
        max_steps=total,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(total * schedule.warmup_share),
        max_grad_norm=schedule.max_grad_norm,
        weight_decay=0.0,
        optim="adamw_torch",
        activation_checkpointing=schedule.gradient_checkpointing,
        seed=schedule.seed,
        use_cpu=not torch.cuda.is_available(),
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
