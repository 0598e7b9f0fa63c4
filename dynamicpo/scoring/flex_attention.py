"""The attention of a packed sequence by FlexAttention, for GPUs: its kernel skips what nobody sees.

A block mask says two things: the pairs of blocks of 128 tokens in which some token sees another,
and the tokens of such a pair that do. The pairs are found here from where rows and answers start.
torch's `create_block_mask` would look at every pair of tokens, 4 billion at 65,536 tokens.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from dynamicpo.core.arrays import BoolArray
from dynamicpo.scoring.packing import PROMPT_SEGMENT, Packed

# Tokens of a block, as the kernel has them. Sequences are padded to a multiple of it: then the
# kernel is compiled for one kind of length, and not again for each.
BLOCK_SIZE = 128


class BlockAttention:
    """FlexAttention with a block mask over the whole sequence.

    Args:
        packed: One sequence, of a multiple of 128 tokens.
    """

    def __init__(self, packed: Packed) -> None:
        """Make the block mask, once for all layers."""
        self.mask = block_mask(packed)

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        /,
        dropout: float = 0.0,
        scaling: float | None = None,
        **settings: object,
    ) -> Tensor:
        """Outputs of the heads, (1, T, H, D).

        Raises:
            ValueError: Dropout of attention weights, which the kernel doesn't have.
        """
        if dropout:
            raise ValueError(f"dropout of attention must be 0 with flex, got {dropout}.")
        group_size = query.shape[1] // key.shape[1]
        # The kernel shares keys among heads in powers of two only.
        if group_size & (group_size - 1):
            key = key.repeat_interleave(group_size, dim=1)
            value = value.repeat_interleave(group_size, dim=1)
        attention = _attention(query.device.type)
        outputs = attention(
            query,
            key,
            value,
            block_mask=self.mask,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        result: Tensor = outputs.transpose(1, 2).contiguous()
        return result


@lru_cache(maxsize=2)
def _attention(device_type: str) -> Callable[..., Any]:
    if device_type != "cuda":
        # Compiling takes a C++ compiler there, and half a minute.
        return flex_attention
    # Not compiled, it would write out all weights. The first batches compile it, twice at most: for
    # one length, and then for any.
    return torch.compile(flex_attention)


def block_mask(packed: Packed) -> BlockMask:
    """The block mask of a packed sequence of a multiple of 128 tokens."""
    segment_ids = packed.segment_ids[0]
    row_index = packed.row_index[0]

    def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same_row = row_index[query] == row_index[key]
        same_answer = segment_ids[query] == segment_ids[key]
        in_prompt = segment_ids[key] == PROMPT_SEGMENT
        not_later = query >= key
        return (same_answer | in_prompt) & same_row & not_later

    visible = visible_blocks(packed, len(segment_ids) // BLOCK_SIZE)
    numbers = visible.sum(axis=1, keepdims=True)
    # The visible blocks first, in order. What stands behind them is never read.
    indices = np.argsort(~visible, axis=1, kind="stable")
    # One copy to the GPU for both.
    table = np.concatenate([numbers, indices], axis=1).astype(np.int32)
    on_device = torch.from_numpy(table).to(segment_ids.device)[None, None]
    return BlockMask.from_kv_blocks(
        on_device[..., 0].contiguous(),
        on_device[..., 1:].contiguous(),
        BLOCK_SIZE=BLOCK_SIZE,
        mask_mod=is_visible,
    )


def visible_blocks(packed: Packed, num_blocks: int) -> BoolArray:
    """Pairs of blocks in which some token sees another. Shape (query blocks, key blocks).

    Too many pairs would cost time and nothing else, since tokens are told apart inside a pair.
    """
    visible = np.eye(num_blocks, dtype=bool)
    for span, answer_starts in zip(packed.row_spans, packed.answer_starts, strict=True):
        first_block = span.start // BLOCK_SIZE
        # All tokens of the row see its prompt, as far as it comes before them.
        prompt_blocks = slice(first_block, _block_after(span.prompt_end))
        row_blocks = slice(first_block, _block_after(span.end))
        _mark_not_later(visible[row_blocks, prompt_blocks])
        # Answers see themselves, which matters where one crosses from a block into the next.
        answer_ends = [*answer_starts[1:], span.end]
        for start, end in zip(answer_starts, answer_ends, strict=True):
            answer_blocks = slice(start // BLOCK_SIZE, _block_after(end))
            if answer_blocks.stop - answer_blocks.start > 1:
                _mark_not_later(visible[answer_blocks, answer_blocks])
    return visible


def _block_after(end: int) -> int:
    """The first block behind the token before `end`."""
    return (end - 1) // BLOCK_SIZE + 1


def _mark_not_later(part: BoolArray) -> None:
    """Mark, in place, the keys that are not later than the queries; both start at one block."""
    part |= np.tri(*part.shape, dtype=np.bool_)
