"""The block mask of FlexAttention, against torch's own, which looks at every pair of tokens."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.flex_attention import BLOCK_SIZE, BlockAttention, block_mask
from dynamicpo.scoring.packing import PADDING_ROW, pack, pad_sequence

# Prompts within a block, over several, and right at its border; answers that cross borders.
SHAPES = [
    [(40, [3, 5, 2])],
    [(300, [90, 90, 200]), (20, [2, 2, 2]), (129, [130, 2, 300])],
    [(128, [129, 2, 2]), (BLOCK_SIZE, [2, 2, 257])],
    [(5, [2, 2, 2])] * 70,
]


def packed_rows(shapes):
    rows = [Row([1] * prompt, [[2] * size for size in sizes]) for prompt, sizes in shapes]
    return pad_sequence(pack(rows, padded=False), BLOCK_SIZE)


@pytest.mark.parametrize("shapes", SHAPES)
def test_the_pairs_of_blocks_are_those_that_hold_a_visible_pair_of_tokens(shapes):
    packed = packed_rows(shapes)
    mask = block_mask(packed)
    length = packed.token_ids.shape[1]
    expected = create_block_mask(mask.mask_mod, None, None, length, length, device="cpu")
    assert torch.equal(mask.to_dense(), expected.to_dense())


def test_padding_belongs_to_no_row_and_changes_nothing_before_it():
    row = Row([1] * 100, [[2, 3], [4, 5, 6]])
    packed = pack([row], padded=False)
    padded = pad_sequence(packed, BLOCK_SIZE)
    length = packed.token_ids.shape[1]
    assert padded.token_ids.shape == (1, BLOCK_SIZE)
    assert torch.equal(padded.token_ids[:, :length], packed.token_ids)
    assert (padded.row_index[:, length:] == PADDING_ROW).all()
    assert pad_sequence(padded, BLOCK_SIZE) is padded


def test_dropout_of_attention_is_refused():
    attention = BlockAttention(packed_rows(SHAPES[0]))
    heads = torch.zeros(1, 2, BLOCK_SIZE, 16)
    with pytest.raises(ValueError, match=r"dropout of attention must be 0 with flex, got 0.1"):
        attention(torch.nn.Identity(), heads, heads, heads, 0.1)
