"""The preference objective: boundary, beta and a loss put together (arXiv 2605.00327)."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicpo.core.errors import ConfigError, ShapeError, unknown_name
from dynamicpo.objective.boundary import (
    MARGIN_NEWER,
    boundary_negatives,
    check_shapes,
    dynamic_betas,
    wide,
)
from dynamicpo.objective.losses import LOSSES, WITHOUT_REFERENCE, preference_margins

ABLATIONS = ("none", "selection", "beta")


class PreferenceLosses(NamedTuple):
    """What `preference_losses` returns.

    Attributes:
        losses: Shape (B,).
        boundary_mask: The negatives in the loss. Shape (B, K).
        betas: Beta of each of them, 0 outside the mask. Shape (B, K).
    """

    losses: Tensor
    boundary_mask: Tensor
    betas: Tensor


def preference_losses(  # noqa: PLR0913
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor | None = None,
    reference_rejected_logps: Tensor | None = None,
    rejected_mask: Tensor | None = None,
    loss: str = "dmpo",
    dynamic: bool = True,
    beta: float = 1.0,
    margin: float = MARGIN_NEWER,
    simpo_gamma: float = 0.0,
    *,
    ablation: str = "none",
) -> PreferenceLosses:
    """Multi-negative preference losses, plain or with DynamicPO.

    Args:
        policy_chosen_logps: log pi(chosen), summed over its tokens. Shape (B,), nats.
        policy_rejected_logps: The same for each negative. Shape (B, K), nats.
        reference_chosen_logps: The same of the frozen reference. None: the log-ratios are the log-probabilities.
        reference_rejected_logps: Shape (B, K).
        rejected_mask: True where a negative counts. Shape (B, K); None counts all. A row without any has loss 0.
        loss: "dpo" (one negative), "dmpo", "sdpo", "mppo" or "simpo" (the last two without a reference; for
            "simpo" the caller has divided the log-probabilities by the answers' lengths).
        dynamic: DynamicPO's boundary selection and dynamic beta.
        beta: KL strength, > 0.
        margin: Margin constant of the dynamic beta, >= 0, nats: `boundary.MARGIN_EARLY` or `MARGIN_NEWER`.
        simpo_gamma: Target margin of SimPO, nats.
        ablation: With `dynamic`, only the boundary "selection" (at a plain beta), or only the dynamic "beta" (over all
            negatives; the easy ones are still those outside the boundary). "none" leaves nothing out.

    Returns:
        Losses, the mask of the negatives used, and their betas. Mask and betas carry no gradient.

    Raises:
        ConfigError: An unknown name, a number out of range, or a reference for a loss without one.
        ShapeError: Tensors that do not fit each other.
    """
    _check_settings(loss, dynamic, beta, margin, ablation)
    references = {
        "reference_chosen_logps": reference_chosen_logps,
        "reference_rejected_logps": reference_rejected_logps,
    }
    _check_tensors(policy_chosen_logps, policy_rejected_logps, references, rejected_mask, loss)
    chosen, rejected = wide(policy_chosen_logps), wide(policy_rejected_logps)
    counted = (
        torch.ones_like(rejected, dtype=torch.bool) if rejected_mask is None else rejected_mask
    )
    rejected = torch.where(counted, rejected, 0)  # whatever stood there, NaN included
    mask, betas = _selection(chosen, rejected, counted, dynamic, beta, margin, ablation)
    if reference_chosen_logps is not None and reference_rejected_logps is not None:
        chosen = chosen - wide(reference_chosen_logps)
        rejected = rejected - wide(reference_rejected_logps)
    if loss == "mppo":
        chosen, rejected = chosen.exp(), rejected.exp()
    margins = preference_margins(chosen, rejected, betas)
    if loss == "simpo":
        margins = margins - simpo_gamma
    losses = torch.where(counted.any(1), LOSSES[loss](margins, mask), 0)
    return PreferenceLosses(losses, mask, betas)


def _selection(
    chosen: Tensor,
    rejected: Tensor,
    counted: Tensor,
    dynamic: bool,
    beta: float,
    margin: float,
    ablation: str,
) -> tuple[Tensor, Tensor]:
    """The negatives in the loss and their betas: constants to the gradient."""
    if not dynamic:
        return counted, beta * counted.to(rejected.dtype)
    boundary = boundary_negatives(chosen, rejected, counted)
    mask = counted if ablation == "beta" else boundary
    if ablation == "selection":
        return mask, beta * mask.to(rejected.dtype)
    return mask, torch.where(
        mask, dynamic_betas(chosen, rejected, boundary, counted, beta, margin), 0
    )


def preference_diagnostics(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor | None = None,
    reference_rejected_logps: Tensor | None = None,
    rejected_mask: Tensor | None = None,
    **settings: Any,
) -> dict[str, Tensor]:
    """What to watch in a step: 0-d tensors on the device, no copy to the host, no effect on the caller's graph.

    Args:
        policy_chosen_logps: As for `preference_losses`, and so are the others.
        policy_rejected_logps: Shape (B, K).
        reference_chosen_logps: Shape (B,) or None.
        reference_rejected_logps: Shape (B, K) or None.
        rejected_mask: Shape (B, K) or None.
        settings: The objective's settings.

    Returns:
        Means over rows, of a row's mean over its negatives: rewards/chosen, rewards/rejected, rewards/margins,
        rewards/accuracies (chosen above ALL rejected), logps/chosen, logps/rejected, boundary_fraction (|B| / K),
        violation_share (rows), boundary_beta (over B), boundary_gradient (over B, |dL/dn_j| of a row's own loss). B is
        the boundary selection, whether or not the loss uses it.
    """
    chosen = wide(policy_chosen_logps.detach())
    rejected = wide(policy_rejected_logps.detach()).requires_grad_()
    reference = (reference_chosen_logps, reference_rejected_logps)
    with torch.enable_grad():
        result = preference_losses(chosen, rejected, *reference, rejected_mask, **settings)
        (gradient,) = torch.autograd.grad(result.losses.sum(), rejected)
    counted = (
        torch.ones_like(rejected, dtype=torch.bool) if rejected_mask is None else rejected_mask
    )
    rejected = torch.where(counted, rejected.detach(), 0)
    boundary = boundary_negatives(chosen, rejected, counted)
    beta = settings.get("beta", 1.0)
    chosen_rewards, rejected_rewards = beta * chosen, beta * rejected
    if reference_chosen_logps is not None and reference_rejected_logps is not None:
        chosen_rewards = beta * (chosen - wide(reference_chosen_logps.detach()))
        rejected_rewards = beta * (
            rejected - torch.where(counted, wide(reference_rejected_logps.detach()), 0)
        )
    margins = chosen_rewards[:, None] - rejected_rewards
    return {
        "rewards/chosen": chosen_rewards.mean(),
        "rewards/rejected": _mean(rejected_rewards, counted),
        "rewards/margins": _mean(margins, counted),
        "rewards/accuracies": ((margins > 0) | ~counted).all(1).to(chosen.dtype).mean(),
        "logps/chosen": chosen.mean(),
        "logps/rejected": _mean(rejected, counted),
        "boundary_fraction": (boundary.sum(1) / counted.sum(1).clamp(min=1)).mean(),
        "violation_share": ((rejected >= chosen[:, None]) & counted).any(1).to(chosen.dtype).mean(),
        "boundary_beta": _mean(result.betas, boundary),
        "boundary_gradient": _mean(gradient.abs(), boundary),
    }


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over rows of each row's mean over its negatives, so that any split of the rows gives the same."""
    return (torch.where(mask, values, 0).sum(1) / mask.sum(1).clamp(min=1)).mean()


def _check_settings(loss: str, dynamic: bool, beta: float, margin: float, ablation: str) -> None:
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    if ablation not in ABLATIONS:
        raise unknown_name("ablation", ablation, ABLATIONS)
    if ablation != "none" and not dynamic:
        raise ConfigError(
            f"ablation: {ablation!r} is a part of DynamicPO, but dynamic is off. Turn it on."
        )
    if not 0 < beta < math.inf:
        raise ConfigError(f"beta: must be > 0, got {beta}. The paper uses 1.0.")
    if not 0 <= margin < math.inf:
        raise ConfigError(f"margin: must be >= 0, got {margin}. The authors' code has 2.0 and 6.0.")


def _check_tensors(
    chosen: Tensor,
    rejected: Tensor,
    references: dict[str, Tensor | None],
    mask: Tensor | None,
    loss: str,
) -> None:
    check_shapes(
        chosen, rejected, mask, ("policy_chosen_logps", "policy_rejected_logps", "rejected_mask")
    )
    if loss == "dpo" and rejected.shape[1] != 1:
        raise ShapeError(
            f"policy_rejected_logps: dpo takes one negative, got {rejected.shape[1]}. Use dmpo or sdpo."
        )
    given = [name for name, tensor in references.items() if tensor is not None]
    if given and loss in WITHOUT_REFERENCE:
        raise ConfigError(f"{given[0]}: {loss} takes no reference, got one. Leave it out.")
    for (name, tensor), policy in zip(references.items(), (chosen, rejected), strict=True):
        if tensor is None and given:
            raise ShapeError(f"{name}: must come with {given[0]}, got None. Give both or neither.")
        if tensor is not None and tensor.shape != policy.shape:
            raise ShapeError(
                f"{name}: must be {tuple(policy.shape)}, got {tuple(tensor.shape)}. Score the same answers."
            )
