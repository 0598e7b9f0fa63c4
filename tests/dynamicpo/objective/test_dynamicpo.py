"""The objective: its formula, read aloud and by hand, its laws, and input that it refuses."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dynamicpo.core.errors import ConfigError, ShapeError
from dynamicpo.objective.boundary import MARGIN_EARLY, boundary_negatives
from dynamicpo.objective.diagnostics import preference_diagnostics
from dynamicpo.objective.dynamicpo import preference_losses
from dynamicpo.objective.losses import LOSS_FUNCTIONS
from tests.fixtures.logps import MULTI, batch


def by_loops(
    tensors: dict[str, Tensor],
    loss: str,
    dynamic: bool,
    beta: float,
    margin: float,
    ablation: str = "none",
) -> list[float]:
    """The specification read aloud: one row and one negative at a time, in Python's floats."""
    columns = {name: tensor.tolist() for name, tensor in tensors.items()}
    losses = []
    for row, (c, n) in enumerate(
        zip(columns["policy_chosen_logps"], columns["policy_rejected_logps"], strict=True)
    ):
        selected = boundary_negatives(torch.tensor([c]).double(), torch.tensor([n]).double())[
            0
        ].tolist()
        inside = [j for j in range(len(n)) if selected[j]]
        easy = [j for j in range(len(n)) if not selected[j]] or inside
        e = sum(n[j] for j in easy) / len(easy)
        betas = []
        for n_j in n:
            d1, d2 = c - n_j, n_j - e
            size = abs(d1) + abs(d2)
            argument = (d1 - d2 - margin) / size if size else (-math.inf if margin else 0.0)
            betas.append(beta * (1 + 0.5 * math.tanh(argument)))
        used = inside if dynamic and ablation != "beta" else range(len(n))
        betas = betas if dynamic and ablation != "selection" else [beta] * len(n)
        if "reference_chosen_logps" in columns:
            c -= columns["reference_chosen_logps"][row]
            n = [
                n_j - r_j
                for n_j, r_j in zip(n, columns["reference_rejected_logps"][row], strict=True)
            ]
        if loss == "mppo":
            z = sum(betas[j] * (math.exp(c) - math.exp(n[j])) for j in used)
        elif loss == "sdpo":
            z = -math.log(sum(math.exp(betas[j] * (n[j] - c)) for j in used))
        else:
            z = sum(betas[j] * (c - n[j]) for j in used) / len(used) - (
                0.5 if loss == "simpo" else 0
            )
        losses.append(math.log1p(math.exp(-z)) if z > -700 else -z)
    return losses


@pytest.mark.parametrize("loss", MULTI)
@pytest.mark.parametrize(
    ("dynamic", "ablation"), [(False, "none"), (True, "none"), (True, "selection"), (True, "beta")]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_agrees_with_the_specification(
    loss: str, dynamic: bool, ablation: str, dtype: torch.dtype, tolerance: float
) -> None:
    tensors = batch(loss=loss, dtype=dtype)
    settings: dict[str, Any] = {
        "loss": loss,
        "dynamic": dynamic,
        "beta": 0.7,
        "margin": 2.0,
        "ablation": ablation,
    }
    ours = preference_losses(**tensors, **settings, simpo_gamma=0.5).losses
    assert ours.dtype == dtype
    expected = torch.tensor(
        by_loops(tensors, loss, dynamic, 0.7, 2.0, ablation), dtype=torch.float64
    )
    assert_close(ours.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_row_by_hand() -> None:
    # No violation: c = -1, n = (-3, -7, -9): three values, so B is the first.
    # e = -8, D1 = 2, D2 = 5, m = 2, so beta_1 = 1 + tanh(-5 / 7) / 2 = 0.6933214.
    # r_w = 0.5, r_1 = -1.5, margin 2 x 0.6933214 = 1.3866427.
    result = preference_losses(
        torch.tensor([-1.0]).double(),
        torch.tensor([[-3.0, -7.0, -9.0]]).double(),
        torch.tensor([-1.5]).double(),
        torch.tensor([[-1.5, -2.0, -3.0]]).double(),
        margin=MARGIN_EARLY,
    )
    assert result.boundary_mask.tolist() == [[True, False, False]]
    assert result.betas[0].tolist() == pytest.approx([1 + 0.5 * math.tanh(-5 / 7), 0, 0])
    assert result.betas[0, 0].item() == pytest.approx(0.6933214, abs=1e-6)
    assert result.losses.item() == pytest.approx(math.log1p(math.exp(-1.3866427)), abs=1e-6)


def test_selection_looks_at_the_policy_and_not_at_log_ratios() -> None:
    tensors = batch()
    alone = preference_losses(tensors["policy_chosen_logps"], tensors["policy_rejected_logps"])
    result = preference_losses(**tensors)
    assert torch.equal(result.boundary_mask, alone.boundary_mask)
    assert torch.equal(result.betas, alone.betas)
    assert not torch.equal(result.losses, alone.losses)


@pytest.mark.parametrize("loss", MULTI)
def test_plain_uses_every_counted_negative_at_beta(loss: str) -> None:
    mask = torch.rand(40, 7, generator=torch.Generator().manual_seed(0)) < 0.7
    result = preference_losses(
        **batch(loss=loss), rejected_mask=mask, loss=loss, dynamic=False, beta=0.3
    )
    assert torch.equal(result.boundary_mask, mask)
    assert torch.equal(result.betas, 0.3 * mask.double())


@pytest.mark.parametrize("ablation", ["none", "selection", "beta"])
def test_an_ablation_leaves_one_half_of_dynamicpo(ablation: str) -> None:
    tensors = batch()
    boundary = boundary_negatives(tensors["policy_chosen_logps"], tensors["policy_rejected_logps"])
    result = preference_losses(**tensors, ablation=ablation)
    assert torch.equal(
        result.boundary_mask, torch.ones_like(boundary) if ablation == "beta" else boundary
    )
    assert torch.equal(result.betas != 0, result.boundary_mask)
    assert bool((result.betas[boundary] == 1).all()) is (ablation == "selection")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("loss", ["dmpo", "sdpo"])
def test_one_negative_is_dpo(loss: str, dynamic: bool) -> None:
    tensors = batch(num_negatives=1)
    dpo = preference_losses(**tensors, loss="dpo", dynamic=dynamic)
    assert_close(preference_losses(**tensors, loss=loss, dynamic=dynamic).losses, dpo.losses)
    assert dpo.boundary_mask.all()


def test_simpo_is_dmpo_without_a_reference_and_with_a_target_margin() -> None:
    tensors = batch(loss="simpo")
    assert_close(
        preference_losses(**tensors, loss="simpo").losses,
        preference_losses(**tensors, loss="dmpo").losses,
    )
    lower = tensors | {"policy_chosen_logps": tensors["policy_chosen_logps"] - 0.5}
    plain = {"loss": "simpo", "dynamic": False}
    assert_close(
        preference_losses(**tensors, **plain, simpo_gamma=0.5).losses,  # type: ignore[arg-type]
        preference_losses(**lower, **plain).losses,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("garbage", [0.0, 1e30, -math.inf, math.nan])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("loss", MULTI)
def test_a_masked_negative_equals_an_absent_one_and_has_no_gradient(
    loss: str, dynamic: bool, garbage: float
) -> None:
    tensors = batch(loss=loss)
    expected = preference_losses(**tensors, loss=loss, dynamic=dynamic)
    padded = {
        name: torch.nn.functional.pad(tensor, (2, 1), value=garbage) if tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }
    padded["policy_rejected_logps"].requires_grad_()
    mask = torch.nn.functional.pad(torch.ones(40, 7, dtype=torch.bool), (2, 1), value=False)
    result = preference_losses(**padded, rejected_mask=mask, loss=loss, dynamic=dynamic)
    assert_close(result.losses, expected.losses, rtol=1e-14, atol=1e-14)
    assert torch.equal(result.boundary_mask[:, 2:9], expected.boundary_mask)
    assert not result.boundary_mask[~mask].any()
    assert not result.betas[~mask].any()
    (gradient,) = torch.autograd.grad(result.losses.sum(), padded["policy_rejected_logps"])
    assert not gradient[~mask].any()
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("loss", MULTI)
def test_a_row_without_negatives_has_no_loss_and_no_gradient(loss: str, dynamic: bool) -> None:
    tensors = batch(rows=3, loss=loss)
    for name in ("policy_chosen_logps", "policy_rejected_logps"):
        tensors[name].requires_grad_()
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1] = False
    losses = preference_losses(
        **tensors, rejected_mask=mask, loss=loss, dynamic=dynamic, simpo_gamma=0.5
    ).losses
    gradients = torch.autograd.grad(
        losses.sum(), [tensors["policy_chosen_logps"], tensors["policy_rejected_logps"]]
    )
    assert losses[1] == 0 and bool((losses[[0, 2]] > 0).all())
    for gradient in gradients:
        assert not gradient[1].any()
        assert bool(gradient.isfinite().all()) and bool(gradient[[0, 2]].any())


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("loss", MULTI)
def test_gradients_hold_mask_and_beta_constant(loss: str, dynamic: bool) -> None:
    tensors = batch(rows=6, num_negatives=5, loss=loss)
    chosen, rejected = (
        tensors.pop(f"policy_{name}_logps").requires_grad_() for name in ("chosen", "rejected")
    )
    result = preference_losses(chosen, rejected, **tensors, loss=loss, dynamic=dynamic)
    assert not result.betas.requires_grad

    def at_constants(chosen: Tensor, rejected: Tensor) -> Tensor:
        if tensors:
            chosen = chosen - tensors["reference_chosen_logps"]
            rejected = rejected - tensors["reference_rejected_logps"]
        if loss == "mppo":
            chosen, rejected = chosen.exp(), rejected.exp()
        return LOSS_FUNCTIONS[loss](
            result.betas * (chosen[:, None] - rejected), result.boundary_mask
        )

    assert torch.autograd.gradcheck(at_constants, (chosen, rejected))
    ours = torch.autograd.grad(result.losses.sum(), (chosen, rejected))
    expected = torch.autograd.grad(at_constants(chosen, rejected).sum(), (chosen, rejected))
    assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert bool((ours[0] < 0).all())
    assert torch.equal(ours[1] != 0, result.boundary_mask)


@pytest.mark.parametrize("loss", MULTI)
def test_many_negatives(loss: str) -> None:
    tensors = batch(rows=4, num_negatives=128, loss=loss)
    expected = torch.tensor(by_loops(tensors, loss, True, 1.0, 6.0), dtype=torch.float64)
    ours = preference_losses(**tensors, loss=loss, simpo_gamma=0.5).losses
    assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_arguments_stay_as_they_came() -> None:
    tensors = batch()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    mask = torch.ones(40, 7, dtype=torch.bool)
    preference_losses(**tensors, rejected_mask=mask)
    preference_diagnostics(**tensors, rejected_mask=mask)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items()) and bool(
        mask.all()
    )


def test_an_empty_batch_has_no_losses() -> None:
    assert preference_losses(torch.zeros(0), torch.zeros(0, 4)).losses.shape == (0,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"loss": "dmop"},
            "loss: unknown name 'dmop'; choose from dmpo, dpo, mppo, sdpo, simpo. "
            "Did you mean 'dmpo'?",
        ),
        ({"ablation": "margin"}, "ablation: unknown name 'margin'"),
        (
            {"ablation": "beta", "dynamic": False},
            "ablation: 'beta' is a part of DynamicPO, but dynamic is off",
        ),
        ({"beta": 0.0}, "beta: must be > 0, got 0.0"),
        ({"beta": math.nan}, "beta: must be > 0, got nan"),
        ({"margin": -1.0}, "margin: must be >= 0, got -1.0"),
        (
            {"loss": "mppo"},
            "reference_chosen_logps: mppo takes no reference, got one. Leave it out.",
        ),
        (
            {"loss": "simpo"},
            "reference_chosen_logps: simpo takes no reference, got one. Leave it out.",
        ),
    ],
)
def test_settings_that_can_not_be_used(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preference_losses(**batch(), **settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"policy_rejected_logps": torch.zeros(40, 0)},
            r"policy_rejected_logps: must be (B, K) with K >= 1",
        ),
        (
            {"policy_chosen_logps": torch.zeros(39)},
            "policy_chosen_logps: must be (40,) to fit policy_rejected_logps",
        ),
        (
            {"reference_chosen_logps": torch.zeros(40, 1)},
            "reference_chosen_logps: must be (40,), got (40, 1)",
        ),
        (
            {"reference_rejected_logps": torch.zeros(40, 6)},
            "reference_rejected_logps: must be (40, 7), got (40, 6)",
        ),
        (
            {"reference_rejected_logps": None},
            "reference_rejected_logps: must come with reference_chosen_logps",
        ),
        (
            {"rejected_mask": torch.ones(40, 7)},
            "rejected_mask: must be bool (40, 7), got torch.float32",
        ),
        (
            {"loss": "dpo"},
            "policy_rejected_logps: dpo takes one negative, got 7. Use dmpo or sdpo.",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError) as caught:
        preference_losses(**(batch() | change))
    assert message in str(caught.value)
