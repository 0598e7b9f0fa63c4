"""Memory that a training will need, from the forward pass of its longest row."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import chain

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dynamicpo.scoring.transformers_internals import causal_lm

_ADAM_STATES = 2  # means of gradients and of their squares


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a training takes.

    Attributes:
        weights: Those that stay as they are, in memory already.
        trained: Those in training, an adapter's or all; in memory already.
        gradients: Of these.
        optimizer: Its states.
        activations: Kept for the backward pass of a micro-batch, without logits.
        logits: Of a micro-batch, and their gradients.
    """

    weights: int
    trained: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def needed(self) -> int:
        """Bytes that are not in memory yet."""
        return self.gradients + self.optimizer + self.activations + self.logits

    def __str__(self) -> str:
        """Each part in MB or GB."""
        parts = []
        for field in fields(self):
            size = readable(getattr(self, field.name))
            parts.append(f"{field.name} {size}")
        return ", ".join(parts)


class _SavedBytes:
    """Counts what autograd keeps for the backward pass: each storage once, but no weights."""

    def __init__(self, model: nn.Module, vocabulary: int) -> None:
        weights = chain(model.parameters(), model.buffers())
        self._seen = {weight.untyped_storage().data_ptr() for weight in weights}
        self._vocabulary = vocabulary
        self.logits = 0
        self.others = 0

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is saved."""
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address in self._seen:
            return tensor
        # The graph keeps it, so that no other storage gets this address meanwhile.
        self._seen.add(address)
        if tensor.dim() and tensor.shape[-1] == self._vocabulary:
            self.logits += storage.nbytes()
        else:
            self.others += storage.nbytes()
        return tensor


def estimate_memory(
    model: nn.Module,
    forward: Callable[[], Tensor],
    row_tokens: int,
    num_rows: int,
    *,
    checkpointing: bool,
) -> MemoryEstimate:
    """Memory of a training, by the forward pass of one row.

    Args:
        model: The model, with its adapter where it has one; not checkpointed yet.
        forward: The loss of one row.
        row_tokens: Its tokens.
        num_rows: Such rows of a micro-batch.
        checkpointing: Layers will keep their inputs alone, and be computed again one by one.
    """
    config = causal_lm(model).config
    saved = _SavedBytes(model, config.vocab_size)
    with saved_tensors_hooks(saved.add, lambda tensor: tensor):
        loss = forward()
    # What it saved is gone with it.
    del loss
    kept = saved.others
    if checkpointing:
        num_layers = config.num_hidden_layers
        inputs = num_layers * row_tokens * config.hidden_size * torch.float32.itemsize
        kept = inputs + saved.others // num_layers
    trained = _num_bytes(model, is_trained=True)
    return MemoryEstimate(
        weights=_num_bytes(model, is_trained=False),
        trained=trained,
        gradients=trained,
        optimizer=_ADAM_STATES * trained,
        activations=num_rows * kept,
        # The backward pass begins with gradients of the same size.
        logits=num_rows * 2 * saved.logits,
    )


def _num_bytes(model: nn.Module, *, is_trained: bool) -> int:
    sizes = []
    for weight in model.parameters():
        if weight.requires_grad == is_trained:
            sizes.append(weight.numel() * weight.element_size())
    return sum(sizes)


def readable(number: int) -> str:
    """Bytes in GB, or in MB below one."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
