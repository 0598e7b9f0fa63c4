"""Log-probabilities of tokens from hidden states, by a language-model head that is not trained."""

from typing import Any

import torch
from torch import Tensor

CHUNK = 256  # places whose logits are in memory at once; with fewer the head is read too often


def frozen_head_logps(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, source: Tensor, targets: Tensor
) -> Tensor:
    """Log-probability of each target token; gradients flow to the hidden states, not to the head.

    Logits are never in memory as a whole, nor made twice: with the logits of a few places at hand, the forward pass
    also takes their expected head row, sum over v of p_v W_v, which is what the backward pass needs.

    Args:
        hidden: Last hidden states at the places that predict. Shape (P, H).
        weight: The head. Shape (V, H).
        bias: Its bias, if any. Shape (V,).
        source: For each target, its place in `hidden`. Shape (N,).
        targets: Token ids. Shape (N,).

    Returns:
        Shape (N,), float32 or better, nats.
    """
    result: Tensor = _FrozenHead.apply(hidden, weight, bias, source, targets)  # type: ignore[no-untyped-call]
    return result


def product_dtype(weight: Tensor) -> torch.dtype:
    """In what products with a weight are computed: autocast's dtype where it is on, else the weight's own."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        source: Tensor,
        targets: Tensor,
    ) -> Tensor:
        kind, dtype = hidden.device.type, product_dtype(weight)
        exact = torch.promote_types(dtype, torch.float32)
        head, states = weight.to(dtype), hidden.to(dtype)
        result = torch.zeros(len(source), dtype=exact, device=hidden.device)
        expected = (
            torch.empty(hidden.shape, dtype=exact, device=hidden.device)
            if ctx.needs_input_grad[0]
            else None
        )
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(states), CHUNK):
                logits = (states[start : start + CHUNK] @ head.T).to(exact)
                if bias is not None:
                    logits += bias.to(exact)
                place = source - start
                inside = (place >= 0) & (place < len(logits))
                place = place.clamp(0, len(logits) - 1)
                most = logits.amax(-1, keepdim=True)
                logits -= most
                picked = logits[place, targets]
                total = logits.exp_().sum(-1, keepdim=True)
                result = torch.where(inside, picked - total.log()[place, 0], result)
                if expected is not None:
                    expected[start : start + CHUNK] = (logits.to(dtype) @ head).to(exact) / total
        if expected is not None:
            ctx.save_for_backward(expected, head[targets], source)
            ctx.dtype = hidden.dtype
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        expected, rows, source = ctx.saved_tensors
        share = gradient.new_zeros(len(expected)).index_add_(0, source, gradient)
        back = expected.new_zeros(expected.shape).index_add_(
            0, source, rows.to(expected.dtype) * gradient[:, None]
        )
        return (
            back.addcmul_(expected, share[:, None], value=-1).to(ctx.dtype),
            None,
            None,
            None,
            None,
        )
