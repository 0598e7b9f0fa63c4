"""Forward and backward passes of frozen layers, written out for CPUs.

A pass over memory costs as much there as a product with a thin matrix. LoRA is x W' + s (x A') B',
term by term, in peft: the second term, its scaling and the sum are each written out in full, as are
the two terms of the gradient of x. RMSNorm, rotary positions and the gated unit make as many passes
as they have operations, and autograd keeps what each of them read.

Here sums are added up inside the products that make them (`addmm_` writes onto its first operand),
temporaries are overwritten in place, and what is cheap to compute again is not kept. Each pass
through `save_for_backward` is a view or a tensor that exists anyway.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from dynamicpo.scoring.frozen_layers import product_dtype
from dynamicpo.scoring.torch_internals import SavedContext, reshape_in_function, silu_backward


def fused_lora(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
) -> Tensor:
    """Compute inputs W' + bias + scaling (inputs A') B'.

    Gradients flow to the inputs, A and B, not to W.

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
    result: Tensor = _FusedLora.apply(inputs, weight, bias, lora_a, lora_b, scaling)  # type: ignore[no-untyped-call]
    return result


class _LoraContext(SavedContext, Protocol):
    scaling: float
    input_shape: torch.Size
    input_dtype: torch.dtype
    a_dtype: torch.dtype
    b_dtype: torch.dtype


class _FusedLora(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _LoraContext,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lora_a: Tensor,
        lora_b: Tensor,
        scaling: float,
    ) -> Tensor:
        ctx.scaling = scaling
        ctx.input_shape = inputs.shape
        ctx.input_dtype = inputs.dtype
        ctx.a_dtype = lora_a.dtype
        ctx.b_dtype = lora_b.dtype
        dtype = product_dtype(weight)
        rows = _as_rows(inputs, dtype)
        weight = weight.to(dtype)
        down = lora_a.to(dtype)
        up = lora_b.to(dtype)
        # Everything is in the product's dtype already; autocast would only look at it again.
        with torch.autocast(inputs.device.type, enabled=False):
            if bias is None:
                result = rows @ weight.T
            else:
                result = torch.addmm(bias.to(dtype), rows, weight.T)
            thin = rows @ down.T
            # Product, scaling and sum in one pass over the result.
            result.addmm_(thin, up.T, alpha=scaling)
        ctx.save_for_backward(rows, thin, weight, down, up)
        return _as_tokens(result, inputs.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: _LoraContext, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, thin, weight, down, up = ctx.saved_tensors
        grad_output = _as_rows(gradient, weight.dtype)
        grad_input = None
        with torch.autocast(rows.device.type, enabled=False):
            # The scaling is applied to the thin side, R columns instead of I.
            grad_thin = grad_output @ up
            grad_thin.mul_(ctx.scaling)
            if ctx.needs_input_grad[0]:
                grad_rows = grad_output @ weight
                grad_rows.addmm_(grad_thin, down)
                grad_input = grad_rows.view(ctx.input_shape).to(ctx.input_dtype)
            grad_a = grad_thin.T @ rows
            grad_b = grad_output.T @ thin
            grad_b.mul_(ctx.scaling)
        grad_a = grad_a.to(ctx.a_dtype)
        grad_b = grad_b.to(ctx.b_dtype)
        return grad_input, None, None, grad_a, grad_b, None


def _as_rows(values: Tensor, dtype: torch.dtype) -> Tensor:
    """View tokens (..., H) as the rows of a matrix; copied only where the dtype changes."""
    return values.flatten(0, -2).to(dtype)


def _as_tokens(rows: Tensor, input_shape: torch.Size) -> Tensor:
    """Shape the rows of a matrix as the tokens of the inputs, (..., O)."""
    shape = [*input_shape[:-1], rows.shape[-1]]
    return reshape_in_function(rows, shape)


def fused_rms_norm(inputs: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Compute inputs / sqrt(mean(inputs ** 2) + epsilon) * weight.

    Gradients flow to the inputs, not to the weight.

    Args:
        inputs: Shape (..., H).
        weight: Frozen. Shape (H,).
        epsilon: Added to the mean of squares.

    Returns:
        Shape (..., H).

    Source:
        RMSNorm, arXiv 1910.07467, equation 4.
    """
    result: Tensor = _FusedRMSNorm.apply(inputs, weight, epsilon)  # type: ignore[no-untyped-call]
    return result


class _FusedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: SavedContext, inputs: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        width = inputs.shape[-1]
        # The norm reads the inputs once and writes a number a token; inputs ** 2 would be written
        # out in full before its mean is taken.
        inverse: Tensor = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True)
        # These numbers are few; in place they take no other memory.
        inverse.square_()
        inverse.div_(width)
        inverse.add_(epsilon)
        inverse.rsqrt_()
        ctx.save_for_backward(inputs, weight, inverse)
        result = inputs * inverse
        return result.mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: SavedContext, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, inverse = ctx.saved_tensors
        width = inputs.shape[-1]
        # With r = inverse and g = gradient * weight: r g - r^3 / H (g . inputs) inputs.
        grad_normed = gradient * weight
        # The product has no name, so that its memory is free again before the next lines need some.
        along_inputs = (grad_normed * inputs).sum(-1, keepdim=True)
        along_inputs.mul_(inverse**3)
        along_inputs.div_(-width)
        # The last use of g: it is overwritten.
        grad_input = grad_normed.mul_(inverse)
        grad_input.addcmul_(inputs, along_inputs)
        return grad_input, None, None


def fused_swiglu(inputs: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Compute (silu(inputs G') * (inputs U')) D'.

    Gradients flow to the inputs, not to the weights.

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
    result: Tensor = _FusedSwiGLU.apply(inputs, gate, up, down)  # type: ignore[no-untyped-call]
    return result


class _SwiGLUContext(SavedContext, Protocol):
    input_shape: torch.Size
    input_dtype: torch.dtype


class _FusedSwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _SwiGLUContext, inputs: Tensor, gate: Tensor, up: Tensor, down: Tensor
    ) -> Tensor:
        ctx.input_shape = inputs.shape
        ctx.input_dtype = inputs.dtype
        dtype = product_dtype(gate)
        rows = _as_rows(inputs, dtype)
        gate = gate.to(dtype)
        up = up.to(dtype)
        down = down.to(dtype)
        with torch.autocast(rows.device.type, enabled=False):
            gate_out = rows @ gate.T
            up_out = rows @ up.T
            hidden = silu(gate_out)
            hidden.mul_(up_out)
            result = hidden @ down.T
        # `hidden` is made again in the backward pass: two passes, against another tensor of I
        # columns in memory for every layer until then.
        ctx.save_for_backward(gate_out, up_out, gate, up, down)
        return _as_tokens(result, inputs.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: _SwiGLUContext, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gate_out, up_out, gate, up, down = ctx.saved_tensors
        grad_output = _as_rows(gradient, down.dtype)
        with torch.autocast(gate_out.device.type, enabled=False):
            grad_hidden = grad_output @ down
            # The gradient of up_out has no name, so that its memory is free again after this line.
            grad_rows = silu(gate_out).mul_(grad_hidden) @ up
            # The last use of grad_hidden: it is overwritten.
            grad_hidden.mul_(up_out)
            grad_gate_out = silu_backward(grad_hidden, gate_out)
            # The second of the two products adds itself to the first.
            grad_rows.addmm_(grad_gate_out, gate)
        grad_input = grad_rows.view(ctx.input_shape)
        return grad_input.to(ctx.input_dtype), None, None, None


def fused_rotary(
    query: Tensor, key: Tensor, cosines: Tensor, sines: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """Turn queries and keys by their positions.

    The arguments are those of transformers' `apply_rotary_pos_emb`.

    Args:
        query: Shape (S, H, T, D), or (S, T, H, D).
        key: The same, of H / G heads.
        cosines: Shape (S, T, D).
        sines: Shape (S, T, D).
        unsqueeze_dim: The axis of the heads: 1, or 2.

    Returns:
        Both, of the same shapes.

    Source:
        RoPE, arXiv 2104.09864, equation 34, with the halves of a head as pairs.
    """
    cosines = cosines.unsqueeze(unsqueeze_dim)
    sines = sines.unsqueeze(unsqueeze_dim)
    turned_query: Tensor = _FusedRotary.apply(query, cosines, sines)  # type: ignore[no-untyped-call]
    turned_key: Tensor = _FusedRotary.apply(key, cosines, sines)  # type: ignore[no-untyped-call]
    return turned_query, turned_key


class _RotaryContext(SavedContext, Protocol):
    dtype: torch.dtype


class _FusedRotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _RotaryContext, heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.dtype = heads.dtype
        ctx.save_for_backward(cosines, sines)
        first_sines, second_sines = _halves(sines)
        to_first = -first_sines
        return _rotate(heads, cosines, to_first, second_sines)

    @staticmethod
    @once_differentiable
    def backward(ctx: _RotaryContext, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cosines, sines = ctx.saved_tensors
        first_sines, second_sines = _halves(sines)
        # The transpose of a rotation turns the other way: each half gets the other's sines.
        to_second = -first_sines
        grad_heads = _rotate(gradient, cosines, second_sines, to_second)
        grad_heads = grad_heads.to(ctx.dtype)
        return grad_heads, None, None


def _rotate(heads: Tensor, cosines: Tensor, to_first: Tensor, to_second: Tensor) -> Tensor:
    """Add, to each half times its cosines, the other half times the sines for it.

    Halves are views, so that nothing is concatenated: transformers writes out a head whose halves
    are exchanged, its product with the sines, and the sum.
    """
    result = heads * cosines
    heads = heads.to(result.dtype)
    first_in, second_in = _halves(heads)
    first_out, second_out = _halves(result)
    first_out.addcmul_(second_in, to_first)
    second_out.addcmul_(first_in, to_second)
    return result


def _halves(heads: Tensor) -> tuple[Tensor, Tensor]:
    """Split the last axis in two views."""
    first, second = heads.chunk(2, dim=-1)
    return first, second
