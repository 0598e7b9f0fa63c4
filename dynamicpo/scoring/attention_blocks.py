"""Blocks of a packed sequence's rows: tokens whose attention is computed at once.

A row is cut into parts of its prompt, then groups of its answers. A block's tokens see all of the
prompt before them and, by a small mask, each other.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dynamicpo.scoring.packing import Packed, RowSpan


@dataclass(frozen=True)
class Block:
    """Tokens whose attention is computed at once.

    Attributes:
        queries: The tokens.
        earlier: The prompt's tokens before them, all of which they see.
        mask: For each of them, which of the block's tokens it sees. Bool, (n, n).
    """

    queries: slice
    earlier: slice
    mask: Tensor

    @cached_property
    def attention_bias(self) -> Tensor:
        """The mask as a summand of scores, for all heads: 0, or -inf where hidden. (n, 1, n)."""
        # Kept, as all layers add the same one.
        zeros = torch.zeros(self.mask.shape, device=self.mask.device)
        return zeros.masked_fill_(~self.mask, float("-inf"))[:, None]

    @cached_property
    def visible(self) -> list[slice]:
        """All the tokens that it sees, as one slice where they are next to each other."""
        # One slice is a view of keys and values; two have to be copied together.
        is_contiguous = self.earlier.stop == self.queries.start
        if is_contiguous:
            together = slice(self.earlier.start, self.queries.stop)
            return [together]
        return [self.earlier, self.queries]

    @property
    def num_queries(self) -> int:
        """Tokens of the block."""
        return slice_length(self.queries)

    @property
    def num_earlier(self) -> int:
        """Tokens of the prompt before them."""
        return slice_length(self.earlier)

    @property
    def num_weights(self) -> int:
        """Attention weights of the block, for each head."""
        return self.num_queries * (self.num_earlier + self.num_queries)


def slice_length(part: slice) -> int:
    """Count the tokens of a slice."""
    return int(part.stop - part.start)


def split_into_blocks(packed: Packed, prompt_block: int, answer_block: int) -> list[list[Block]]:
    """Cut each of a sequence's rows into blocks.

    Args:
        packed: One sequence.
        prompt_block: Most tokens of a block of a prompt.
        answer_block: Most tokens of a block of answers, each of which stays in one block.
    """
    segment_ids = packed.segment_ids[0]
    result = []
    for span, answer_starts in zip(packed.row_spans, packed.answer_starts, strict=True):
        prompt_blocks = [
            _block(segment_ids, slice(span.start, start), start, stop)
            for start, stop in _prompt_parts(span, prompt_block)
        ]
        answer_blocks = [
            _block(segment_ids, slice(span.start, span.prompt_end), start, stop)
            for start, stop in _answer_groups(span, answer_starts, answer_block)
        ]
        result.append(prompt_blocks + answer_blocks)
    return result


def _block(segment_ids: Tensor, earlier: slice, start: int, stop: int) -> Block:
    queries = slice(start, stop)
    segments = segment_ids[queries]
    same_segment = segments[:, None] == segments[None, :]
    not_later = same_segment.tril()
    return Block(queries, earlier, not_later)


def _prompt_parts(span: RowSpan, size: int) -> list[tuple[int, int]]:
    starts = range(span.start, span.prompt_end, size)
    return [(start, min(start + size, span.prompt_end)) for start in starts]


def _answer_groups(span: RowSpan, answer_starts: list[int], size: int) -> list[tuple[int, int]]:
    """Group neighbouring answers, as many as fit into a block."""
    result = []
    group_start = span.prompt_end
    answer_ends = [*answer_starts[1:], span.end]
    for start, end in zip(answer_starts, answer_ends, strict=True):
        is_too_long = end - group_start > size
        if is_too_long and start > group_start:
            result.append((group_start, start))
            group_start = start
    if span.end > group_start:
        result.append((group_start, span.end))
    return result
