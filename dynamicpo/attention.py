"""The attention of a packed sequence (see `packing`): rows and answers kept apart, without a mask of the whole.

A row is done in blocks: parts of its prompt, then groups of its answers. A block's tokens see all of the prompt
before them and, by a small mask, each other; nothing is computed between rows or between groups of answers, and keys
that heads share (grouped-query attention) are never repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from dynamicpo.packing import Packed

PROMPT_BLOCK = 128  # tokens of a prompt that ask at once
ANSWER_BLOCK = 128  # tokens of answers that ask at once, unless a single answer has more
MOST_WEIGHTS = 2**20  # of a row, for each head: products keep them all, which is too much for long prompts


@dataclass(frozen=True)
class Block:
    """Tokens that ask at once.

    Attributes:
        asking: The tokens.
        earlier: The prompt's tokens before them, all of which they see.
        mask: Which of themselves they see. Bool, (n, n).
    """

    asking: slice
    earlier: slice
    mask: Tensor

    @cached_property
    def hidden(self) -> Tensor:
        """Which of themselves they don't see, for all heads. Bool, (n, 1, n)."""
        return ~self.mask[:, None]

    @cached_property
    def seen(self) -> list[slice]:
        """All the tokens that it sees, as one slice where they are next to each other."""
        if self.earlier.stop == self.asking.start:
            return [slice(self.earlier.start, self.asking.stop)]
        return [self.earlier, self.asking]


def blocks_of(packed: Packed, prompt_block: int, answer_block: int) -> list[Block]:
    """Cut a sequence's rows into blocks.

    Args:
        packed: One sequence.
        prompt_block: Most tokens of a block of a prompt.
        answer_block: Most tokens of a block of answers, each of which stays whole.
    """
    segments, result = packed.segments[0], []

    def add(start: int, until: int, here: int, there: int) -> None:
        own = segments[here:there]
        mask = (own[:, None] == own[None, :]).tril()
        result.append(Block(slice(here, there), slice(start, until), mask))

    for (start, answers, end), borders in zip(packed.spans, packed.borders, strict=True):
        for here in range(start, answers, prompt_block):
            add(start, here, here, min(here + prompt_block, answers))
        here = answers
        for border, following in zip(borders, [*borders[1:], end], strict=True):
            if following - here > answer_block and border > here:
                add(start, answers, here, border)
                here = border
        if end > here:
            add(start, answers, here, end)
    return result


class SplitAttention:
    """Attention block by block, as a model's attention.

    On a CPU and for rows of usual length the blocks are plain products of matrices, as the backward pass of SDPA is
    slow there (more so in bfloat16).
    """

    def __init__(self, packed: Packed) -> None:
        """Make the blocks, once for all layers."""
        on_cpu = packed.segments.device.type == "cpu"
        self.blocks = blocks_of(packed, PROMPT_BLOCK if on_cpu else packed.token_ids.shape[1], ANSWER_BLOCK)
        sizes = [(block, block.mask.shape[0]) for block in self.blocks]
        weights = max(
            sum(size * (_length(block.earlier) + size) for block, size in sizes if start <= block.asking.start < end)
            for start, _, end in packed.spans
        )
        self.products = on_cpu and weights <= MOST_WEIGHTS

    def __call__(
        self, _: nn.Module, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0, **settings: Any
    ) -> Tensor:
        """Heads' outputs, (1, T, H, D), of query (1, H, T, D) and key, value (1, H / G, T, D)."""
        # Heads that share keys stand on an axis of their own, along which keys and values are not copied.
        query, key, value = query[0].view(key.shape[1], -1, *query.shape[2:]), key[0], value[0]
        scale = settings.get("scaling") or query.shape[-1] ** -0.5
        if self.products and not dropout:
            result: Tensor = Products.apply(query, key, value, self.blocks, scale)  # type: ignore[no-untyped-call]
        else:
            result = torch.cat([_fused(query, key, value, block, dropout, scale) for block in self.blocks])
        return result.flatten(1, 2)[None]


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _seen(values: Tensor, block: Block) -> Tensor:
    """What a block sees, of keys or values (..., T, D): the earlier tokens, then its own."""
    parts = [values[..., part, :] for part in block.seen]
    return torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0]


def _fused(query: Tensor, key: Tensor, value: Tensor, block: Block, dropout: float, scale: float) -> Tensor:
    """A block's outputs, (n, H / G, G, D), by SDPA."""
    asking = query[:, :, block.asking]
    keys, values = (_seen(part, block)[:, None].expand(-1, query.shape[1], -1, -1) for part in (key, value))
    mask = torch.cat([block.mask.new_ones(len(block.mask), _length(block.earlier)), block.mask], dim=1)
    return scaled_dot_product_attention(asking, keys, values, mask, dropout, scale=scale).permute(2, 0, 1, 3)


class Products(torch.autograd.Function):
    """Attention by products, in float32 at least, with a backward pass that adds up in place.

    Written out because autograd would make a zero of the whole sequence for every slice that a block takes.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scale: float) -> Tensor:
        """Outputs (T, H / G, G, D), of query (H / G, G, T, D) and key, value (H / G, T, D)."""
        dtype = torch.promote_types(query.dtype, torch.float32)
        keys, values = key.to(dtype), value.to(dtype)
        shared, heads, number, width = query.shape
        asking = keys.new_empty(shared, number, heads, width)
        torch.mul(query.transpose(1, 2).to(dtype), scale, out=asking)
        result = query.new_empty(number, shared, heads, width)
        kept = []
        with torch.autocast(query.device.type, enabled=False):
            for block in blocks:
                scores = torch.bmm(_asking(asking, block), _seen(keys, block).mT)
                own = scores.view(shared, -1, heads, scores.shape[-1])[..., _length(block.earlier) :]
                own.masked_fill_(block.hidden, float("-inf"))
                weights = torch.softmax(scores, -1, out=scores)
                output = torch.bmm(weights, _seen(values, block))
                result[block.asking] = output.view(shared, -1, heads, width).transpose(0, 1)
                kept.append(weights)
        ctx.save_for_backward(asking, key, value, *kept)
        ctx.blocks, ctx.scale, ctx.dtype = blocks, scale, query.dtype
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value."""
        asking, key, value, *kept = ctx.saved_tensors
        keys, values = key.to(asking.dtype), value.to(asking.dtype)
        shared, number, heads, width = asking.shape
        given = torch.empty_like(asking).copy_(gradient.transpose(0, 1))
        of_query = asking.new_empty(number, shared, heads, width)
        # with D above T: products that make them so are up to twice as fast
        of_key, of_value = (keys.new_zeros(shared, width, number) for _ in range(2))
        with torch.autocast(asking.device.type, enabled=False):
            for block, weights in zip(ctx.blocks, kept, strict=True):
                asks, gives = _asking(asking, block), _asking(given, block)
                _add_up(of_value, block, torch.bmm(gives.mT, weights))
                scores = torch.bmm(gives, _seen(values, block).mT)
                scores = torch._softmax_backward_data(scores, weights, -1, weights.dtype)
                back = torch.bmm(scores, _seen(keys, block)).view(shared, -1, heads, width)
                torch.mul(back.transpose(0, 1), ctx.scale, out=of_query[block.asking])
                _add_up(of_key, block, torch.bmm(asks.mT, scores))
        of_query = of_query.permute(1, 2, 0, 3).to(ctx.dtype)
        return of_query, of_key.mT.to(key.dtype), of_value.mT.to(value.dtype), None, None


def _asking(query: Tensor, block: Block) -> Tensor:
    """A block's part of (H / G, T, G, D), heads that share keys next to each other: (H / G, n * G, D)."""
    return query[:, block.asking].flatten(1, 2)


def _add_up(total: Tensor, block: Block, gradient: Tensor) -> None:
    """Add the gradient of what a block sees, (H / G, D, m + n), where it belongs."""
    parts = block.seen
    for part, share in zip(parts, gradient.split_with_sizes([_length(part) for part in parts], dim=-1), strict=True):
        total[..., part].add_(share)
