"""The attention of a packed sequence by FlexAttention (GPU): its kernel skips what nobody sees."""

from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from dynamicpo.scoring.packing import PROMPT_SEGMENT, Packed
from dynamicpo.scoring.transformers_internals import flex_attention_forward


class BlockAttention:
    """FlexAttention with a block mask over the whole sequence."""

    def __init__(self, packed: Packed) -> None:
        """Make the block mask, once for all layers."""
        segment_ids = packed.segment_ids[0]
        row_index = packed.row_index[0]

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same_row = row_index[query] == row_index[key]
            same_answer = segment_ids[query] == segment_ids[key]
            in_prompt = segment_ids[key] == PROMPT_SEGMENT
            return (same_answer | in_prompt) & same_row & (query >= key)

        num_tokens = len(segment_ids)
        device = str(segment_ids.device)
        # None: the same mask for all sequences and heads.
        self.mask: BlockMask = create_block_mask(
            sees, None, None, num_tokens, num_tokens, device=device
        )

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
        """Outputs of the heads, (1, T, H, D)."""
        settings |= {"dropout": dropout, "scaling": scaling}
        outputs, _ = flex_attention_forward(module, query, key, value, self.mask, **settings)
        result: Tensor = outputs
        return result
