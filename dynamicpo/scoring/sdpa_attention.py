"""The attention of a packed sequence (see `packing`), block by block (see `attention_blocks`).

Rows and answers are kept apart without a mask over the sequence: nothing is computed between rows
or between groups of answers, and keys that heads share (grouped-query attention) are never
repeated.

Axes: H heads; G heads that share their keys and values, so that there are H / G of those; T tokens
of the sequence; n queries of a block, m tokens that they see; D numbers of a head.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from dynamicpo.scoring.attention_blocks import Block, slice_length, split_into_blocks
from dynamicpo.scoring.packing import Packed
from dynamicpo.scoring.torch_internals import SavedContext, softmax_backward_

PROMPT_BLOCK = 128  # queries of a prompt at once: more would see more of what is masked
ANSWER_BLOCK = 128  # queries of answers at once, unless a single answer has more
# Of a row, for each head: the products keep them for the backward pass, too much for long prompts.
MAX_PRODUCT_WEIGHTS = 2**20


class SplitAttention:
    """Attention block by block, as a model's attention.

    On a CPU and for rows of usual length the blocks are plain products of matrices, as the backward
    pass of SDPA is slow there (more so in bfloat16).
    """

    def __init__(self, packed: Packed) -> None:
        """Make the blocks, once for all layers."""
        on_cpu = packed.segment_ids.device.type == "cpu"
        # On other devices a launch of a kernel costs more than the masked half of a prompt.
        prompt_block = PROMPT_BLOCK if on_cpu else packed.token_ids.shape[1]
        self.rows = split_into_blocks(packed, prompt_block, ANSWER_BLOCK)
        num_weights = max(sum(block.num_weights for block in row) for row in self.rows)
        self.uses_products = on_cpu and num_weights <= MAX_PRODUCT_WEIGHTS

    def __call__(
        self,
        _: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        /,
        dropout: float = 0.0,
        scaling: float | None = None,
        **settings: object,
    ) -> Tensor:
        """Outputs of the heads, (1, T, H, D).

        Args:
            query: Shape (1, H, T, D).
            key: Shape (1, H / G, T, D).
            value: Shape (1, H / G, T, D).
            dropout: Of the attention weights.
            scaling: Of the scores; D ** -0.5 where the model gives none.
            settings: What else a model of transformers says; nothing of it concerns us.
        """
        # Squeezing gives views whose gradients are views as well; those of [0] are zeros of the
        # full size that a copy goes into.
        query = query.squeeze(0)
        key = key.squeeze(0)
        value = value.squeeze(0)
        # Heads that share keys stand on an axis of their own, along which these are not copied.
        query = query.view(len(key), -1, *query.shape[1:])
        scale = scaling or query.shape[-1] ** -0.5
        if self.uses_products and not dropout:
            result: Tensor = ProductAttention.apply(query, key, value, self.rows, scale)  # type: ignore[no-untyped-call]
        else:
            blocks = chain.from_iterable(self.rows)
            outputs = [_sdpa(query, key, value, block, dropout, scale) for block in blocks]
            result = torch.cat(outputs)
        return result.flatten(1, 2)[None]


def _visible(values: Tensor, block: Block) -> Tensor:
    """Keys or values (..., T, D) that a block sees, (..., m, D): the earlier, then its own."""
    parts = [values[..., part, :] for part in block.visible]
    return torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0]


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, block: Block, dropout: float, scale: float
) -> Tensor:
    """Outputs of a block, (n, H / G, G, D), by SDPA."""
    queries = query[:, :, block.queries]
    num_shared = query.shape[1]
    # Expanding repeats nothing in memory.
    keys = _visible(key, block)[:, None].expand(-1, num_shared, -1, -1)
    values = _visible(value, block)[:, None].expand(-1, num_shared, -1, -1)
    sees_earlier = block.mask.new_ones(block.num_queries, block.num_earlier)
    mask = torch.cat([sees_earlier, block.mask], dim=1)
    outputs = scaled_dot_product_attention(queries, keys, values, mask, dropout, scale=scale)
    return outputs.permute(2, 0, 1, 3)


class _ProductContext(SavedContext, Protocol):
    rows: Sequence[Sequence[Block]]
    scale: float


class ProductAttention(torch.autograd.Function):
    """Attention by products, in float32 at least, with a backward pass that adds up in place.

    Written out because autograd would make zeros of the full sequence for every slice that a block
    takes, and add them up. Scores are overwritten by the weights, queries by the outputs, and
    gradients of weights by those of scores, so that a block's large tensors exist once.
    """

    @staticmethod
    def forward(
        ctx: _ProductContext,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Sequence[Sequence[Block]],
        scale: float,
    ) -> Tensor:
        """Outputs (T, H / G, G, D), of query (H / G, G, T, D) and key, value (H / G, T, D)."""
        dtype = torch.promote_types(query.dtype, torch.float32)
        all_keys = key.to(dtype)
        all_values = value.to(dtype)
        num_shared = query.shape[1]
        result = _empty_by_token(query)
        saved_weights = []
        with torch.autocast(query.device.type, enabled=False):
            for block in chain.from_iterable(rows):
                queries = _stacked_heads(query, block, dtype)
                keys = _visible(all_keys, block)
                values = _visible(all_values, block)
                weights = _attention_weights(queries, keys, block, num_shared, scale)
                # The block's queries are a copy that isn't needed any more.
                outputs = torch.bmm(weights, values, out=queries)
                result[block.queries] = _by_token(outputs, num_shared)
                saved_weights.append(weights)
        # Keeping the weights saves the backward pass a product and a softmax for each block.
        ctx.save_for_backward(query, key, value, *saved_weights)
        ctx.rows = rows
        ctx.scale = scale
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: _ProductContext, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, *saved_weights = ctx.saved_tensors
        dtype = torch.promote_types(query.dtype, torch.float32)
        all_keys = key.to(dtype)
        all_values = value.to(dtype)
        num_shared = query.shape[1]
        grad_output = gradient.permute(1, 2, 0, 3)
        grad_query = _empty_by_token(query)
        grad_key = key.new_empty(key.shape[1], key.shape[0], key.shape[2])
        grad_value = value.new_empty(grad_key.shape)
        remaining_weights = iter(saved_weights)
        with torch.autocast(query.device.type, enabled=False):
            for row in ctx.rows:
                totals = _RowGradients(row, all_keys)
                for block in row:
                    weights = next(remaining_weights)
                    queries = _stacked_heads(query, block, dtype)
                    grad_outputs = _stacked_heads(grad_output, block, dtype)
                    totals.add_to_values(block, grad_outputs, weights)
                    grad_weights = torch.bmm(grad_outputs, _visible(all_values, block).mT)
                    grad_scores = softmax_backward_(grad_weights, weights)
                    totals.add_to_keys(block, queries, grad_scores, ctx.scale)
                    # Again the copy of the queries is written over, after its last use.
                    grad_queries = queries.baddbmm_(
                        grad_scores, _visible(all_keys, block), beta=0, alpha=ctx.scale
                    )
                    grad_query[block.queries] = _by_token(grad_queries, num_shared)
                totals.write_to(grad_key, grad_value)
        return (
            grad_query.permute(1, 2, 0, 3),
            grad_key.transpose(0, 1),
            grad_value.transpose(0, 1),
            None,
            None,
        )


class _RowGradients:
    """Gradients of a row's keys and values, to which its blocks add what they see.

    They lie with D above T: products that make them so are up to twice as fast as with T above D.
    """

    def __init__(self, row: Sequence[Block], keys: Tensor) -> None:
        self._start = row[0].queries.start
        self._stop = row[-1].queries.stop
        kv_heads, _, head_dim = keys.shape
        # One allocation for both.
        zeros = keys.new_zeros(2, kv_heads, head_dim, self._stop - self._start)
        self._grad_keys, self._grad_values = zeros

    def add_to_keys(self, block: Block, queries: Tensor, grad_scores: Tensor, scale: float) -> None:
        """Add scale * queries' grad_scores."""
        self._add(self._grad_keys, block, queries, grad_scores, scale)

    def add_to_values(self, block: Block, grad_outputs: Tensor, weights: Tensor) -> None:
        """Add grad_outputs' weights."""
        self._add(self._grad_values, block, grad_outputs, weights, 1)

    def _add(self, total: Tensor, block: Block, left: Tensor, right: Tensor, scale: float) -> None:
        """Add scale * left' right, (H / G, D, m), to the tokens that the block sees."""
        lengths = [slice_length(part) for part in block.visible]
        columns = right.split_with_sizes(lengths, dim=-1)
        for part, of_part in zip(block.visible, columns, strict=True):
            in_row = slice(part.start - self._start, part.stop - self._start)
            # The product adds itself to a view: no temporary of its own.
            total[..., in_row].baddbmm_(left.mT, of_part, alpha=scale)

    def write_to(self, grad_key: Tensor, grad_value: Tensor) -> None:
        """Copy the row's sums into the sequence's gradients, (T, H / G, D)."""
        grad_key[self._start : self._stop] = self._grad_keys.permute(2, 0, 1)
        grad_value[self._start : self._stop] = self._grad_values.permute(2, 0, 1)


def _attention_weights(
    queries: Tensor, keys: Tensor, block: Block, num_shared: int, scale: float
) -> Tensor:
    """Softmax of a block's masked scores. Shape (H / G, n * G, m)."""
    kv_heads, num_rows, _ = queries.shape
    num_visible = keys.shape[1]
    weights = queries.new_empty(kv_heads, num_rows, num_visible)
    # beta = 0 ignores what the memory holds: product and scaling in one pass.
    weights.baddbmm_(queries, keys.mT, beta=0, alpha=scale)
    # All earlier tokens are seen: only the block's own scores need the mask.
    by_query = weights.view(kv_heads, -1, num_shared, num_visible)
    by_query[..., block.num_earlier :].add_(block.attention_bias)
    torch.softmax(weights, -1, out=weights)
    return weights


def _empty_by_token(query: Tensor) -> Tensor:
    """Memory for query's or outputs' numbers, (T, H / G, G, D): a block's are next to each other.

    The layers around attention read them in this order, without another copy.
    """
    kv_heads, num_shared, num_tokens, head_dim = query.shape
    return query.new_empty(num_tokens, kv_heads, num_shared, head_dim)


def _by_token(stacked: Tensor, num_shared: int) -> Tensor:
    """View (H / G, n * G, D) as (n, H / G, G, D)."""
    kv_heads, _, head_dim = stacked.shape
    return stacked.view(kv_heads, -1, num_shared, head_dim).transpose(0, 1)


def _stacked_heads(values: Tensor, block: Block, dtype: torch.dtype) -> Tensor:
    """Copy a block's part of (H / G, G, T, D) to (H / G, n * G, D).

    Heads that share keys become rows of one matrix, whose product with the keys is one product
    instead of G thin ones. The copy also changes the dtype, in the same pass.
    """
    part = values[:, :, block.queries].transpose(1, 2)
    stacked = torch.empty(part.shape, dtype=dtype, device=part.device).copy_(part)
    return stacked.flatten(1, 2)
