"""The base objectives over several negatives: tensors in, one loss a row out.

Each takes a mask of the negatives that count and one beta per negative; both are constants to the gradient. A masked
negative behaves as one that is absent. DMPO and S-DPO equal DPO at one negative.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus


def dmpo_loss(margins: Tensor, mask: Tensor, gamma: float = 0.0) -> Tensor:
    """DMPO: -log sigma of the mean reward margin over the counted negatives, less a target margin.

    Args:
        margins: beta * (chosen - rejected log-ratios). Shape (B, K).
        mask: True where a negative counts. Shape (B, K).
        gamma: Target margin (SimPO), nats; 0 for DMPO.

    Returns:
        The losses, shape (B,).

    Source: DMPO, arXiv:2405.16127; SimPO, arXiv:2405.14734, with its length normalisation left to the caller.
    """
    mean = torch.where(mask, margins, 0).sum(1) / mask.sum(1).clamp(min=1)
    return softplus(gamma - mean)


def sdpo_loss(margins: Tensor, mask: Tensor) -> Tensor:
    """S-DPO: softplus(logsumexp of the negated reward margins), finite at any margin.

    Args:
        margins: beta * (chosen - rejected log-ratios). Shape (B, K).
        mask: True where a negative counts. Shape (B, K).

    Returns:
        The losses, shape (B,): -log sigma(-log sum_j exp(-margin_j)).

    Source: S-DPO, arXiv:2406.09215.
    """
    return softplus(torch.where(mask, -margins, -torch.inf).logsumexp(1))


def mppo_loss(chosen_logps: Tensor, rejected_logps: Tensor, mask: Tensor, betas: Tensor) -> Tensor:
    """MPPO: -log sigma of the summed differences of probabilities, without a reference.

    Args:
        chosen_logps: Log-probability of the chosen item. Shape (B,), nats.
        rejected_logps: The same for each negative. Shape (B, K), nats.
        mask: True where a negative counts. Shape (B, K).
        betas: Strength of each negative. Shape (B, K).

    Returns:
        The losses, shape (B,).

    Source: MPPO, arXiv:2412.15244.
    """
    margins = betas * (chosen_logps.exp()[:, None] - rejected_logps.exp())
    return softplus(-torch.where(mask, margins, 0).sum(1))


def preference_margins(chosen_logratios: Tensor, rejected_logratios: Tensor, beta: float | Tensor) -> Tensor:
    """Reward margin of the chosen item over each negative.

    Args:
        chosen_logratios: Policy minus reference log-probability of the chosen item. Shape (B,), nats.
        rejected_logratios: The same for each negative. Shape (B, K), nats.
        beta: KL strength, > 0. A scalar, or (B, K) for one per negative.

    Returns:
        beta * (chosen - rejected). Shape (B, K).

    Source: DPO, arXiv:2305.18290, the argument of sigma in eq. 7.
    """
    return beta * (chosen_logratios[:, None] - rejected_logratios)
