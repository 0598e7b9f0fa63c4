"""The preference objective: boundary, beta and a loss put together (arXiv 2605.00327)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicpo.boundary import MARGIN_NEWER, boundary_negatives, check_shapes, dynamic_betas
from dynamicpo.errors import ConfigError, ShapeError, unknown_name
from dynamicpo.losses import dmpo_loss, mppo_loss, preference_margins, sdpo_loss

LOSSES = ("dmpo", "dpo", "mppo", "sdpo", "simpo")
WITHOUT_REFERENCE = ("mppo", "simpo")
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
        rejected_mask: True where a negative counts. Shape (B, K); None counts all. Every row needs one.
        loss: "dpo" (one negative), "dmpo", "sdpo", "mppo" or "simpo" (the last two without a reference; for
            "simpo" the caller has divided the log-probabilities by the answers' lengths).
        dynamic: DynamicPO's boundary selection and dynamic beta.
        beta: KL strength, > 0.
        margin: Margin constant of the dynamic beta, >= 0, nats.
        simpo_gamma: Target margin of SimPO, nats.
        ablation: With `dynamic`, only the boundary "selection" (at a plain beta), or only the dynamic "beta" (over all
            negatives; easy ones are still those outside the boundary). "none" leaves nothing out.

    Returns:
        Losses, the mask of the negatives used, and their betas. Mask and betas carry no gradient.

    Raises:
        ConfigError: An unknown name, or a number out of range.
        ShapeError: Tensors that do not fit each other, or a reference for a loss without one.
    """
    _check(loss, ablation, beta, margin)
    _check_tensors(policy_chosen_logps, policy_rejected_logps, rejected_mask)
    _check_reference(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, loss)
    if loss == "dpo" and policy_rejected_logps.shape[1] != 1:
        raise ShapeError(
            f"policy_rejected_logps: dpo takes one negative, got {policy_rejected_logps.shape[1]}. Use dmpo."
        )
    chosen, rejected = _wide(policy_chosen_logps), _wide(policy_rejected_logps)
    counted = torch.ones_like(rejected, dtype=torch.bool) if rejected_mask is None else rejected_mask
    rejected = torch.where(counted, rejected, chosen.detach()[:, None])
    mask, betas = _selection(chosen.detach(), rejected.detach(), counted, dynamic, beta, margin, ablation)
    if loss == "mppo":
        return PreferenceLosses(mppo_loss(chosen, rejected, mask, betas), mask, betas)
    if reference_chosen_logps is not None and reference_rejected_logps is not None:
        chosen = chosen - _wide(reference_chosen_logps)
        rejected = rejected - torch.where(counted, _wide(reference_rejected_logps), 0)
    margins = preference_margins(chosen, rejected, betas)
    if loss == "sdpo":
        return PreferenceLosses(sdpo_loss(margins, mask), mask, betas)
    return PreferenceLosses(dmpo_loss(margins, mask, simpo_gamma if loss == "simpo" else 0.0), mask, betas)


def _selection(
    chosen: Tensor, rejected: Tensor, counted: Tensor, dynamic: bool, beta: float, margin: float, ablation: str
) -> tuple[Tensor, Tensor]:
    """The negatives in the loss and their betas: constants to the gradient."""
    if not dynamic:
        return counted, beta * counted.to(rejected.dtype)
    boundary = boundary_negatives(chosen, rejected, counted)
    mask = counted if ablation == "beta" else boundary
    if ablation == "selection":
        return mask, beta * mask.to(rejected.dtype)
    betas = dynamic_betas(chosen, rejected, boundary, counted, beta, margin)
    return mask, torch.where(mask, betas, 0)


def preference_diagnostics(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor | None = None,
    reference_rejected_logps: Tensor | None = None,
    rejected_mask: Tensor | None = None,
    **settings: Any,
) -> dict[str, Tensor]:
    """What to watch in a step: 0-d tensors on the device, no copy to the host, no effect on the graph.

    Args:
        policy_chosen_logps: As for `preference_losses`, and so are the others.
        policy_rejected_logps: Shape (B, K).
        reference_chosen_logps: Shape (B,) or None.
        reference_rejected_logps: Shape (B, K) or None.
        rejected_mask: Shape (B, K) or None.
        settings: The objective's settings.

    Returns:
        Means over rows (and over negatives): rewards/chosen, rewards/rejected, rewards/margins, rewards/accuracies
        (chosen above ALL rejected), logps/chosen, logps/rejected, boundary_fraction (|B| / K), violation_share,
        boundary_beta (mean beta over B, of the negatives in the loss), boundary_gradient (mean over B of |dL/dn_j|). B is
        the boundary selection, whether or not the loss uses it.
    """
    chosen = _wide(policy_chosen_logps.detach())
    rejected = _wide(policy_rejected_logps.detach()).requires_grad_()
    counted = torch.ones_like(rejected, dtype=torch.bool) if rejected_mask is None else rejected_mask
    with torch.enable_grad():
        result = preference_losses(
            chosen, rejected, reference_chosen_logps, reference_rejected_logps, rejected_mask, **settings
        )
        (gradient,) = torch.autograd.grad(result.losses.sum(), rejected)
    rejected = torch.where(counted, rejected.detach(), 0)
    boundary = boundary_negatives(chosen, rejected, counted)
    beta = settings.get("beta", 1.0)
    chosen_rewards, rejected_rewards = beta * chosen, beta * rejected
    if reference_chosen_logps is not None and reference_rejected_logps is not None:
        chosen_rewards = beta * (chosen - _wide(reference_chosen_logps))
        rejected_rewards = beta * (rejected - torch.where(counted, _wide(reference_rejected_logps), 0))
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
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def _wide(values: Tensor) -> Tensor:
    """Half precisions are computed in float32."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _check(loss: str, ablation: str, beta: float, margin: float) -> None:
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    if ablation not in ABLATIONS:
        raise unknown_name("ablation", ablation, ABLATIONS)
    if not beta > 0:
        raise ConfigError(f"beta: must be > 0, got {beta}. The paper uses 1.0.")
    if not margin >= 0:
        raise ConfigError(f"margin: must be >= 0, got {margin}. The paper's code uses 2.0 or 6.0.")


def _check_tensors(chosen: Tensor, rejected: Tensor, mask: Tensor | None) -> None:
    try:
        check_shapes(chosen, rejected, mask)
    except ShapeError as error:
        text = str(error)
        raise ShapeError(
            text if text.startswith("rejected_mask") else f"policy_{text.replace(':', '_logps:', 1)}"
        ) from None


def _check_reference(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor | None, reference_rejected: Tensor | None, loss: str
) -> None:
    given = {
        "reference_chosen_logps": (reference_chosen, chosen),
        "reference_rejected_logps": (reference_rejected, rejected),
    }
    for name, (tensor, policy) in given.items():
        if tensor is not None and loss in WITHOUT_REFERENCE:
            raise ShapeError(f"{name}: {loss} takes no reference, got one. Leave it out.")
        if tensor is not None and tensor.shape != policy.shape:
            raise ShapeError(
                f"{name}: must be {tuple(policy.shape)}, got {tuple(tensor.shape)}. Score the same answers."
            )
    if (reference_chosen is None) != (reference_rejected is None):
        missing = "reference_chosen_logps" if reference_chosen is None else "reference_rejected_logps"
        raise ShapeError(f"{missing}: must come with the other reference tensor, got None. Give both or neither.")
