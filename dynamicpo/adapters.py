"""LoRA layers on a CPU with fewer passes over memory than peft makes.

peft computes x W' + s (x A') B' term by term: the second term, its scaling and the sum are each written out in full, as
are the two terms of the gradient of x, and every pass costs as much as a thin product. Here both sums are added up
inside the products that make them. Other devices hide such passes well enough, and fused kernels exist for them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from dynamicpo.logps import product_dtype


@contextmanager
def fused_adapters(model: nn.Module) -> Iterator[None]:
    """Within it, a model's LoRA layers compute by `adapted`; those that are more than plain LoRA stay as they are.

    Layers under gradient checkpointing stay too, as they are computed again later, outside.
    """
    kept = getattr(model, "is_gradient_checkpointing", False)
    layers = [layer for layer in model.modules() if isinstance(layer, Linear) and _is_plain(layer) and not kept]
    for layer in layers:
        vars(layer)["forward"] = partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _is_plain(layer: Linear) -> bool:
    """Whether its output is x W' + b + s (x A') B', of a frozen W, and nothing else."""
    names, base = layer.active_adapters, layer.base_layer
    if "forward" in vars(layer) or layer.disable_adapters or layer.merged or len(names) != 1:
        return False
    name = names[0]
    if type(base) is not nn.Linear or base.weight.requires_grad or base.weight.device.type != "cpu":
        return False
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias[name]:
        return False
    if not type(layer.lora_A[name]) is type(layer.lora_B[name]) is nn.Linear:  # wrapped, as FSDP does
        return False
    dropout = layer.lora_dropout[name]
    return isinstance(dropout, nn.Identity) or not dropout.training


def _forward(layer: Linear, inputs: Tensor) -> Tensor:
    base, name = layer.base_layer, layer.active_adapters[0]
    first, second = layer.lora_A[name].weight, layer.lora_B[name].weight
    return adapted(inputs, base.weight, base.bias, first, second, layer.scaling[name])


def adapted(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, lora_a: Tensor, lora_b: Tensor, scaling: float
) -> Tensor:
    """Compute inputs W' + bias + scaling (inputs A') B'; gradients flow to the inputs, A and B, not to W.

    Args:
        inputs: Shape (..., I).
        weight: W, frozen. Shape (O, I).
        bias: Shape (O,), frozen.
        lora_a: A, shape (R, I).
        lora_b: B, shape (O, R).
        scaling: alpha / R.

    Returns:
        Shape (..., O), in autocast's dtype where it is on, else in that of W.

    Source:
        LoRA, arXiv 2106.09685, section 4.1.
    """
    result: Tensor = _Adapted.apply(inputs, weight, bias, lora_a, lora_b, scaling)  # type: ignore[no-untyped-call]
    return result


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, lora_a: Tensor, lora_b: Tensor, scaling: float
    ) -> Tensor:
        kind, dtype = inputs.device.type, product_dtype(weight)
        flat = inputs.flatten(0, -2).to(dtype)
        base, down, up = weight.to(dtype), lora_a.to(dtype), lora_b.to(dtype)
        with torch.autocast(kind, enabled=False):
            result = flat @ base.T if bias is None else torch.addmm(bias.to(dtype), flat, base.T)
            thin = flat @ down.T
            result.addmm_(thin, up.T, alpha=scaling)
        ctx.save_for_backward(flat, thin, base, down, up)
        ctx.scaling, ctx.like, ctx.dtypes = scaling, inputs.shape, (inputs.dtype, lora_a.dtype, lora_b.dtype)
        return result.view(*inputs.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, thin, base, down, up = ctx.saved_tensors
        of_inputs, (of_x, of_down, of_up) = None, ctx.dtypes
        with torch.autocast(flat.device.type, enabled=False):
            given = gradient.flatten(0, -2).to(base.dtype)
            back = (given @ up).mul_(ctx.scaling)
            if ctx.needs_input_grad[0]:
                of_inputs = (given @ base).addmm_(back, down).view(ctx.like).to(of_x)
            of_a = (back.T @ flat).to(of_down)
            of_b = (given.T @ thin).mul_(ctx.scaling).to(of_up)
        return of_inputs, None, None, of_a, of_b, None
