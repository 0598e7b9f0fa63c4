"""Visible tokens, by hand, and attention in blocks against one masked softmax over everything."""

from itertools import chain

import pytest
import torch
from torch import Tensor

from dynamicpo.core.records.rows import Row
from dynamicpo.scoring import sdpa_attention
from dynamicpo.scoring.attention_blocks import split_into_blocks
from dynamicpo.scoring.packing import Packed, pack
from dynamicpo.scoring.sdpa_attention import ProductAttention, SplitAttention
from tests.fixtures.scoring import random_rows

ROWS = [Row([5, 6, 7], [[1, 2, 3], [4], [8, 9]]), Row([1], [[2], [3, 4], [5, 6]])]


def visible(packed: Packed, prompt_block: int, answer_block: int) -> Tensor:
    """Tokens that each token sees by the blocks, each a query once. Bool, (T, T)."""
    width = packed.token_ids.shape[1]
    result = torch.zeros(width, width, dtype=torch.bool)
    all_queries = []
    for block in chain.from_iterable(split_into_blocks(packed, prompt_block, answer_block)):
        result[block.queries, block.earlier] = True
        result[block.queries, block.queries] = block.mask
        all_queries += range(block.queries.start, block.queries.stop)
    assert sorted(all_queries) == list(range(width))
    return result


def defined(packed: Packed) -> Tensor:
    """The definition: of the row's prompt and the same answer, what is not later. Bool, (T, T)."""
    segment_ids = packed.segment_ids[0]
    row_index = packed.row_index[0]
    positions = torch.arange(len(segment_ids))
    same_answer = (segment_ids[:, None] == segment_ids) | (segment_ids == 0)
    return same_answer & (row_index[:, None] == row_index) & (positions[:, None] >= positions)


def test_answers_see_the_prompt_and_themselves():
    expected = [
        [1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1, 0, 1],
    ]
    assert defined(pack(ROWS, padded=False)).int().tolist() == expected


@pytest.mark.parametrize("prompt_block", [1, 4, 256])
@pytest.mark.parametrize("answer_block", [1, 3, 8, 128])
def test_blocks_show_each_token_what_it_may_see(prompt_block, answer_block):
    for rows in (ROWS, random_rows(5, 7), random_rows(3, 1, (1,)), random_rows(2, 20, (1, 9))):
        packed = pack(rows, padded=False)
        assert torch.equal(visible(packed, prompt_block, answer_block), defined(packed))


def test_answers_stay_whole_and_blocks_within_their_size():
    packed = pack(random_rows(4, 30, (2, 3, 6)), padded=False)
    rows, alone = split_into_blocks(packed, 4, 10), split_into_blocks(packed, 4, 1)
    assert max(len(block.mask) for block in chain.from_iterable(rows)) <= 10
    assert len(rows) == len(alone) == 4
    assert all(len(shared) < len(separate) for shared, separate in zip(rows, alone, strict=True)), (
        "small answers share a block"
    )


@pytest.mark.parametrize(
    ("max_weights", "prompt_block", "answer_block"), [(2**20, 256, 128), (2**20, 2, 2), (0, 2, 2)]
)
def test_split_attention_equals_one_masked_softmax_over_everything(
    monkeypatch, max_weights, prompt_block, answer_block
):
    monkeypatch.setattr(sdpa_attention, "MAX_PRODUCT_WEIGHTS", max_weights)
    monkeypatch.setattr(sdpa_attention, "PROMPT_BLOCK", prompt_block)
    monkeypatch.setattr(sdpa_attention, "ANSWER_BLOCK", answer_block)
    torch.manual_seed(0)
    packed = pack(ROWS, padded=False)
    query, key, value = (torch.randn(1, heads, 9, 8, requires_grad=True) for heads in (4, 2, 2))
    scores = query @ key.repeat_interleave(2, 1).mT * 0.3
    expected = scores.masked_fill(~defined(packed), float("-inf")).softmax(
        -1
    ) @ value.repeat_interleave(2, 1)
    expected = expected.transpose(1, 2)
    split = SplitAttention(packed)
    assert split.uses_products == (max_weights > 0)
    actual = split(torch.nn.Identity(), query, key, value, scaling=0.3)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad((actual * weights).sum(), (query, key, value)),
        torch.autograd.grad((expected * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    halves = split(
        torch.nn.Identity(), query.bfloat16(), key.bfloat16(), value.bfloat16(), scaling=0.3
    )
    assert halves.dtype == torch.bfloat16
    torch.testing.assert_close(halves.float(), expected, atol=0.05, rtol=0.02)


def test_products_of_bfloat16_are_those_of_float32_rounded_once():
    torch.manual_seed(0)
    split = SplitAttention(pack(ROWS, padded=False))
    rounded = [torch.randn(1, heads, 9, 8).bfloat16() for heads in (4, 2, 2)]
    inputs = [
        [part.detach().to(dtype).requires_grad_() for part in rounded]
        for dtype in (torch.bfloat16, torch.float32)
    ]
    actual, exact = (split(torch.nn.Identity(), *parts, scaling=0.3) for parts in inputs)
    weights = torch.randn_like(exact).bfloat16()
    ours, theirs = (
        torch.autograd.grad(part, each, weights.to(part.dtype))
        for part, each in zip((actual, exact), inputs, strict=True)
    )
    for rounded_part, exact_part in zip([actual, *ours], [exact, *theirs], strict=True):
        assert rounded_part.dtype == torch.bfloat16
        torch.testing.assert_close(rounded_part, exact_part.bfloat16(), atol=0, rtol=0)


def test_gradients_of_products():
    torch.manual_seed(0)
    blocks = split_into_blocks(pack(ROWS, padded=False), 2, 2)
    shapes = [(2, 3, 9, 4), (2, 9, 4), (2, 9, 4)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(
        lambda *parts: ProductAttention.apply(*parts, blocks, 0.4), inputs
    )
