"""Sums and means over the negatives that count.

Masked entries are replaced, not multiplied by 0: they may hold NaN or infinity, and 0 times either
is NaN. So they get no gradient either.
"""

import torch
from torch import Tensor


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of each row's values where the mask is True. Shape (B,)."""
    counted = torch.where(mask, values, 0)
    return counted.sum(1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each row's values where the mask is True; 0 where it is nowhere. Shape (B,)."""
    total = masked_sum(values, mask)
    number = mask.sum(1)
    return total / number.clamp(min=1)
