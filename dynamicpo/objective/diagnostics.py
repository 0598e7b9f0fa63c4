"""Measures of a training step: rewards, the boundary, and the gradient that reaches it."""

from typing import TypedDict, Unpack

import torch
from torch import Tensor

from dynamicpo.objective.boundary import boundary_negatives
from dynamicpo.objective.dynamicpo import BETA, preference_losses
from dynamicpo.objective.inputs import counted_negatives, upcast
from dynamicpo.objective.masked import masked_mean


class ObjectiveSettings(TypedDict, total=False):
    """The settings of `preference_losses`."""

    loss: str
    dynamic: bool
    beta: float
    margin: float
    simpo_gamma: float
    ablation: str


def preference_diagnostics(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor | None = None,
    reference_rejected_logps: Tensor | None = None,
    rejected_mask: Tensor | None = None,
    **settings: Unpack[ObjectiveSettings],
) -> dict[str, Tensor]:
    """Measures of a step: 0-d tensors on the device, no copy to the host.

    The caller's graph stays as it is.

    Args:
        policy_chosen_logps: As for `preference_losses`, and so are the others.
        policy_rejected_logps: Shape (B, K).
        reference_chosen_logps: Shape (B,) or None.
        reference_rejected_logps: Shape (B, K) or None.
        rejected_mask: Shape (B, K) or None.
        settings: The objective's settings.

    Returns:
        Means over rows, of a row's mean over its negatives: rewards/chosen, rewards/rejected,
        rewards/margins, rewards/accuracies (chosen above ALL rejected), logps/chosen,
        logps/rejected, boundary_fraction (|B| / K), violation_share (rows), boundary_beta (over B),
        boundary_gradient (over B, |dL/dn_j| of a row's own loss). B is the boundary selection,
        whether or not the loss uses it.
    """
    chosen = upcast(policy_chosen_logps.detach())
    rejected = upcast(policy_rejected_logps.detach()).requires_grad_()
    references = (reference_chosen_logps, reference_rejected_logps)
    # The caller's gradients may be off, and the gradient of a graph built here is needed.
    with torch.enable_grad():
        result = preference_losses(chosen, rejected, *references, rejected_mask, **settings)
        (gradient,) = torch.autograd.grad(result.losses.sum(), rejected)
    counted = counted_negatives(rejected, rejected_mask)
    rejected = torch.where(counted, rejected.detach(), 0)
    beta = settings.get("beta", BETA)
    return {
        **_reward_measures(chosen, rejected, references, counted, beta),
        "logps/chosen": chosen.mean(),
        "logps/rejected": _mean(rejected, counted),
        **_boundary_measures(chosen, rejected, counted, result.betas, gradient),
    }


def _reward_measures(
    chosen: Tensor,
    rejected: Tensor,
    references: tuple[Tensor | None, Tensor | None],
    counted: Tensor,
    beta: float,
) -> dict[str, Tensor]:
    """Rewards at the plain beta, so that runs with and without DynamicPO are comparable."""
    reference_chosen, reference_rejected = references
    if reference_chosen is not None and reference_rejected is not None:
        chosen = chosen - upcast(reference_chosen.detach())
        # Masked negatives may hold NaN in the reference, too.
        rejected = rejected - torch.where(counted, upcast(reference_rejected.detach()), 0)
    chosen_rewards = beta * chosen
    rejected_rewards = beta * rejected
    margins = chosen_rewards[:, None] - rejected_rewards
    is_right = ((margins > 0) | ~counted).all(1)
    return {
        "rewards/chosen": chosen_rewards.mean(),
        "rewards/rejected": _mean(rejected_rewards, counted),
        "rewards/margins": _mean(margins, counted),
        "rewards/accuracies": _share(is_right, chosen),
    }


def _boundary_measures(
    chosen: Tensor, rejected: Tensor, counted: Tensor, betas: Tensor, gradient: Tensor
) -> dict[str, Tensor]:
    """Size of the boundary, and beta and gradient at it."""
    # Selected again, as the mask of the losses need not be the boundary.
    boundary = boundary_negatives(chosen, rejected, counted)
    violations = (rejected >= chosen[:, None]) & counted
    fractions = boundary.sum(1) / counted.sum(1).clamp(min=1)
    return {
        "boundary_fraction": fractions.mean(),
        "violation_share": _share(violations.any(1), chosen),
        "boundary_beta": _mean(betas, boundary),
        "boundary_gradient": _mean(gradient.abs(), boundary),
    }


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over rows of each row's mean over its negatives.

    Any split of the rows into batches gives the same.
    """
    return masked_mean(values, mask).mean()


def _share(is_true: Tensor, like: Tensor) -> Tensor:
    """Share of rows where a condition holds, in the dtype of another tensor."""
    return is_true.to(like.dtype).mean()
