"""The gradients of a step, of all processes' rows together, in micro-batches that fit into memory.

Every process has all rows of a step, of which it takes every n-th. Sums of gradients and of metrics
over all of them are those of one process, but for rounding.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from dynamicpo.core.errors import DataError
from dynamicpo.distributed.collectives import add_up, largest, shared_out, tensors_from_main, total
from dynamicpo.distributed.group import rank, world_size
from dynamicpo.models.execution import release_memory
from dynamicpo.training.batches import Batch, BatchLoss, Collate, with_num_labels
from dynamicpo.training.checkpoints.random_states import random_states, restore_random_states
from dynamicpo.training.checkpoints.state import trained_weights
from dynamicpo.training.micro_batches import Example, MicroBatches, is_out_of_memory
from dynamicpo.training.sharding import is_sharded
from dynamicpo.training.step_log import StepMetrics

log = logging.getLogger(__name__)

_ROWS_NAMED = 64  # in a message: a usual batch, and no page of names
_NO_LIMIT = 2**62  # tokens of a micro-batch


class _MicroBatchMetrics(NamedTuple):
    num_labels: int
    metrics: dict[str, Tensor]


class _Share(NamedTuple, Generic[Example]):
    """A process's rows of a step; those that do not count are another's, who counts them."""

    rows: list[Example]
    is_counted: bool


class StepGradients(Generic[Example, Batch]):
    """Computes gradients of the mean loss of steps.

    Args:
        collate: Rows to a batch.
        backward: Adds the gradients of a batch's loss, over a number, to those that are there.
        max_rows: Rows of a micro-batch.
        seed: Seed of the noise of several processes.

    Attributes:
        cutter: Cuts a process's rows into micro-batches.
    """

    def __init__(
        self,
        collate: Collate[Example, Batch],
        backward: Callable[[Batch, float], BatchLoss],
        max_rows: int,
        seed: int,
    ) -> None:
        """Start without a limit on tokens."""
        self.cutter = MicroBatches[Example](max_rows)
        self._collate = collate
        self._backward = backward
        self._seed = seed
        self._micro_batches: list[_MicroBatchMetrics] = []
        self._is_sharded = False

    def compute(self, model: nn.Module, rows: list[Example], step: int) -> StepMetrics:
        """Compute the gradients of a step; returns its metrics, its loss among them.

        Args:
            model: The model, whose gradients are zero or none.
            rows: All rows of the step, the same in each process.
            step: The step's number, from 1.

        Raises:
            DataError: The loss is not finite, or a row does not fit into memory.
        """
        share = _own_share(rows)
        self._is_sharded = is_sharded(model)
        self._seed_noise(step)
        before = random_states()
        while self._is_too_large(model, share):
            # All anew: a backward pass that broke off has left a part of its gradients.
            model.zero_grad()
            release_memory()
            restore_random_states(before)
        _add_up_gradients(model)
        metrics = self._mean_metrics()
        _check_finite(model, metrics["loss"], rows, step)
        return metrics

    def _seed_noise(self, step: int) -> None:
        """Give each process noise of its own, which a checkpoint need not hold."""
        if world_size() == 1:
            return
        source = np.random.SeedSequence([self._seed, step, rank()])
        (number,) = source.generate_state(1, np.uint64)
        torch.manual_seed(int(number))

    def _is_too_large(self, model: nn.Module, share: _Share[Example]) -> bool:
        """Try the step; where memory runs out in any process, all take smaller micro-batches."""
        too_large = self._try_step(share)
        if too_large is not None:
            self.cutter.halve(too_large)
        if not largest(int(too_large is not None)):
            return False
        own_limit = self.cutter.max_tokens or _NO_LIMIT
        limit = self.cutter.max_tokens = -largest(-own_limit)
        if limit < own_limit:
            log.warning("out of memory in another process: micro-batches of %d tokens", limit)
        return True

    def _try_step(self, share: _Share[Example]) -> list[Example] | None:
        """Do a step, up to its gradients; the micro-batch that does not fit ends it."""
        self._micro_batches = []
        parts = self._micro_batches_of(share)
        batches = [with_num_labels(self._collate, part.rows) for part in parts]
        counted = [
            batch["num_labels"]
            for part, batch in zip(parts, batches, strict=True)
            if part.is_counted
        ]
        step_labels = total(sum(counted))
        for part, batch in zip(parts, batches, strict=True):
            try:
                self._add_gradients(batch, step_labels, part.is_counted)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self._is_sharded:
                    raise _out_of_step(part.rows) from None
                return part.rows
        return None

    def _micro_batches_of(self, share: _Share[Example]) -> list[_Share[Example]]:
        parts = [_Share(part, share.is_counted) for part in self.cutter.cut(share.rows)]
        if self._is_sharded:
            # A layer is put together by all processes at once, as often in each of them.
            missing = largest(len(parts)) - len(parts)
            parts += [_Share(parts[-1].rows, is_counted=False)] * missing
        return parts

    def _add_gradients(self, batch: Batch, step_labels: float, is_counted: bool) -> None:
        """Of a micro-batch's losses over the number of labels in the whole step."""
        num_labels = batch["num_labels"]
        divisor = step_labels if is_counted else math.inf
        loss, metrics = self._backward(batch, divisor)
        batch_mean = loss.detach() / num_labels
        weight = num_labels if is_counted else 0
        logged = _MicroBatchMetrics(weight, {"loss": batch_mean, **metrics})
        self._micro_batches.append(logged)

    def _mean_metrics(self) -> StepMetrics:
        """Means over the micro-batches of the step, weighted by their labels."""
        micro_batches = self._micro_batches
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
        sums = weighted.sum(0)
        weight = weights.sum()
        add_up([sums, weight])
        means = sums / weight
        return dict(zip(names, means.tolist(), strict=True))


def _own_share(rows: list[Example]) -> _Share[Example]:
    """Every n-th row: of any batch, so that a last one that is smaller is shared out as well."""
    own = shared_out(rows)
    if own:
        return _Share(list(own), is_counted=True)
    # Fewer rows than processes. The others wait for this one, for zeros of the same shapes.
    return _Share(rows[:1], is_counted=False)


def _add_up_gradients(model: nn.Module) -> None:
    if world_size() == 1:
        return
    gradients = []
    for weight in model.parameters():
        if not weight.requires_grad:
            continue
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        # Those of sharded layers are sums already.
        if not isinstance(weight.grad, DTensor):
            gradients.append(weight.grad)
    add_up(gradients)


def _out_of_step(rows: Sequence[Mapping[str, Any]]) -> DataError:
    """The error of a process that the others can't wait for, as they share each layer."""
    return DataError(
        f"rows {_names(rows)}: must fit into memory at once with sharding, where micro-batches "
        "are not halved. Lower micro_batch_size, or set gradient_checkpointing."
    )


@torch.no_grad()
def share_weights(model: nn.Module) -> None:
    """Give all processes the weights in training of the main one.

    They were made alike already, from one seed or one file, but for what differs between machines.
    """
    if world_size() == 1:
        return
    log.info("%d processes work together", world_size())
    weights = trained_weights(model)
    for name, weight in tensors_from_main(weights).items():
        weights[name].copy_(weight)


def _check_finite(
    model: nn.Module, loss: float, rows: Sequence[Mapping[str, Any]], step: int
) -> None:
    """Check the loss of the step and its gradients, before these change a weight."""
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    norm = float(get_total_norm(gradients)) if math.isfinite(loss) else loss
    if not math.isfinite(norm):
        name, value = ("gradient", norm) if math.isfinite(loss) else ("loss", loss)
        raise DataError(
            f"step {step}: the {name} must be finite, got {value} for the rows {_names(rows)}. "
            "Lower the learning rate, or look at these rows."
        )


def _names(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [row["example_id"] for row in rows]
    shown = ", ".join(names[:_ROWS_NAMED])
    others = len(names) - _ROWS_NAMED
    return f"{shown} and {others} others" if others > 0 else shown
