"""The attention of a packed sequence (see `packing`): rows and answers kept apart, without a mask of the whole.

A row is done in blocks: parts of its prompt, then groups of its answers. A block's tokens see all of the prompt
before them and, by a small mask, each other; nothing is computed between rows or between groups of answers, and keys
that heads share (grouped-query attention) are never repeated.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from dynamicpo.scoring.packing import Packed

PROMPT_BLOCK = 128  # tokens of a prompt that ask at once
ANSWER_BLOCK = 128  # tokens of answers that ask at once, unless a single answer has more
MOST_WEIGHTS = (
    2**20
)  # of a row, for each head: products keep them all, which is too much for long prompts


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
        """What to add to their own scores: -inf where they don't see, else 0, for all heads. Shape (n, 1, n)."""
        return torch.zeros(self.mask.shape, device=self.mask.device).masked_fill_(
            ~self.mask, float("-inf")
        )[:, None]

    @cached_property
    def seen(self) -> list[slice]:
        """All the tokens that it sees, as one slice where they are next to each other."""
        if self.earlier.stop == self.asking.start:
            return [slice(self.earlier.start, self.asking.stop)]
        return [self.earlier, self.asking]


def blocks_of(packed: Packed, prompt_block: int, answer_block: int) -> list[list[Block]]:
    """Cut each of a sequence's rows into blocks.

    Args:
        packed: One sequence.
        prompt_block: Most tokens of a block of a prompt.
        answer_block: Most tokens of a block of answers, each of which stays whole.
    """
    segments = packed.segments[0]
    result: list[list[Block]] = []

    def add(start: int, until: int, here: int, there: int) -> None:
        own = segments[here:there]
        mask = (own[:, None] == own[None, :]).tril()
        result[-1].append(Block(slice(here, there), slice(start, until), mask))

    for (start, answers, end), borders in zip(packed.spans, packed.borders, strict=True):
        result.append([])
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
        self.rows = blocks_of(
            packed, PROMPT_BLOCK if on_cpu else packed.token_ids.shape[1], ANSWER_BLOCK
        )
        weights = max(
            sum(
                _length(block.asking) * (_length(block.earlier) + _length(block.asking))
                for block in row
            )
            for row in self.rows
        )
        self.products = on_cpu and weights <= MOST_WEIGHTS

    def __call__(
        self,
        _: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout: float = 0.0,
        **settings: Any,
    ) -> Tensor:
        """Heads' outputs, (1, T, H, D), of query (1, H, T, D) and key, value (1, H / G, T, D)."""
        # Heads that share keys stand on an axis of their own, along which keys and values are not copied. Views, whose
        # gradients are views as well: those of [0] are zeros of the whole that a copy goes into.
        query, key, value = (part.squeeze(0) for part in (query, key, value))
        query = query.view(len(key), -1, *query.shape[1:])
        scale = settings.get("scaling") or query.shape[-1] ** -0.5
        if self.products and not dropout:
            result: Tensor = Products.apply(query, key, value, self.rows, scale)  # type: ignore[no-untyped-call]
        else:
            blocks = chain.from_iterable(self.rows)
            result = torch.cat(
                [_fused(query, key, value, block, dropout, scale) for block in blocks]
            )
        return result.flatten(1, 2)[None]


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _seen(values: Tensor, block: Block) -> Tensor:
    """What a block sees, of keys or values (..., T, D): the earlier tokens, then its own."""
    parts = [values[..., part, :] for part in block.seen]
    return torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0]


def _fused(
    query: Tensor, key: Tensor, value: Tensor, block: Block, dropout: float, scale: float
) -> Tensor:
    """A block's outputs, (n, H / G, G, D), by SDPA."""
    asking = query[:, :, block.asking]
    keys, values = (
        _seen(part, block)[:, None].expand(-1, query.shape[1], -1, -1) for part in (key, value)
    )
    mask = torch.cat(
        [block.mask.new_ones(len(block.mask), _length(block.earlier)), block.mask], dim=1
    )
    return scaled_dot_product_attention(asking, keys, values, mask, dropout, scale=scale).permute(
        2, 0, 1, 3
    )


class Products(torch.autograd.Function):
    """Attention by products, in float32 at least, with a backward pass that adds up in place.

    Written out because autograd would make a zero of the whole sequence for every slice that a block takes.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: list[list[Block]], scale: float
    ) -> Tensor:
        """Outputs (T, H / G, G, D), of query (H / G, G, T, D) and key, value (H / G, T, D)."""
        dtype = torch.promote_types(query.dtype, torch.float32)
        keys, values = key.to(dtype), value.to(dtype)
        shared, heads, number, width = query.shape
        result = query.new_empty(number, shared, heads, width)
        kept = []
        with torch.autocast(query.device.type, enabled=False):
            for block in chain.from_iterable(rows):
                asking, seen = _asking(query, block, dtype), _seen(keys, block)
                weights = asking.new_empty(shared, asking.shape[1], seen.shape[1])
                weights.baddbmm_(asking, seen.mT, beta=0, alpha=scale)
                own = weights.view(shared, -1, heads, seen.shape[1])[..., _length(block.earlier) :]
                own.add_(block.hidden)
                torch.softmax(weights, -1, out=weights)
                output = torch.bmm(weights, _seen(values, block), out=asking)
                result[block.asking] = output.view(shared, -1, heads, width).transpose(0, 1)
                kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.rows, ctx.scale = rows, scale
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, *kept = ctx.saved_tensors
        dtype = torch.promote_types(query.dtype, torch.float32)
        keys, values = key.to(dtype), value.to(dtype)
        shared, heads, number, width = query.shape
        of_output, of_query = (
            gradient.permute(1, 2, 0, 3),
            query.new_empty(number, shared, heads, width),
        )
        of_key, of_value = (part.new_empty(number, shared, width) for part in (key, value))
        following = iter(kept)
        with torch.autocast(query.device.type, enabled=False):
            for row in ctx.rows:
                begin, end = row[0].asking.start, row[-1].asking.stop
                # with D above T: products that make them so are up to twice as fast
                to_key, to_value = keys.new_zeros(2, shared, width, end - begin)
                for block in row:
                    asking, given = _asking(query, block, dtype), _asking(of_output, block, dtype)
                    weights = next(following)
                    _add_up(to_value, begin, block, given, weights, 1)
                    scores = torch.bmm(given, _seen(values, block).mT)
                    torch._softmax_backward_data(scores, weights, -1, dtype, grad_input=scores)
                    _add_up(to_key, begin, block, asking, scores, ctx.scale)
                    back = asking.baddbmm_(scores, _seen(keys, block), beta=0, alpha=ctx.scale)
                    of_query[block.asking] = back.view(shared, -1, heads, width).transpose(0, 1)
                of_key[begin:end], of_value[begin:end] = (
                    to_key.permute(2, 0, 1),
                    to_value.permute(2, 0, 1),
                )
        return (
            of_query.permute(1, 2, 0, 3),
            of_key.transpose(0, 1),
            of_value.transpose(0, 1),
            None,
            None,
        )


def _asking(values: Tensor, block: Block, dtype: torch.dtype) -> Tensor:
    """A copy of a block's part of (H / G, G, T, D), heads that share keys next to each other: (H / G, n * G, D)."""
    part = values[:, :, block.asking].transpose(1, 2)
    return torch.empty(part.shape, dtype=dtype, device=part.device).copy_(part).flatten(1, 2)


def _add_up(
    total: Tensor, begin: int, block: Block, left: Tensor, right: Tensor, scale: float
) -> None:
    """Add scale * left' right, of what a block sees, to the row's gradient, (H / G, D, T), which starts at `begin`."""
    parts = block.seen
    for part, share in zip(
        parts, right.split_with_sizes([_length(part) for part in parts], dim=-1), strict=True
    ):
        total[..., part.start - begin : part.stop - begin].baddbmm_(left.mT, share, alpha=scale)
