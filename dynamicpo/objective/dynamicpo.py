"""The preference objective: boundary, beta and a loss put together (arXiv 2605.00327)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dynamicpo.core.choices import (
    ABLATIONS,
    LOSSES,
    LOSSES_OF_ONE_NEGATIVE,
    LOSSES_WITHOUT_REFERENCE,
)
from dynamicpo.core.errors import ConfigError, ShapeError, unknown_name
from dynamicpo.objective.boundary import MARGIN_NEWER, boundary_negatives, dynamic_betas
from dynamicpo.objective.inputs import check_shapes, counted_negatives, upcast
from dynamicpo.objective.losses import LOSS_FUNCTIONS, preference_margins

BETA = 1.0  # the paper's, and our default


class PreferenceLosses(NamedTuple):
    """Losses of a batch, and which negatives they use at which beta.

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
    beta: float = BETA,
    margin: float = MARGIN_NEWER,
    simpo_gamma: float = 0.0,
    *,
    ablation: str = "none",
) -> PreferenceLosses:
    """Multi-negative preference losses, plain or with DynamicPO.

    Args:
        policy_chosen_logps: log pi(chosen), summed over its tokens. Shape (B,), nats.
        policy_rejected_logps: The same for each negative. Shape (B, K), nats.
        reference_chosen_logps: The same of the frozen reference. None: the log-ratios are the
            log-probabilities.
        reference_rejected_logps: Shape (B, K).
        rejected_mask: True where a negative counts. Shape (B, K); None counts all. A row without
            any has loss 0.
        loss: "dpo" (one negative), "dmpo", "sdpo", "mppo" or "simpo" (the last two without a
            reference; for "simpo" the caller has divided the log-probabilities by the answers'
            lengths).
        dynamic: DynamicPO's boundary selection and dynamic beta.
        beta: KL strength, > 0.
        margin: Margin constant of the dynamic beta, >= 0, nats: `boundary.MARGIN_EARLY` or
            `MARGIN_NEWER`.
        simpo_gamma: Target margin of SimPO, nats.
        ablation: With `dynamic`, only the boundary "selection" (at a plain beta), or only the
            dynamic "beta" (over all negatives; the easy ones are still those outside the
            boundary). "none" leaves nothing out.

    Returns:
        Losses, the mask of the negatives used, and their betas. Mask and betas carry no gradient.

    Raises:
        ConfigError: An unknown name, a number out of range, or a reference for a loss without one.
        ShapeError: Tensors that do not fit each other.
    """
    _check_settings(loss, dynamic, beta, margin, ablation)
    # Checks look at shapes and dtypes only, which the host knows: none waits for the device.
    references = {
        "reference_chosen_logps": reference_chosen_logps,
        "reference_rejected_logps": reference_rejected_logps,
    }
    _check_tensors(policy_chosen_logps, policy_rejected_logps, references, rejected_mask, loss)
    counted = counted_negatives(policy_rejected_logps, rejected_mask)
    chosen = upcast(policy_chosen_logps)
    rejected = upcast(policy_rejected_logps)
    # A masked negative may hold anything, and a NaN times 0 would still be a NaN.
    rejected = torch.where(counted, rejected, 0)
    # The boundary is that of the policy: selected before the reference is subtracted.
    mask, betas = _selection(chosen, rejected, counted, dynamic, beta, margin, ablation)
    if reference_chosen_logps is not None and reference_rejected_logps is not None:
        chosen = chosen - upcast(reference_chosen_logps)
        rejected = rejected - upcast(reference_rejected_logps)
    if loss == "mppo":
        chosen = chosen.exp()
        rejected = rejected.exp()
    margins = preference_margins(chosen, rejected, betas)
    if loss == "simpo":
        margins = margins - simpo_gamma
    losses = LOSS_FUNCTIONS[loss](margins, mask)
    losses = torch.where(counted.any(1), losses, 0)
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
    mask = counted
    if dynamic:
        boundary = boundary_negatives(chosen, rejected, counted)
        mask = counted if ablation == "beta" else boundary
    if not dynamic or ablation == "selection":
        betas = beta * mask.to(rejected.dtype)
        return mask, betas
    betas = dynamic_betas(chosen, rejected, boundary, counted, beta, margin)
    return mask, torch.where(mask, betas, 0)


def _check_settings(loss: str, dynamic: bool, beta: float, margin: float, ablation: str) -> None:
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    if ablation not in ABLATIONS:
        raise unknown_name("ablation", ablation, ABLATIONS)
    if ablation != "none" and not dynamic:
        raise ConfigError(
            f"ablation: {ablation!r} is a part of DynamicPO, but dynamic is off. Turn it on."
        )
    # Written so that NaN is refused as well: all comparisons with it are false.
    if not 0 < beta < math.inf:
        raise ConfigError(f"beta: must be > 0, got {beta}. The paper uses {BETA}.")
    if not 0 <= margin < math.inf:
        raise ConfigError(f"margin: must be >= 0, got {margin}. The authors' code has 2.0 and 6.0.")


def _check_tensors(
    chosen: Tensor,
    rejected: Tensor,
    references: dict[str, Tensor | None],
    mask: Tensor | None,
    loss: str,
) -> None:
    names = ("policy_chosen_logps", "policy_rejected_logps", "rejected_mask")
    check_shapes(chosen, rejected, mask, names)
    num_negatives = rejected.shape[1]
    if loss in LOSSES_OF_ONE_NEGATIVE and num_negatives != 1:
        raise ShapeError(
            f"policy_rejected_logps: {loss} takes one negative, got {num_negatives}. "
            "Use dmpo or sdpo."
        )
    present = [name for name, tensor in references.items() if tensor is not None]
    if present and loss in LOSSES_WITHOUT_REFERENCE:
        raise ConfigError(f"{present[0]}: {loss} takes no reference, got one. Leave it out.")
    for (name, reference), policy in zip(references.items(), (chosen, rejected), strict=True):
        if reference is None and present:
            raise ShapeError(
                f"{name}: must come with {present[0]}, got None. Give both or neither."
            )
        if reference is not None and reference.shape != policy.shape:
            raise ShapeError(
                f"{name}: must be {tuple(policy.shape)}, got {tuple(reference.shape)}. "
                "Score the same answers."
            )
