"""Numbers and tensors of all processes of a group, put together; each process must call them.

In a process that is alone they return what it has, unchanged.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from dynamicpo.core.errors import LostProcessError
from dynamicpo.core.json_values import JsonValue
from dynamicpo.distributed.group import is_main, rank, world_size

_Unit = TypeVar("_Unit")


def shared_out(units: Sequence[_Unit]) -> Sequence[_Unit]:
    """This process's share of units of work: every n-th of n processes, from its own rank on."""
    return units[rank() :: world_size()]


def add_up(tensors: Sequence[Tensor]) -> None:
    """Put into each tensor the sum of those of all processes."""
    if world_size() == 1:
        return
    # Memory is summed as it lies there: one that is transposed here may not be elsewhere.
    dense = [tensor.contiguous() for tensor in tensors]
    with _others_alive():
        # All on their way before the first is waited for.
        handles = [dist.all_reduce(part, async_op=True) for part in dense]
        for handle in handles:
            handle.wait()
    for tensor, part in zip(tensors, dense, strict=True):
        if part is not tensor:
            tensor.copy_(part)


def total(number: float) -> float:
    """The sum of a number over all processes; whole numbers stay exact."""
    if world_size() == 1:
        return number
    tensor = torch.tensor(number, dtype=torch.float64)
    add_up([tensor])
    return tensor.item()


def largest(number: int) -> int:
    """The largest of a number in all processes."""
    if world_size() == 1:
        return number
    tensor = torch.tensor(number)
    with _others_alive():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def from_main(value: JsonValue) -> JsonValue:
    """A value of the main process, in all of them."""
    if world_size() == 1:
        return value
    content = _bytes_from_main(json.dumps(value).encode())
    received: JsonValue = json.loads(content)
    return received


def tensors_from_main(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the main process, in all of them; where they go is up to the caller."""
    if world_size() == 1:
        return dict(tensors)
    # Not torch's collectives of objects, which pickle.
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    received: dict[str, Tensor] = load(_bytes_from_main(content))
    return received


def _bytes_from_main(content: bytes) -> bytes:
    size = torch.tensor(len(content))
    with _others_alive():
        dist.broadcast(size, src=0)
        buffer = torch.empty(int(size), dtype=torch.uint8)
        if is_main():
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(buffer, src=0)
    return buffer.numpy().tobytes()


@contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            f"{world_size()} processes must live to the end, but one can't be reached any more. "
            "Look at its log. Started again, a training goes on from its last checkpoint."
        ) from error
