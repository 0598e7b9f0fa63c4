"""Which negatives lie at the decision boundary, and the beta of each. No gradient, no copy to the host.

Source: DynamicPO, arXiv 2605.00327: Dynamic Boundary Negative Selection and Dual-Margin Dynamic beta. The paper's
authors cluster with an iterative k-means that stops in local optima; in one dimension the optimum is exact.
"""

import torch
from torch import Tensor

from dynamicpo.core.errors import ShapeError

MARGIN_EARLY = 2.0  # nats, the authors' first release
MARGIN_NEWER = 6.0  # nats, their newer one, and our default


@torch.no_grad()
def boundary_negatives(chosen: Tensor, rejected: Tensor, mask: Tensor | None = None) -> Tensor:
    """The negatives that violate the preference, or else the top cluster of an exact 3-means.

    Args:
        chosen: Policy log-probability of the chosen item (not a log-ratio). Shape (B,), nats.
        rejected: The same for each negative. Shape (B, K), nats.
        mask: True where a negative counts. Shape (B, K); None counts all.

    Returns:
        True for boundary negatives. Shape (B, K). A row without any counted negative has none.

    Raises:
        ShapeError: The shapes do not fit, or K is 0.
    """
    check_shapes(chosen, rejected, mask)
    counted = torch.ones_like(rejected, dtype=torch.bool) if mask is None else mask
    chosen, rejected = wide(chosen), wide(rejected)
    violations = (rejected >= chosen[:, None]) & counted
    return torch.where(violations.any(1, keepdim=True), violations, _top_cluster(rejected, counted))


def _top_cluster(values: Tensor, mask: Tensor) -> Tensor:
    """The cluster of highest mean in the best partition of each row's values into three. Shape (B, K), bool.

    Sorted from high to low, clusters are runs: the middle one starts at i, the bottom one at j > i. Of equally good
    pairs the largest i wins, where equally good means: but for the values' own rounding. Equal values stay together:
    a pair that parts them is among the best only at no cost at all, and the lowest value of the cluster takes them in.
    """
    number, size = mask.sum(1, keepdim=True), values.shape[1]
    ordered = torch.where(mask, values, -torch.inf).sort(dim=1, descending=True).values
    cost = _run_costs(ordered)
    ends_before = cost.roll(1, 2)  # (B, i, j): the run i..j-1
    bottom = cost.gather(2, (number - 1).clamp(min=0)[:, :, None].expand(-1, size, -1))[:, :, 0]
    total = ends_before[:, 0, :, None] + ends_before + bottom[:, None, :]
    place = torch.arange(size, device=values.device)
    starts = (place > 0) & (place < number)
    allowed = starts[:, :, None] & starts[:, None, :] & (place[:, None] < place)
    total = torch.where(allowed, total, torch.inf)
    best = total.amin((1, 2))
    largest = torch.where(mask, values.abs(), 0).amax(1)
    slack = 2 * torch.finfo(values.dtype).eps * (size * best + largest * (size * best).sqrt())
    cut = torch.where((total <= (best + slack)[:, None, None]) & allowed, place[:, None], 0).amax(
        (1, 2)
    )
    # fewer than three values allow no pair: then the highest alone is the top cluster
    lowest = ordered.gather(1, (cut - 1).clamp(min=0)[:, None])
    return (values >= lowest) & mask


def _run_costs(ordered: Tensor) -> Tensor:
    """Sum of squares about its mean of every run i..j of a sorted row. Shape (B, K, K), at (row, i, j >= i).

    Welford's update along j of the values less the run's first: a sum of terms >= 0 of values that all have one sign.
    Nothing large cancels, so float32 is enough for log-probabilities near -60 and for a far outlier alike.
    """
    place = torch.arange(ordered.shape[1], device=ordered.device)
    before = (
        (place - place[:, None]).clamp(min=0).to(ordered.dtype)
    )  # values of the run before place j
    drop = (ordered[:, None, :] - ordered[:, :, None]).triu()
    mean_before = (drop.cumsum(2) - drop) / before.clamp(min=1)
    return (before / (before + 1) * (drop - mean_before).square()).cumsum(2)


@torch.no_grad()
def dynamic_betas(
    chosen: Tensor,
    rejected: Tensor,
    boundary_mask: Tensor,
    mask: Tensor,
    beta: float,
    margin: float,
) -> Tensor:
    """Dual-margin beta of every negative: larger where the chosen item leads by more than the easy ones trail.

    Args:
        chosen: Policy log-probability of the chosen item. Shape (B,), nats.
        rejected: The same for each negative. Shape (B, K), nats.
        boundary_mask: The boundary negatives. Shape (B, K).
        mask: The negatives that count. Shape (B, K).
        beta: The base beta, > 0.
        margin: The margin constant m >= 0, nats.

    Returns:
        beta * (1 + tanh((D1 - D2 - m) / (|D1| + |D2|)) / 2), between beta / 2 and 3 beta / 2. Shape (B, K).
    """
    chosen, rejected = wide(chosen), wide(rejected)
    easy = mask & ~boundary_mask
    easy = torch.where(easy.any(1, keepdim=True), easy, boundary_mask)
    easy_mean = torch.where(easy, rejected, 0).sum(1) / easy.sum(1).clamp(min=1)
    to_boundary = chosen[:, None] - rejected
    to_easy = rejected - easy_mean[:, None]
    scale = to_boundary.abs() + to_easy.abs()
    degenerate = -torch.inf if margin > 0 else 0.0
    argument = torch.where(scale > 0, (to_boundary - to_easy - margin) / scale, degenerate)
    return beta * (1 + 0.5 * torch.tanh(argument))


def wide(values: Tensor) -> Tensor:
    """Half precisions are computed in float32."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def check_shapes(
    chosen: Tensor,
    rejected: Tensor,
    mask: Tensor | None,
    names: tuple[str, str, str] = ("chosen", "rejected", "mask"),
) -> None:
    """Refuse tensors that do not belong together, by the name of the one that does not fit."""
    for name, tensor in zip(names, (chosen, rejected), strict=False):
        if not tensor.is_floating_point():
            raise ShapeError(
                f"{name}: must be floating point, got {tensor.dtype}. Give log-probabilities in nats."
            )
    if rejected.ndim != 2 or rejected.shape[1] == 0:
        raise ShapeError(
            f"{names[1]}: must be (B, K) with K >= 1, got {tuple(rejected.shape)}. Give each negative a column."
        )
    if chosen.shape != rejected.shape[:1]:
        raise ShapeError(
            f"{names[0]}: must be ({rejected.shape[0]},) to fit {names[1]} {tuple(rejected.shape)}, "
            f"got {tuple(chosen.shape)}. Give one chosen answer a row."
        )
    if mask is not None and (mask.shape != rejected.shape or mask.dtype != torch.bool):
        raise ShapeError(
            f"{names[2]}: must be bool {tuple(rejected.shape)}, got {mask.dtype} {tuple(mask.shape)}. "
            "True is a negative that counts."
        )
