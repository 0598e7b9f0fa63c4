"""The base objectives at fixed beta and mask: numbers by hand, and the laws every one obeys."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dynamicpo.core.choices import LOSSES
from dynamicpo.objective.losses import (
    LOSS_FUNCTIONS,
    chosen_likelihood_loss,
    dmpo_loss,
    mppo_loss,
    preference_margins,
    sdpo_loss,
)

Loss = Callable[[Tensor, Tensor], Tensor]
ALL = pytest.mark.parametrize("loss", [dmpo_loss, sdpo_loss, mppo_loss])


def row(*margins: float) -> tuple[Tensor, Tensor]:
    values = torch.tensor([margins], dtype=torch.float64)
    return values, torch.ones_like(values, dtype=torch.bool)


def random_margins(
    num_negatives: int = 7, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(40, num_negatives, generator=generator, dtype=torch.float64).to(dtype) * 3
    mask = torch.rand(40, num_negatives, generator=generator) < 0.6
    mask[:, 0] = True
    return margins, mask


def test_margins_by_hand() -> None:
    # chosen log-ratio 1, rejected -0.5 and 2, beta 0.5
    margins = preference_margins(torch.tensor([1.0]), torch.tensor([[-0.5, 2.0]]), 0.5)
    assert margins.tolist() == [[0.75, -0.5]]
    betas = torch.tensor([[0.5, 2.0]])
    assert preference_margins(torch.tensor([1.0]), torch.tensor([[-0.5, 2.0]]), betas).tolist() == [
        [0.75, -2.0]
    ]


def test_dmpo_by_hand() -> None:
    # the mean of 0.75 and 1.5 is 1.125; log(1 + exp(-1.125)) = log(1.3246525)
    assert dmpo_loss(*row(0.75, 1.5)).item() == pytest.approx(0.2811501, abs=1e-7)


def test_sdpo_by_hand() -> None:
    # exp(-0.75) + exp(-1.5) = 0.4723666 + 0.2231302; log(1.6954967)
    assert sdpo_loss(*row(0.75, 1.5)).item() == pytest.approx(0.5279757, abs=1e-7)


def test_chosen_likelihood_by_hand() -> None:
    # a half of -log(1/4), and of -log(1)
    logps = torch.tensor([math.log(0.25), 0.0], dtype=torch.float64)
    assert chosen_likelihood_loss(logps, 0.5).tolist() == pytest.approx([0.6931472, 0.0], abs=1e-7)


def test_mppo_by_hand() -> None:
    # chosen 0.5, rejected 0.25 and 0.125, beta 1: 0.25 + 0.375 = 0.625;
    # log(1 + exp(-0.625)) = log(1.5352614)
    margins = preference_margins(torch.tensor([0.5]), torch.tensor([[0.25, 0.125]]), 1.0)
    assert mppo_loss(margins, torch.ones(1, 2) > 0).item() == pytest.approx(0.4287007, abs=1e-7)


@ALL
def test_one_negative_is_dpo(loss: Loss) -> None:
    margins = torch.linspace(-30, 30, 61, dtype=torch.float64)
    expected = torch.tensor(
        [math.log1p(math.exp(-margin)) for margin in margins.tolist()], dtype=torch.float64
    )
    assert_close(loss(margins[:, None], torch.ones(61, 1) > 0), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("num_negatives", [1, 4, 128])
def test_zero_margins(num_negatives: int) -> None:
    zeros = row(*[0.0] * num_negatives)
    assert dmpo_loss(*zeros).item() == pytest.approx(math.log(2))
    assert mppo_loss(*zeros).item() == pytest.approx(math.log(2))
    assert sdpo_loss(*zeros).item() == pytest.approx(math.log(1 + num_negatives))


@ALL
def test_order_does_not_matter(loss: Loss) -> None:
    margins, mask = random_margins()
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    assert_close(
        loss(margins[:, order], mask[:, order]), loss(margins, mask), rtol=1e-14, atol=1e-14
    )


@ALL
@pytest.mark.parametrize("garbage", [0.0, 1e6, -1e6])
def test_a_masked_negative_equals_an_absent_one_and_has_no_gradient(
    loss: Loss, garbage: float
) -> None:
    margins, _ = random_margins(4)
    padded = torch.nn.functional.pad(margins, (0, 2), value=garbage).requires_grad_()
    mask = torch.ones(40, 6, dtype=torch.bool)
    mask[:, 4:] = False
    losses = loss(padded, mask)
    assert torch.equal(losses, loss(margins, mask[:, :4]))
    (gradient,) = torch.autograd.grad(losses.sum(), padded)
    assert not gradient[:, 4:].any()
    assert bool((gradient[:, :4] < 0).all())


@ALL
def test_a_better_chosen_item_lowers_the_loss(loss: Loss) -> None:
    margins, mask = random_margins()
    assert bool((loss(margins + 0.1, mask) < loss(margins, mask)).all())


@ALL
def test_gradients_are_those_of_finite_differences(loss: Loss) -> None:
    margins, mask = random_margins(5)
    assert torch.autograd.gradcheck(
        lambda values: loss(values, mask[:6]), margins[:6].requires_grad_()
    )


def test_gradients_by_hand() -> None:
    # DMPO: -sigma(-z) / K for every negative
    # S-DPO: -sigma(s) softmax(-margins), s their logsumexp
    # MPPO: -sigma(-z)
    margins, mask = row(0.75, 1.5)
    margins.requires_grad_()

    def gradient(loss: Loss) -> list[float]:
        return torch.autograd.grad(loss(margins, mask).sum(), margins)[0][0].tolist()

    sigma = 1 / (1 + math.exp(1.125))
    assert gradient(dmpo_loss) == pytest.approx([-sigma / 2, -sigma / 2])
    total = 1 + math.exp(-0.75) + math.exp(-1.5)
    assert gradient(sdpo_loss) == pytest.approx([-math.exp(-0.75) / total, -math.exp(-1.5) / total])
    sigma = 1 / (1 + math.exp(2.25))
    assert gradient(mppo_loss) == pytest.approx([-sigma, -sigma])


@pytest.mark.parametrize("gap", [100.0, 1000.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sdpo_is_finite_at_any_gap(gap: float, dtype: torch.dtype) -> None:
    margins = torch.tensor([[-gap, gap], [gap, gap]], dtype=dtype, requires_grad=True)
    losses = sdpo_loss(margins, torch.ones(2, 2) > 0)
    assert losses.tolist() == pytest.approx([gap, 0.0], abs=1e-30)
    (gradient,) = torch.autograd.grad(losses.sum(), margins)
    assert_close(gradient, torch.tensor([[-1.0, 0.0], [0.0, 0.0]], dtype=dtype), rtol=0, atol=1e-30)


@ALL
def test_float32_agrees_with_float64(loss: Loss) -> None:
    margins, mask = random_margins(128, torch.float32)
    assert_close(loss(margins, mask).double(), loss(margins.double(), mask), rtol=1e-5, atol=1e-5)


def test_the_table_names_every_objective() -> None:
    assert sorted(LOSS_FUNCTIONS) == sorted(LOSSES) == ["dmpo", "dpo", "mppo", "sdpo", "simpo"]
