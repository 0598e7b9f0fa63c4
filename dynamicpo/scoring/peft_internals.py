"""Attributes of peft's LoRA layers that its documentation doesn't promise, in one place.

The fused layers need the weights themselves, as peft offers only the call of a layer.
`tests/dynamicpo/scoring/test_peft_internals.py` fails when peft changes one of them.
"""

from typing import NamedTuple

from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from dynamicpo.scoring.frozen_layers import is_frozen_linear
from dynamicpo.scoring.torch_internals import has_hooks

__all__ = ["LoraLinear", "LoraWeights", "is_plain_lora", "lora_weights"]


class LoraWeights(NamedTuple):
    """The weights of x W' + b + scaling (x A') B'."""

    weight: Tensor
    bias: Tensor | None
    lora_a: Tensor
    lora_b: Tensor
    scaling: float


def is_plain_lora(layer: LoraLinear) -> bool:
    """Tell whether the output is x W' + b + scaling (x A') B', of a frozen W, and nothing else."""
    if layer.disable_adapters or layer.merged:
        return False
    if len(layer.active_adapters) != 1:
        return False
    if not is_frozen_linear(layer.base_layer):
        return False
    adapter = layer.active_adapters[0]
    if adapter not in layer.lora_A:
        return False
    # Variants (DoRA and others) compute more, and a bias of B isn't part of our kernel.
    if adapter in layer.lora_variant or layer.lora_bias[adapter]:
        return False
    for factor in (layer.lora_A[adapter], layer.lora_B[adapter]):
        # Another type is a wrapper, as FSDP's.
        if type(factor) is not nn.Linear:
            return False
        if has_hooks(factor):
            return False
    dropout = layer.lora_dropout[adapter]
    return isinstance(dropout, nn.Identity) or not dropout.training


def lora_weights(layer: LoraLinear) -> LoraWeights:
    """Look up the weights of a layer with one active adapter."""
    adapter = layer.active_adapters[0]
    return LoraWeights(
        weight=layer.base_layer.weight,
        bias=layer.base_layer.bias,
        lora_a=layer.lora_A[adapter].weight,
        lora_b=layer.lora_B[adapter].weight,
        scaling=layer.scaling[adapter],
    )
