"""Length and speed of a training run."""

import math
from dataclasses import dataclass

from dynamicpo.core.config import PreferenceConfig, SFTConfig
from dynamicpo.core.errors import DataError
from dynamicpo.training.early_stopping import EarlyStopping


@dataclass(frozen=True)
class Schedule:
    """Steps, batches and rates; field names as in the stages' configurations.

    `early_stopping` ends training early and keeps the best weights; without it the last ones are
    kept.
    """

    epochs: float
    max_steps: int
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    warmup_share: float
    max_grad_norm: float
    gradient_checkpointing: bool
    seed: int
    early_stopping: EarlyStopping | None = None

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
            seed=config.seed,
        )

    def check(self) -> None:
        """Refuse micro-batches that do not fill the batch.

        Raises:
            DataError: The batch size is no multiple of the micro-batch size.
        """
        if self.batch_size % self.micro_batch_size:
            raise DataError(
                f"batch_size: must be a multiple of micro_batch_size ({self.micro_batch_size}), "
                f"got {self.batch_size}."
            )

    def num_steps(self, num_rows: int) -> int:
        """Optimizer steps over so many rows; the last batch of an epoch may be smaller."""
        if self.max_steps:
            return self.max_steps
        steps_per_epoch = math.ceil(num_rows / self.batch_size)
        return max(1, round(steps_per_epoch * self.epochs))
