"""Length and speed of a training run."""

import math
from dataclasses import dataclass

from dynamicpo.core.config import PreferenceConfig, SFTConfig
from dynamicpo.core.config_reporting import ReportingSettings
from dynamicpo.core.errors import DataError
from dynamicpo.distributed.group import world_size
from dynamicpo.training.checkpoints.saving import Checkpoints
from dynamicpo.training.collapse_watch import CollapseWatch
from dynamicpo.training.early_stopping import EarlyStopping


@dataclass(frozen=True)
class Schedule:
    """Steps, batches and rates; field names as in the stages' configurations.

    With `dropout` the model is noisy in training, as its own configuration and its adapter's say.
    `passes` says how often the data set holds each row, where it does so more than once.
    `early_stopping` keeps the best weights and may end training early; without it the last ones
    are kept. `checkpoints` are what a training goes on from after it was killed. `reporting` says
    who else is sent its metrics, under the name `run_name`. With `sharding` "full" each process
    holds a part of the layers. `watch` looks for a collapse.
    """

    epochs: float
    max_steps: int
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    warmup_share: float
    max_grad_norm: float
    gradient_checkpointing: bool
    dropout: bool
    seed: int
    passes: int = 1
    early_stopping: EarlyStopping | None = None
    checkpoints: Checkpoints | None = None
    reporting: ReportingSettings = ReportingSettings()
    run_name: str = ""
    sharding: str = "none"
    watch: CollapseWatch | None = None

    @classmethod
    def from_config(cls, config: SFTConfig | PreferenceConfig, learning_rate: float) -> "Schedule":
        """The schedule of a stage, with the learning rate that holds for the model."""
        # 0 stands for the batch, and a batch may have fewer rows than fit into memory.
        micro_batch_size = min(config.micro_batch_size or config.batch_size, config.batch_size)
        return cls(
            epochs=config.epochs,
            max_steps=config.max_steps,
            batch_size=config.batch_size,
            micro_batch_size=micro_batch_size,
            learning_rate=learning_rate,
            warmup_share=config.warmup_share,
            max_grad_norm=config.max_grad_norm,
            gradient_checkpointing=config.gradient_checkpointing,
            # SFT has no reference that its model would have to be compared with.
            dropout=isinstance(config, SFTConfig) or config.dropout,
            seed=config.seed,
            reporting=config,
            sharding=config.sharding,
        )

    def check(self) -> None:
        """Refuse micro-batches that do not fill the batch, and processes without a row of it.

        Raises:
            DataError: The batch size is no multiple of the micro-batch size, or has fewer rows
                than there are processes.
        """
        if self.sharding != "none" and self.early_stopping is not None:
            raise DataError(
                "sharding: early stopping keeps whole weights, which no process has with 'full'. "
                "Set patience to 0, or sharding to 'none'."
            )
        if self.batch_size < world_size():
            raise DataError(
                f"batch_size: must be at least {world_size()}, the number of processes, "
                f"got {self.batch_size}. Raise it, or start fewer processes."
            )
        if self.batch_size % self.micro_batch_size:
            raise DataError(
                f"batch_size: must be a multiple of micro_batch_size ({self.micro_batch_size}), "
                f"got {self.batch_size}."
            )

    def num_steps(self, num_rows: int) -> int:
        """Optimizer steps over so many rows of the data set; its last batch may be smaller."""
        if self.max_steps:
            return self.max_steps
        steps_per_epoch = math.ceil(num_rows / self.batch_size)
        return max(1, round(steps_per_epoch * self.epochs / self.passes))

    def rate_share(self, step: int, num_steps: int) -> float:
        """Share of the peak learning rate at a step, counted from 0: a line up, then a cosine.

        Both ends stay above 0, where a step would change nothing.
        """
        warmup_steps = round(num_steps * self.warmup_share)
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
