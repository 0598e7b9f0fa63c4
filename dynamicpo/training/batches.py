"""Batches of rows, as every training has them: their labels, their loss and their metrics."""

from collections.abc import Callable
from typing import Generic, NamedTuple, NotRequired, TypeAlias, TypedDict, TypeVar

from torch import Tensor, nn

from dynamicpo.training.micro_batches import Example

IGNORED_LABEL = -100  # as in transformers and torch: a label that does not count


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


Batch = TypeVar("Batch", bound=LabelledBatch)
Collate: TypeAlias = Callable[[list[Example]], Batch]
BatchLossFunction: TypeAlias = Callable[[nn.Module, Batch], BatchLoss]


class StepRows(Generic[Example]):
    """The rows of a step, which the data loader hands over without looking into them."""

    def __init__(self, rows: list[Example]) -> None:
        """Keep the rows."""
        self.rows = rows


def with_num_labels(collate: Collate[Example, Batch], rows: list[Example]) -> Batch:
    """Collate, and count the labels while they are on the host: a GPU would be waited for."""
    batch = collate(rows)
    is_counted = batch["labels"] != IGNORED_LABEL
    num_labels = is_counted.sum()
    batch["num_labels"] = int(num_labels)
    return batch
