"""Lines on a training's memory before it starts: what it takes, what is free, what helps."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor, nn

from dynamicpo.training.checkpoints.random_states import random_states, restore_random_states
from dynamicpo.training.memory_estimate import MemoryEstimate, estimate_memory, readable
from dynamicpo.training.micro_batches import Example, is_out_of_memory, num_tokens
from dynamicpo.training.row_store import Rows
from dynamicpo.training.schedule import Schedule

log = logging.getLogger(__name__)

_ROWS_LOOKED_AT = 1000  # for their longest: all would be read from the disk
_MEMORY_FILE = Path("/proc/meminfo")
# Of a pod, whose limit may be below what its node has.
_LIMIT_FILE = Path("/sys/fs/cgroup/memory.max")
_USED_FILE = Path("/sys/fs/cgroup/memory.current")


class MemoryReport(Generic[Example]):
    """Estimates the memory of a training, and says so in the log.

    Args:
        model: The model in training.
        forward: The loss of some rows, with what its backward pass takes.
        schedule: Micro-batches, and whether layers are computed again.
    """

    def __init__(
        self, model: nn.Module, forward: Callable[[list[Example]], Tensor], schedule: Schedule
    ) -> None:
        """Keep them; nothing is computed yet."""
        self._model = model
        self._forward = forward
        self._schedule = schedule

    def log(self, label: str, rows: Rows) -> None:
        """Log what a micro-batch of the longest of the first rows takes.

        Args:
            label: The training's name.
            rows: Its rows; one of them is computed.
        """
        before = random_states()
        try:
            estimate = self._estimate(rows)
        except RuntimeError as error:
            # Already this row does not fit: a step will say so, and what to do.
            if not is_out_of_memory(error):
                raise
            return
        finally:
            restore_random_states(before)
        log_memory(label, estimate, free_memory(), self._advice())

    def _estimate(self, rows: Rows) -> MemoryEstimate:
        longest = _longest(rows)
        num_rows = min(self._schedule.micro_batch_size, len(rows))
        return estimate_memory(
            self._model,
            lambda: self._forward([longest]),
            num_tokens(longest),
            num_rows,
            checkpointing=self._schedule.gradient_checkpointing,
        )

    def _advice(self) -> list[str]:
        """Settings that take less memory."""
        advice = []
        if self._schedule.micro_batch_size > 1:
            advice.append("lower micro_batch_size")
        if not self._schedule.gradient_checkpointing:
            advice.append("set gradient_checkpointing")
        if all(weight.requires_grad for weight in self._model.parameters()):
            advice.append("set tuning to lora in SFT")
        return advice


def _longest(rows: Rows) -> Any:
    first: list[Mapping[str, Any]] = []
    for index in range(min(_ROWS_LOOKED_AT, len(rows))):
        first.append(rows[index])
    return max(first, key=num_tokens)


def free_memory() -> int | None:
    """Bytes that are free on the GPU, or here; None where nobody says so."""
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return int(free)
    sizes = [size for size in (_free_of_machine(), _free_of_group()) if size is not None]
    return min(sizes, default=None)


def _free_of_machine() -> int | None:
    if not _MEMORY_FILE.is_file():
        return None
    for line in _MEMORY_FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            _, number, _ = line.split()
            return 1024 * int(number)
    return None


def _free_of_group() -> int | None:
    """Bytes that the control group, such as a pod's, may still take."""
    if not _LIMIT_FILE.is_file() or not _USED_FILE.is_file():
        return None
    limit = _LIMIT_FILE.read_text(encoding="utf-8").strip()
    if not limit.isdigit():
        return None
    used = _USED_FILE.read_text(encoding="utf-8")
    return int(limit) - int(used)


def log_memory(
    label: str, estimate: MemoryEstimate, free: int | None, advice: Sequence[str]
) -> None:
    """Log an estimate, and what to do where it is more than what is free.

    Args:
        label: The training's name.
        estimate: What it will need.
        free: Bytes that are free; None: unknown.
        advice: What would make it smaller.
    """
    needed = readable(estimate.needed)
    room = "an unknown size" if free is None else readable(free)
    log.info("%s: memory: %s; it takes %s more, %s is free", label, estimate, needed, room)
    if free is not None and estimate.needed > free:
        log.warning(
            "%s: will hardly fit into memory: it takes about %s more, %s is free. %s. "
            "Micro-batches are halved where memory runs out.",
            label,
            needed,
            room,
            "; ".join(advice).capitalize() or "Use a larger device",
        )
