"""Layers on a CPU with fewer passes over memory than peft and transformers make.

A pass over memory costs as much there as a thin product. LoRA is x W' + s (x A') B', term by term, in peft: the second
term, its scaling and the sum are each written out in full, as are the two terms of the gradient of x. RMSNorm, rotary
positions and the gated unit make as many passes as they have operations, and autograd keeps what each of them read.
Here sums are added up inside the products that make them, and what can be computed again in passing isn't kept. Only
weights that are not trained are done so, but for LoRA's. Other devices hide such passes well enough, and fused kernels
exist for them.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers.activations import SiLUActivation

from dynamicpo.scoring.frozen_head import product_dtype

HOMES = tuple(
    f"transformers.models.{name}.modeling_{name}" for name in ("llama", "mistral", "qwen2", "qwen3")
)
TURNING = "apply_rotary_pos_emb"  # what these modules call the function that `turned` stands in for


@contextmanager
def fused_layers(model: nn.Module) -> Iterator[None]:
    """Within it, what can be of a causal LM is computed by `adapted`, `normed`, `gated` and `turned`.

    Models under gradient checkpointing stay as they are, as their layers are computed again later, outside. One thread
    at a time may use a model so, and no other thread a checkpointed one of the same family.
    """
    with ExitStack() as stack:
        if not any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            for layer in model.modules():
                if function := _fused_forward(layer):
                    stack.enter_context(_replaced(vars(layer), "forward", partial(function, layer)))
            home = (
                vars(sys.modules[type(model).__module__]) if type(model).__module__ in HOMES else {}
            )
            on_cpu = all(weight.device.type == "cpu" for weight in model.parameters())
            if on_cpu and home.get(TURNING, turned) is not turned:
                stack.enter_context(_replaced(home, TURNING, turned))
        yield


@contextmanager
def _replaced(names: dict[str, Any], name: str, value: object) -> Iterator[None]:
    """Within it, a name stands for another value."""
    before = names.get(name)
    names[name] = value
    try:
        yield
    finally:
        if before is None:
            del names[name]
        else:
            names[name] = before


def _fused_forward(layer: Any) -> Callable[[Any, Tensor], Tensor] | None:
    """What computes a layer in fewer passes, if anything does."""
    if "forward" in vars(layer):
        return None
    if isinstance(layer, Linear):
        return _forward_adapted if _is_plain(layer) else None
    if type(layer).__module__ in HOMES:
        if type(layer).__name__.endswith("RMSNorm"):
            return _forward_normed if _is_frozen(layer) else None
        if type(layer).__name__.endswith("MLP"):
            parts = (layer.gate_proj, layer.up_proj, layer.down_proj)
            plain = all(_is_linear(part) and part.bias is None for part in parts)
            known = isinstance(layer.act_fn, nn.SiLU | SiLUActivation) and not _is_watched(
                layer.act_fn
            )
            return _forward_gated if plain and known else None
    return None


def _is_frozen(layer: nn.Module) -> bool:
    """Whether its weights are on the CPU and none is trained."""
    return not any(
        weight.requires_grad or weight.device.type != "cpu" for weight in layer.parameters()
    )


def _is_linear(layer: nn.Module) -> bool:
    """Whether it is a frozen linear layer whose call is its product and nothing else."""
    return (
        type(layer) is nn.Linear
        and _is_frozen(layer)
        and "forward" not in vars(layer)
        and not _is_watched(layer)
    )


def _is_watched(layer: nn.Module) -> bool:
    """Whether hooks wait for its calls."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(vars(layer)[name] for name in names)


def _is_plain(layer: Linear) -> bool:
    """Whether its output is x W' + b + s (x A') B', of a frozen W, and nothing else."""
    names, base = layer.active_adapters, layer.base_layer
    if layer.disable_adapters or layer.merged or len(names) != 1:
        return False
    name = names[0]
    if not _is_linear(base):
        return False
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias[name]:
        return False
    if (
        not type(layer.lora_A[name]) is type(layer.lora_B[name]) is nn.Linear
    ):  # wrapped, as FSDP does
        return False
    if _is_watched(layer.lora_A[name]) or _is_watched(layer.lora_B[name]):
        return False
    dropout = layer.lora_dropout[name]
    return isinstance(dropout, nn.Identity) or not dropout.training


def _forward_adapted(layer: Linear, inputs: Tensor) -> Tensor:
    base, name = layer.base_layer, layer.active_adapters[0]
    first, second = layer.lora_A[name].weight, layer.lora_B[name].weight
    return adapted(inputs, base.weight, base.bias, first, second, layer.scaling[name])


def _forward_normed(layer: Any, inputs: Tensor) -> Tensor:
    if (
        not inputs.dtype == layer.weight.dtype == torch.float32
    ):  # where transformers rounds in between
        result: Tensor = type(layer).forward(layer, inputs)
        return result
    return normed(inputs, layer.weight, layer.variance_epsilon)


def _forward_gated(layer: Any, inputs: Tensor) -> Tensor:
    return gated(inputs, layer.gate_proj.weight, layer.up_proj.weight, layer.down_proj.weight)


def adapted(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
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
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lora_a: Tensor,
        lora_b: Tensor,
        scaling: float,
    ) -> Tensor:
        kind, dtype = inputs.device.type, product_dtype(weight)
        flat = inputs.flatten(0, -2).to(dtype)
        base, down, up = weight.to(dtype), lora_a.to(dtype), lora_b.to(dtype)
        with torch.autocast(kind, enabled=False):
            result = flat @ base.T if bias is None else torch.addmm(bias.to(dtype), flat, base.T)
            thin = flat @ down.T
            result.addmm_(thin, up.T, alpha=scaling)
        ctx.save_for_backward(flat, thin, base, down, up)
        ctx.scaling, ctx.like, ctx.dtypes = (
            scaling,
            inputs.shape,
            (inputs.dtype, lora_a.dtype, lora_b.dtype),
        )
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


def normed(inputs: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Compute inputs / sqrt(mean(inputs ** 2) + epsilon) * weight; gradients flow to the inputs, not to the weight.

    Args:
        inputs: Shape (..., H).
        weight: Frozen. Shape (H,).
        epsilon: Added to the mean of squares.

    Returns:
        Shape (..., H).

    Source:
        RMSNorm, arXiv 1910.07467, equation 4.
    """
    result: Tensor = _Normed.apply(inputs, weight, epsilon)  # type: ignore[no-untyped-call]
    return result


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        size: Tensor = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True)
        inverse = size.square_().div_(inputs.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(inputs, weight, inverse)
        return (inputs * inverse).mul_(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, inverse = ctx.saved_tensors
        given = gradient * weight
        along = (given * inputs).sum(-1, keepdim=True).mul_(inverse**3).div_(-inputs.shape[-1])
        return given.mul_(inverse).addcmul_(inputs, along), None, None


def gated(inputs: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Compute (silu(inputs G') * (inputs U')) D'; gradients flow to the inputs, not to the weights.

    Args:
        inputs: Shape (..., H).
        gate: G, frozen. Shape (I, H).
        up: U, frozen. Shape (I, H).
        down: D, frozen. Shape (H, I).

    Returns:
        Shape (..., H), in autocast's dtype where it is on, else in that of the weights.

    Source:
        SwiGLU, arXiv 2002.05202, equation 6.
    """
    result: Tensor = _Gated.apply(inputs, gate, up, down)  # type: ignore[no-untyped-call]
    return result


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        dtype = product_dtype(gate)
        flat = inputs.flatten(0, -2).to(dtype)
        gate, up, down = gate.to(dtype), up.to(dtype), down.to(dtype)
        with torch.autocast(flat.device.type, enabled=False):
            opened, raised = flat @ gate.T, flat @ up.T
            result = silu(opened).mul_(raised) @ down.T
        ctx.save_for_backward(opened, raised, gate, up, down)
        ctx.like, ctx.dtype = inputs.shape, inputs.dtype
        return result.view(*inputs.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        opened, raised, gate, up, down = ctx.saved_tensors
        with torch.autocast(opened.device.type, enabled=False):
            given = gradient.flatten(0, -2).to(down.dtype) @ down
            back = silu(opened).mul_(given) @ up
            given = torch.ops.aten.silu_backward(given.mul_(raised), opened)
            back.addmm_(given, gate)
        return back.view(ctx.like).to(ctx.dtype), None, None, None


def turned(
    query: Tensor, key: Tensor, cosines: Tensor, sines: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """Turn queries and keys by their positions; arguments are those of transformers' `apply_rotary_pos_emb`.

    Args:
        query: Shape (S, H, T, D), or (S, T, H, D).
        key: The same, of H / G heads.
        cosines: Shape (S, T, D).
        sines: Shape (S, T, D).
        unsqueeze_dim: Where the heads are: 1, or 2.

    Returns:
        Both, of the same shapes.

    Source:
        RoPE, arXiv 2104.09864, equation 34, with the halves of a head as pairs.
    """
    places = cosines.unsqueeze(unsqueeze_dim), sines.unsqueeze(unsqueeze_dim)
    return _Turned.apply(query, *places), _Turned.apply(key, *places)  # type: ignore[no-untyped-call]


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        ctx.dtype = heads.dtype
        first, second = sines.chunk(2, dim=-1)
        return _turn(heads, cosines, -first, second)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cosines, sines = ctx.saved_tensors
        first, second = sines.chunk(2, dim=-1)
        return _turn(gradient, cosines, second, -first).to(ctx.dtype), None, None


def _turn(heads: Tensor, cosines: Tensor, to_first: Tensor, to_second: Tensor) -> Tensor:
    """Each half times its cosines, plus the other half times the sines given for it."""
    result = heads * cosines
    (left, right), (first, second) = (
        heads.to(result.dtype).chunk(2, dim=-1),
        result.chunk(2, dim=-1),
    )
    first.addcmul_(right, to_first)
    second.addcmul_(left, to_second)
    return result
