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
        sequence_length = packed.token_ids.shape[1]
        # On other devices a launch of a kernel costs more than the masked half of a prompt.
        prompt_block = PROMPT_BLOCK if on_cpu else sequence_length
        self.rows = split_into_blocks(packed, prompt_block, ANSWER_BLOCK)
        row_weights = [sum(block.num_weights for block in row) for row in self.rows]
        fits_products = max(row_weights) <= MAX_PRODUCT_WEIGHTS
        self.uses_products = on_cpu and fits_products

    def __call__(
        self,
        _layer: nn.Module,
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
            settings: Other arguments of transformers; not used.
        """
        # Squeezing gives views whose gradients are views as well; those of [0] are zeros of the
        # full size that a copy goes into.
        query = query.squeeze(0)
        key = key.squeeze(0)
        value = value.squeeze(0)
        kv_heads = len(key)
        _, num_tokens, head_dim = query.shape
        # Heads that share keys stand on an axis of their own, along which these are not copied.
        query = query.view(kv_heads, -1, num_tokens, head_dim)
        scale = scaling or head_dim**-0.5
        outputs = self._attend(query, key, value, dropout, scale)
        return outputs.flatten(1, 2)[None]

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float
    ) -> Tensor:
        """Outputs (T, H / G, G, D)."""
        if self.uses_products and not dropout:
            result: Tensor = ProductAttention.apply(query, key, value, self.rows, scale)  # type: ignore[no-untyped-call]
            return result
        outputs = []
        for block in chain.from_iterable(self.rows):
            outputs.append(_sdpa(query, key, value, block, dropout, scale))
        return torch.cat(outputs)


def _visible(values: Tensor, block: Block) -> Tensor:
    """Keys or values (..., T, D) that a block sees, (..., m, D): the earlier, then its own."""
    parts = [values[..., part, :] for part in block.visible]
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts, dim=-2)


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, block: Block, dropout: float, scale: float
) -> Tensor:
    """Outputs of a block, (n, H / G, G, D), by SDPA."""
    num_shared = query.shape[1]
    queries = query[:, :, block.queries]
    keys = _for_shared_heads(_visible(key, block), num_shared)
    values = _for_shared_heads(_visible(value, block), num_shared)
    sees_earlier = block.mask.new_ones(block.num_queries, block.num_earlier)
    mask = torch.cat([sees_earlier, block.mask], dim=1)
    outputs = scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask,
        dropout_p=dropout,
        scale=scale,
    )
    return outputs.permute(2, 0, 1, 3)


def _for_shared_heads(values: Tensor, num_shared: int) -> Tensor:
    """View (H / G, m, D) as (H / G, G, m, D): nothing is repeated in memory."""
    return values[:, None].expand(-1, num_shared, -1, -1)


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
        kv_heads, num_tokens, head_dim = key.shape
        grad_output = gradient.permute(1, 2, 0, 3)
        grad_query = _empty_by_token(query)
        grad_key = key.new_empty(num_tokens, kv_heads, head_dim)
        grad_value = value.new_empty(num_tokens, kv_heads, head_dim)
        remaining_weights = iter(saved_weights)
        with torch.autocast(query.device.type, enabled=False):
            for row in ctx.rows:
                totals = _RowGradients(row, all_keys)
                for block in row:
                    weights = next(remaining_weights)
                    queries = _stacked_heads(query, block, dtype)
                    grad_outputs = _stacked_heads(grad_output, block, dtype)
                    totals.add_to_values(block, grad_outputs, weights)
                    values = _visible(all_values, block)
                    grad_weights = torch.bmm(grad_outputs, values.mT)
                    grad_scores = softmax_backward_(grad_weights, weights)
                    totals.add_to_keys(block, queries, grad_scores, ctx.scale)
                    keys = _visible(all_keys, block)
                    # Again the copy of the queries is written over, after its last use.
                    queries.baddbmm_(grad_scores, keys, beta=0, alpha=ctx.scale)
                    grad_query[block.queries] = _by_token(queries, num_shared)
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
        length = self._stop - self._start
        kv_heads, _, head_dim = keys.shape
        # One allocation for both.
        zeros = keys.new_zeros(2, kv_heads, head_dim, length)
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
            start = part.start - self._start
            stop = part.stop - self._start
            # The product adds itself to a view: no temporary of its own.
            view = total[..., start:stop]
            view.baddbmm_(left.mT, of_part, alpha=scale)

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
    by_query = weights.view(kv_heads, -1, num_shared, num_visible)
    # All earlier tokens are seen: only the block's own scores need the mask.
    own_scores = by_query[..., block.num_earlier :]
    own_scores.add_(block.attention_bias)
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
    by_head = stacked.view(kv_heads, -1, num_shared, head_dim)
    return by_head.transpose(0, 1)


def _stacked_heads(values: Tensor, block: Block, dtype: torch.dtype) -> Tensor:
    """Copy a block's part of (H / G, G, T, D) to (H / G, n * G, D).

    Heads that share keys become rows of one matrix, whose product with the keys is one product
    instead of G thin ones. The copy also changes the dtype, in the same pass.
    """
    part = values[:, :, block.queries]
    by_query = part.transpose(1, 2)
    copy = torch.empty(by_query.shape, dtype=dtype, device=values.device)
    copy.copy_(by_query)
    return copy.flatten(1, 2)
