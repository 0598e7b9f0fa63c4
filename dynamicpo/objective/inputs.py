"""Inputs of the objective: log-probabilities of answers, and the mask of negatives that count."""

import torch
from torch import Tensor

from dynamicpo.core.errors import ShapeError

HALF_PRECISIONS = (torch.bfloat16, torch.float16)


def upcast(values: Tensor) -> Tensor:
    """Half precisions as float32, in which the objective is computed; other dtypes as they are."""
    # Log-probabilities of titles are around -60 nats, where bfloat16 has steps of 0.25 to 0.5.
    return values.float() if values.dtype in HALF_PRECISIONS else values


def counted_negatives(rejected: Tensor, mask: Tensor | None) -> Tensor:
    """The mask of the negatives that count; without one, all do. Shape (B, K), bool."""
    if mask is None:
        return torch.ones_like(rejected, dtype=torch.bool)
    return mask


def check_shapes(
    chosen: Tensor,
    rejected: Tensor,
    mask: Tensor | None,
    names: tuple[str, str, str] = ("chosen", "rejected", "mask"),
) -> None:
    """Refuse tensors that do not belong together.

    Args:
        chosen: One log-probability a row. Shape (B,).
        rejected: One for each negative. Shape (B, K).
        mask: Shape (B, K), bool; or None.
        names: The names of the three in messages.

    Raises:
        ShapeError: Naming the tensor that does not fit.
    """
    chosen_name, rejected_name, mask_name = names
    _check_floating_point(chosen_name, chosen)
    _check_floating_point(rejected_name, rejected)
    shape = tuple(rejected.shape)
    if rejected.ndim != 2 or rejected.shape[1] == 0:
        raise ShapeError(
            f"{rejected_name}: must be (B, K) with K >= 1, got {shape}. "
            "Give each negative a column."
        )
    if chosen.shape != rejected.shape[:1]:
        raise ShapeError(
            f"{chosen_name}: must be ({shape[0]},) to fit {rejected_name} {shape}, "
            f"got {tuple(chosen.shape)}. Give one chosen answer a row."
        )
    if mask is not None and (mask.shape != rejected.shape or mask.dtype != torch.bool):
        raise ShapeError(
            f"{mask_name}: must be bool {shape}, got {mask.dtype} {tuple(mask.shape)}. "
            "True is a negative that counts."
        )


def _check_floating_point(name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise ShapeError(
            f"{name}: must be floating point, got {tensor.dtype}. Give log-probabilities in nats."
        )
