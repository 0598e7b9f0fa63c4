"""The base objectives over several negatives: reward margins in, one loss a row out.

Each takes a mask of the negatives that count, a constant to the gradient. A masked negative behaves as one that is
absent. DMPO and S-DPO equal DPO at one negative. `logsigmoid` and `logsumexp` keep every loss finite at any margin.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def preference_margins(chosen: Tensor, rejected: Tensor, beta: float | Tensor) -> Tensor:
    """Reward margin of the chosen item over each negative.

    Args:
        chosen: Log-ratio of the chosen item: policy less reference log-probability, nats; without a reference the
            log-probability, and for MPPO the probability. Shape (B,).
        rejected: The same for each negative. Shape (B, K).
        beta: Strength, > 0. A scalar, or (B, K) for one per negative.

    Returns:
        beta * (chosen - rejected). Shape (B, K).

    Source: DPO, arXiv:2305.18290, the argument of sigma in eq. 7.
    """
    return beta * (chosen[:, None] - rejected)


def dmpo_loss(margins: Tensor, mask: Tensor) -> Tensor:
    """DMPO: -log sigma of the mean reward margin. At one negative DPO; with a target margin taken off, SimPO.

    Args:
        margins: Reward margins. Shape (B, K).
        mask: True where a negative counts. Shape (B, K).

    Returns:
        The losses, shape (B,).

    Source: DMPO, arXiv:2405.16127; SimPO, arXiv:2405.14734.
    """
    mean = torch.where(mask, margins, 0).sum(1) / mask.sum(1).clamp(min=1)
    return -logsigmoid(mean)


def sdpo_loss(margins: Tensor, mask: Tensor) -> Tensor:
    """S-DPO: -log sigma(-log sum_j exp(-margin_j)).

    Args:
        margins: Reward margins. Shape (B, K).
        mask: True where a negative counts; at least one a row. Shape (B, K).

    Returns:
        The losses, shape (B,).

    Source: S-DPO, arXiv:2406.09215.
    """
    return -logsigmoid(-torch.where(mask, -margins, -torch.inf).logsumexp(1))


def mppo_loss(margins: Tensor, mask: Tensor) -> Tensor:
    """MPPO: -log sigma of the summed (not averaged) margins, which are of probabilities and without a reference.

    Args:
        margins: beta * (exp chosen - exp rejected). Shape (B, K).
        mask: True where a negative counts. Shape (B, K).

    Returns:
        The losses, shape (B,).

    Source: MPPO, arXiv:2412.15244.
    """
    return -logsigmoid(torch.where(mask, margins, 0).sum(1))


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dpo": dmpo_loss,
    "dmpo": dmpo_loss,
    "sdpo": sdpo_loss,
    "mppo": mppo_loss,
    "simpo": dmpo_loss,
}
WITHOUT_REFERENCE = ("mppo", "simpo")
