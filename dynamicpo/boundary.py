"""Which negatives lie at the decision boundary, and the beta of each. No gradient, no copy to the host.

Source: DynamicPO, arXiv 2605.00327: Dynamic Boundary Negative Selection and Dual-Margin Dynamic beta. The paper's
authors cluster with an iterative k-means that stops in local optima; in one dimension the optimum is exact.
"""

import torch
from torch import Tensor

from dynamicpo.errors import ShapeError

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
    chosen, rejected = _computed(chosen), _computed(rejected)
    violations = (rejected >= chosen[:, None]) & counted
    return torch.where(violations.any(1, keepdim=True), violations, _top_cluster(rejected, counted))


def check_shapes(chosen: Tensor, rejected: Tensor, mask: Tensor | None) -> None:
    """Refuse tensors that do not belong together, naming the one that does not fit."""
    if rejected.ndim != 2 or rejected.shape[1] == 0:
        raise ShapeError(
            f"rejected: must be (B, K) with K >= 1, got {tuple(rejected.shape)}. Give one column a negative."
        )
    if chosen.shape != rejected.shape[:1]:
        raise ShapeError(
            f"chosen: must be ({rejected.shape[0]},) to fit rejected {tuple(rejected.shape)}, got {tuple(chosen.shape)}."
        )
    if mask is not None and (mask.shape != rejected.shape or mask.dtype != torch.bool):
        raise ShapeError(f"rejected_mask: must be bool {tuple(rejected.shape)}, got {mask.dtype} {tuple(mask.shape)}.")


def _computed(values: Tensor) -> Tensor:
    """Half precisions are computed in float32."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _top_cluster(values: Tensor, mask: Tensor) -> Tensor:
    """The cluster of highest mean in the best partition of each row's values into three.

    Over values sorted from high to low, the pair of cuts i < j with the least within-cluster sum of squares has the
    largest sum of (cluster sum)^2 / size. Equal values are never parted; of equally good pairs the largest i wins.
    """
    number = mask.sum(1)
    mean = torch.where(mask, values, 0).sum(1) / number.clamp(min=1)
    ordered = torch.where(mask, values, -torch.inf).sort(dim=1, descending=True).values
    centred = torch.where(torch.isinf(ordered), 0, ordered - mean[:, None])
    sums = torch.nn.functional.pad(centred.cumsum(1), (1, 0))
    size = values.shape[1]
    place = torch.arange(size + 1, device=values.device)
    is_cut = torch.zeros_like(sums, dtype=torch.bool)
    is_cut[:, 1:size] = (ordered[:, :-1] > ordered[:, 1:]) & (place[1:size] < number[:, None])
    top = sums.square() / place.clamp(min=1)
    bottom = (sums[:, -1:] - sums).square() / (number[:, None] - place).clamp(min=1)
    middle = (sums[:, None, :] - sums[:, :, None]).square() / (place[None, :] - place[:, None]).clamp(min=1)
    explained = top[:, :, None] + middle + bottom[:, None, :]
    allowed = is_cut[:, :, None] & is_cut[:, None, :] & (place[:, None] < place[None, :])
    explained = torch.where(allowed, explained, -torch.inf)
    best = explained.amax((1, 2))
    slack = 32 * torch.finfo(values.dtype).eps * centred.square().sum(1)
    good = (explained >= (best - slack)[:, None, None]) & allowed
    cut = torch.where(good.any(2), place, 0).amax(1)
    # fewer than three distinct values leave no pair of cuts: the highest value alone is the top cluster
    lowest = ordered.gather(1, (cut - 1).clamp(min=0)[:, None])
    return (values >= lowest) & mask


@torch.no_grad()
def dynamic_betas(
    chosen: Tensor, rejected: Tensor, boundary_mask: Tensor, mask: Tensor, beta: float, margin: float
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
    chosen, rejected = _computed(chosen), _computed(rejected)
    easy = mask & ~boundary_mask
    easy = torch.where(easy.any(1, keepdim=True), easy, boundary_mask)
    easy_mean = torch.where(easy, rejected, 0).sum(1) / easy.sum(1).clamp(min=1)
    to_boundary = chosen[:, None] - rejected
    to_easy = rejected - easy_mean[:, None]
    scale = to_boundary.abs() + to_easy.abs()
    degenerate = torch.full_like(scale, -torch.inf if margin > 0 else 0.0)
    argument = torch.where(scale > 0, (to_boundary - to_easy - margin) / scale.clamp(min=1e-38), degenerate)
    return beta * (1 + 0.5 * torch.tanh(argument))
