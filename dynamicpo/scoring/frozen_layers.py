"""Layers whose weights are not trained: how to tell them, and the precision of their products."""

import torch
from torch import Tensor, nn

from dynamicpo.scoring.torch_internals import has_hooks, has_replaced_forward


def product_dtype(weight: Tensor) -> torch.dtype:
    """Precision of products with a weight: autocast's where it is on, else the weight's own."""
    device_type = weight.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return weight.dtype


def is_frozen(layer: nn.Module) -> bool:
    """Tell whether none of a layer's weights is trained."""
    return not any(weight.requires_grad for weight in layer.parameters())


def is_frozen_on_cpu(layer: nn.Module) -> bool:
    """Tell whether all of a layer's weights are on the CPU and none is trained."""
    on_cpu = all(weight.device.type == "cpu" for weight in layer.parameters())
    return on_cpu and is_frozen(layer)


def is_bare_linear(layer: nn.Module) -> bool:
    """Tell whether a call of the layer is its product and nothing else.

    Subclasses (4-bit weights), hooks (FSDP, offloading) and replaced forwards do more.
    """
    if type(layer) is not nn.Linear:
        return False
    if has_replaced_forward(layer):
        return False
    return not has_hooks(layer)


def is_frozen_linear(layer: nn.Module) -> bool:
    """Tell whether it is a frozen linear layer without anything around its product."""
    return is_bare_linear(layer) and is_frozen(layer)
