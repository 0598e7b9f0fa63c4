"""Parts of torch that its documentation doesn't promise, in one place, each with our reason.

`tests/dynamicpo/scoring/test_torch_internals.py` fails when torch changes one of them.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

# torch has no public way to ask a module for its hooks.
HOOK_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class SavedContext(Protocol):
    """The context of an autograd function; torch gives it no type that says what it holds."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for the backward pass."""


def has_hooks(module: nn.Module) -> bool:
    """Tell whether hooks wait for the module's calls, which are lost where it isn't called."""
    return any(vars(module)[table] for table in HOOK_TABLES)


def has_replaced_forward(module: nn.Module) -> bool:
    """Tell whether somebody gave this one module, not its class, another `forward`."""
    return "forward" in vars(module)


def softmax_backward_(grad_weights: Tensor, weights: Tensor) -> Tensor:
    """Turn the gradient of softmax's output into that of its input, in place.

    The public operation has no `out`: it would write another tensor as large as the weights.
    """
    torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype, grad_input=grad_weights)
    return grad_weights


def silu_backward(grad_output: Tensor, inputs: Tensor) -> Tensor:
    """Gradient of SiLU's input in one pass; its formula in public operations takes five."""
    result: Tensor = torch.ops.aten.silu_backward(grad_output, inputs)
    return result


def reshape_in_function(values: Tensor, shape: list[int]) -> Tensor:
    """Give the output of an autograd function another shape, without a copy.

    A view that is made within one may not be changed in place, which some models do (OLMo clips its
    queries so). This is the operation with which torch's own products do it.
    """
    result: Tensor = torch.ops.aten._unsafe_view(values, shape)
    return result
