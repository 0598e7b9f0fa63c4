"""The base objectives over several negatives: reward margins in, one loss a row out.

Each takes a mask of the negatives that count, a constant to the gradient. A masked negative behaves
as one that is absent. DMPO and S-DPO equal DPO at one negative. `logsigmoid` and `logsumexp` keep
every loss finite at any margin.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dynamicpo.objective.masked import masked_mean, masked_sum


def preference_margins(chosen: Tensor, rejected: Tensor, beta: float | Tensor) -> Tensor:
    """Reward margin of the chosen item over each negative.

    Args:
        chosen: Log-ratio of the chosen item: policy minus reference log-probability, nats; without
            a reference the log-probability, and for MPPO the probability. Shape (B,).
        rejected: The same for each negative. Shape (B, K).
        beta: Strength, > 0. A scalar, or (B, K) for one per negative.

    Returns:
        beta * (chosen - rejected). Shape (B, K).

    Source: DPO, arXiv:2305.18290, the argument of sigma in eq. 7.
    """
    return beta * (chosen[:, None] - rejected)


def dmpo_loss(margins: Tensor, mask: Tensor) -> Tensor:
    """DMPO: -log sigma of the mean reward margin.

    At one negative it is DPO; with a target margin subtracted, SimPO.

    Args:
        margins: Reward margins. Shape (B, K).
        mask: True where a negative counts. Shape (B, K).

    Returns:
        The losses, shape (B,).

    Source: DMPO, arXiv:2405.16127; SimPO, arXiv:2405.14734.
    """
    return -logsigmoid(masked_mean(margins, mask))


def sdpo_loss(margins: Tensor, mask: Tensor) -> Tensor:
    """S-DPO: -log sigma(-log sum_j exp(-margin_j)).

    Args:
        margins: Reward margins. Shape (B, K).
        mask: True where a negative counts; at least one a row. Shape (B, K).

    Returns:
        The losses, shape (B,).

    Source: S-DPO, arXiv:2406.09215.
    """
    # exp(-inf) = 0 takes masked negatives out of the sum without a gradient.
    exponents = torch.where(mask, -margins, -torch.inf)
    return -logsigmoid(-exponents.logsumexp(1))


def mppo_loss(margins: Tensor, mask: Tensor) -> Tensor:
    """MPPO: -log sigma of the summed (not averaged) margins.

    The margins are of probabilities and without a reference.

    Args:
        margins: beta * (exp chosen - exp rejected). Shape (B, K).
        mask: True where a negative counts. Shape (B, K).

    Returns:
        The losses, shape (B,).

    Source: MPPO, arXiv:2412.15244.
    """
    return -logsigmoid(masked_sum(margins, mask))


def chosen_likelihood_loss(chosen_logps: Tensor, weight: float) -> Tensor:
    """Weighted negative log-likelihood of the chosen item, to be added to a preference loss.

    Preference losses see differences alone, and may lower the chosen item's probability as long as
    the rejected ones' falls faster: items that no row rejects rise past it.

    Args:
        chosen_logps: log pi(chosen), summed over its tokens. Shape (B,), nats.
        weight: Its strength beside the preference loss, >= 0.

    Returns:
        The losses, shape (B,).

    Source: RPO, arXiv:2404.19733, eq. 1, without the division by the answer's length.
    """
    return -weight * chosen_logps


# For each of `choices.LOSSES`: DPO is DMPO of one negative, SimPO is DMPO of other margins.
LOSS_FUNCTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dpo": dmpo_loss,
    "dmpo": dmpo_loss,
    "sdpo": sdpo_loss,
    "mppo": mppo_loss,
    "simpo": dmpo_loss,
}
