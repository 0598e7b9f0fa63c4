"""Negatives at the decision boundary, and the beta of each. No gradient, no copy to the host.

Source: DynamicPO, arXiv 2605.00327: Dynamic Boundary Negative Selection and Dual-Margin Dynamic
beta. The paper's authors cluster with an iterative k-means that stops in local optima; in one
dimension the optimum is exact.
"""

import torch
from torch import Tensor

from dynamicpo.objective.inputs import check_shapes, counted_negatives, upcast
from dynamicpo.objective.masked import masked_mean

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
    counted = counted_negatives(rejected, mask)
    chosen = upcast(chosen)
    rejected = upcast(rejected)
    violations = (rejected >= chosen[:, None]) & counted
    has_violation = violations.any(1, keepdim=True)
    # Both branches are computed for all rows: to ask which rows need the clustering would copy
    # to the host.
    top_cluster = _top_cluster(rejected, counted)
    return torch.where(has_violation, violations, top_cluster)


def _top_cluster(values: Tensor, mask: Tensor) -> Tensor:
    """The cluster of highest mean in the best partition of each row into three. Shape (B, K), bool.

    Sorted from high to low, clusters are runs: the middle one starts at i, the bottom one at j > i.
    Of equally good pairs the largest i wins, where equally good means: but for the values' own
    rounding. Equal values stay together: a pair that parts them is among the best only at no cost
    at all, and the lowest value of the cluster takes them in.
    """
    num_counted = mask.sum(1, keepdim=True)
    ordered = _sorted_from_high_to_low(values, mask)
    position = torch.arange(values.shape[1], device=values.device)
    allowed = _allowed_cuts(position, num_counted)
    inertia = _partition_inertia(ordered, num_counted)
    inertia = torch.where(allowed, inertia, torch.inf)
    best = inertia.amin((1, 2), keepdim=True)
    limit = best + _rounding_slack(best, values, mask)
    is_best = (inertia <= limit) & allowed
    cuts = torch.where(is_best, position[:, None], 0)
    largest_cut = cuts.amax((1, 2))
    # Fewer than three values allow no pair of cuts: then the highest alone is the top cluster.
    lowest_index = (largest_cut - 1).clamp(min=0)
    lowest = ordered.gather(1, lowest_index[:, None])
    return (values >= lowest) & mask


def _sorted_from_high_to_low(values: Tensor, mask: Tensor) -> Tensor:
    """Each row's values, the masked ones at its end, where no run that is used reaches them."""
    counted = torch.where(mask, values, -torch.inf)
    ordered, _ = counted.sort(dim=1, descending=True)
    return ordered


def _allowed_cuts(position: Tensor, num_counted: Tensor) -> Tensor:
    """Pairs of cuts i < j that leave no cluster empty. Shape (B, K, K), bool, at (row, i, j)."""
    is_inside = position < num_counted
    is_start = is_inside & (position > 0)
    both_start = is_start[:, :, None] & is_start[:, None, :]
    in_order = position[:, None] < position
    return both_start & in_order


def _partition_inertia(ordered: Tensor, num_counted: Tensor) -> Tensor:
    """Sum of squares of the three clusters of every pair of cuts. Shape (B, K, K), at (row, i, j).

    All pairs are computed at once, allowed or not: K is small, and no loop waits for the device.
    """
    size = ordered.shape[1]
    costs = _run_costs(ordered)
    # Rolled by one, entry (i, j) is the run i..j-1, which ends before the cut j.
    middle = costs.roll(1, 2)
    top = middle[:, 0, :, None]
    last = (num_counted - 1).clamp(min=0)
    last = last.unsqueeze(2).expand(-1, size, -1)
    bottom = costs.gather(2, last)
    bottom = bottom.transpose(1, 2)
    return top + middle + bottom


def _rounding_slack(best: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Bound on what rounding of the values does to the best inertia. Shape (B, 1, 1).

    A value x is off by up to eps x, so a sum of K squares S changes by about eps K S from the
    arithmetic and by eps x sqrt(K S) from the values.
    """
    epsilon = torch.finfo(values.dtype).eps
    magnitudes = torch.where(mask, values.abs(), 0)
    largest = magnitudes.amax(1)
    largest = largest[:, None, None]
    scaled = values.shape[1] * best
    bound = scaled + largest * scaled.sqrt()
    return 2 * epsilon * bound


def _run_costs(ordered: Tensor) -> Tensor:
    """Sum of squares about its mean of every run i..j of a sorted row.

    Welford's update along j of the values minus the run's first: a sum of terms >= 0 of values
    that all have one sign. Nothing large cancels, so float32 is enough for log-probabilities near
    -60 and for a far outlier alike.

    Returns:
        Shape (B, K, K), at (row, i, j >= i).
    """
    position = torch.arange(ordered.shape[1], device=ordered.device)
    # Number of values of the run before position j: 0 where the run begins, so that the
    # cumulative sum needs no other start.
    num_before = position - position[:, None]
    num_before = num_before.clamp(min=0)
    num_before = num_before.to(ordered.dtype)
    # Below the diagonal are runs that end before they begin: 0 for the cumulative sums.
    drop = ordered[:, None, :] - ordered[:, :, None]
    drop = drop.triu()
    # Tensors of (B, K, K) get no names where they are used once, so that their memory is reused.
    mean_before = (drop.cumsum(2) - drop) / num_before.clamp(min=1)
    weight = num_before / (num_before + 1)
    growth = weight * (drop - mean_before).square()
    return growth.cumsum(2)


@torch.no_grad()
def dynamic_betas(
    chosen: Tensor,
    rejected: Tensor,
    boundary_mask: Tensor,
    mask: Tensor,
    beta: float,
    margin: float,
) -> Tensor:
    """Dual-margin beta of every negative.

    It is larger where the chosen item leads by more than the easy negatives trail.

    Args:
        chosen: Policy log-probability of the chosen item. Shape (B,), nats.
        rejected: The same for each negative. Shape (B, K), nats.
        boundary_mask: The boundary negatives. Shape (B, K).
        mask: The negatives that count. Shape (B, K).
        beta: The base beta, > 0.
        margin: The margin constant m >= 0, nats.

    Returns:
        beta * (1 + tanh((D1 - D2 - m) / (|D1| + |D2|)) / 2), between beta / 2 and 3 beta / 2.
        Shape (B, K).
    """
    chosen = upcast(chosen)
    rejected = upcast(rejected)
    easy = mask & ~boundary_mask
    has_easy = easy.any(1, keepdim=True)
    easy = torch.where(has_easy, easy, boundary_mask)
    easy_mean = masked_mean(rejected, easy)
    to_boundary = chosen[:, None] - rejected
    to_easy = rejected - easy_mean[:, None]
    scale = to_boundary.abs() + to_easy.abs()
    # Both distances may vanish. A division by 0 is computed all the same, and then left out.
    degenerate = -torch.inf if margin > 0 else 0.0
    lead = to_boundary - to_easy - margin
    argument = torch.where(scale > 0, lead / scale, degenerate)
    factor = 1 + 0.5 * torch.tanh(argument)
    return beta * factor
