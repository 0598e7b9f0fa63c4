"""Log-probabilities of tokens from hidden states, by a language-model head that is not trained."""

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dynamicpo.scoring.frozen_layers import product_dtype
from dynamicpo.scoring.torch_internals import SavedContext

# Positions whose logits are in memory at once; with fewer the head is read too often, and on a GPU
# starting the kernels takes longer than they run.
CHUNK = 256
GPU_CHUNK = 4096


def frozen_head_logps(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, prediction_index: Tensor, targets: Tensor
) -> Tensor:
    """Log-probability of each target token; gradients flow to the hidden states, not to the head.

    The logits of all positions are never in memory together, nor made twice: with those of a few
    positions at hand, the forward pass also takes their expected head row, sum over v of p_v W_v,
    which is what the backward pass needs.

    Args:
        hidden: Last hidden states at the positions that predict. Shape (P, H).
        weight: The head. Shape (V, H).
        bias: Its bias, if any. Shape (V,).
        prediction_index: For each target, its index in `hidden`. Shape (N,).
        targets: Token ids. Shape (N,).

    Returns:
        Shape (N,), float32 or better, nats.
    """
    result: Tensor = _FrozenHead.apply(hidden, weight, bias, prediction_index, targets)  # type: ignore[no-untyped-call]
    return result


class _HeadContext(SavedContext, Protocol):
    dtype: torch.dtype


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _HeadContext,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        prediction_index: Tensor,
        targets: Tensor,
    ) -> Tensor:
        ctx.dtype = hidden.dtype
        dtype = product_dtype(weight)
        exact = torch.promote_types(dtype, torch.float32)
        head = weight.to(dtype)
        states = hidden.to(dtype)
        result = torch.zeros(len(prediction_index), dtype=exact, device=hidden.device)
        expected_rows = None
        if ctx.needs_input_grad[0]:
            expected_rows = torch.empty(hidden.shape, dtype=exact, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            chunk_size = GPU_CHUNK if hidden.is_cuda else CHUNK
            for start in range(0, len(states), chunk_size):
                chunk = slice(start, start + chunk_size)
                logits = _chunk_logits(states[chunk], head, bias)
                index = prediction_index - start
                # Masked, not selected: a selection's size would have to be known on the host,
                # which waits for the device.
                is_inside = (index >= 0) & (index < len(logits))
                index = index.clamp(0, len(logits) - 1)
                target_logits = logits[index, targets]
                # The logits' memory becomes that of the probabilities, up to their total.
                probabilities = logits.exp_()
                total = probabilities.sum(-1, keepdim=True)
                logps = target_logits - total.log()[index, 0]
                result = torch.where(is_inside, logps, result)
                if expected_rows is not None:
                    row_sums = probabilities.to(dtype) @ head
                    expected_rows[chunk] = row_sums.to(exact) / total
        if expected_rows is not None:
            target_rows = head[targets]
            ctx.save_for_backward(expected_rows, target_rows, prediction_index)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: _HeadContext, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # A target's logp has the gradient W_target - sum over v of p_v W_v at its position.
        expected_rows, target_rows, prediction_index = ctx.saved_tensors
        num_positions = len(expected_rows)
        totals = gradient.new_zeros(num_positions)
        totals.index_add_(0, prediction_index, gradient)
        target_rows = target_rows.to(expected_rows.dtype)
        weighted_rows = target_rows * gradient[:, None]
        grad_hidden = expected_rows.new_zeros(expected_rows.shape)
        grad_hidden.index_add_(0, prediction_index, weighted_rows)
        grad_hidden.addcmul_(expected_rows, totals[:, None], value=-1)
        grad_hidden = grad_hidden.to(ctx.dtype)
        return grad_hidden, None, None, None, None


def _chunk_logits(states: Tensor, head: Tensor, bias: Tensor | None) -> Tensor:
    """Logits of some positions, in float32 or better, minus the largest of each position."""
    exact = torch.promote_types(head.dtype, torch.float32)
    logits = states @ head.T
    # A sum over the vocabulary needs more digits than bfloat16 has.
    logits = logits.to(exact)
    if bias is not None:
        logits += bias.to(exact)
    # Log-probabilities don't change, and exponentials stay finite.
    largest = logits.amax(-1, keepdim=True)
    logits -= largest
    return logits
