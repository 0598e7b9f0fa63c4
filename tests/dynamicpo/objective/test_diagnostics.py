"""Diagnostics of a step: by hand, against the gradient, and the effect that they shall show."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from dynamicpo.objective.boundary import boundary_negatives
from dynamicpo.objective.diagnostics import preference_diagnostics
from dynamicpo.objective.dynamicpo import preference_losses
from tests.fixtures.logps import MULTI, batch


def test_diagnostics_by_hand() -> None:
    # row 1: no violation, B = {-3}; row 2: the first negative violates, B = {-1}.
    # No reference, beta 0.5, plain DMPO.
    chosen = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    rejected = torch.tensor([[-3.0, -7.0, -9.0], [-1.0, -4.0, -5.0]], dtype=torch.float64)
    measured = preference_diagnostics(chosen, rejected, dynamic=False, beta=0.5)
    z = [0.5 * (-1 + 19 / 3), 0.5 * (-2 + 10 / 3)]
    expected = {
        "rewards/chosen": 0.5 * -1.5,
        "rewards/rejected": 0.5 * -29 / 6,
        "rewards/margins": sum(z) / 2,
        "rewards/accuracies": 1 / 2,
        "logps/chosen": -1.5,
        "logps/rejected": -29 / 6,
        "boundary_fraction": 1 / 3,
        "violation_share": 1 / 2,
        "boundary_beta": 0.5,
        "boundary_gradient": sum(0.5 / 3 / (1 + math.exp(value)) for value in z) / 2,
    }
    assert {name: value.item() for name, value in measured.items()} == pytest.approx(expected)
    assert all(value.ndim == 0 for value in measured.values())


@pytest.mark.parametrize("loss", MULTI)
@pytest.mark.parametrize(("dynamic", "ablation"), [(False, "none"), (True, "none"), (True, "beta")])
def test_boundary_gradient_is_that_of_the_loss_over_the_selection(
    loss: str, dynamic: bool, ablation: str
) -> None:
    tensors = batch(loss=loss)
    settings: dict[str, Any] = {
        "loss": loss,
        "dynamic": dynamic,
        "ablation": ablation,
        "beta": 0.4,
        "margin": 2.0,
    }
    measured = preference_diagnostics(**tensors, **settings)
    boundary = boundary_negatives(tensors["policy_chosen_logps"], tensors["policy_rejected_logps"])
    rejected = tensors["policy_rejected_logps"].requires_grad_()
    result = preference_losses(**tensors, **settings)
    (gradient,) = torch.autograd.grad(result.losses.sum(), rejected)
    rows = range(len(boundary))
    gradients = [gradient[row][boundary[row]].abs().mean().item() for row in rows]
    betas = [result.betas[row][boundary[row]].mean().item() for row in rows]
    assert measured["boundary_gradient"].item() == pytest.approx(sum(gradients) / len(rows))
    assert measured["boundary_beta"].item() == pytest.approx(sum(betas) / len(rows))
    assert measured["boundary_fraction"].item() == pytest.approx(boundary.double().mean().item())


def test_gradient_suppression_of_plain_dmpo() -> None:
    # One hard negative beside ever more easy ones: its gradient dies with the average margin, but
    # not with DynamicPO.
    chosen = torch.tensor([-5.0])
    sizes = {}
    for num_easy in (0, 2, 18):
        rejected = torch.cat([torch.tensor([-5.5]), -25 - torch.arange(num_easy) / 100])[None]
        for dynamic in (False, True):
            measured = preference_diagnostics(chosen, rejected, dynamic=dynamic)
            sizes[num_easy, dynamic] = measured["boundary_gradient"].item()
    assert sizes[18, False] < 1e-3 * sizes[0, False]
    assert sizes[18, True] > 0.2


def test_diagnostics_leave_the_graph_alone() -> None:
    tensors = batch()
    weight = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    scaled = tensors | {
        name: weight * tensors[name] for name in ("policy_chosen_logps", "policy_rejected_logps")
    }
    losses = preference_losses(**scaled).losses
    measured = preference_diagnostics(**scaled)
    assert not any(value.requires_grad for value in measured.values())
    assert weight.grad is None
    losses.sum().backward()
    assert weight.grad is not None and weight.grad.isfinite()
    with torch.no_grad():
        again = preference_diagnostics(**scaled)
    assert {name: value.item() for name, value in again.items()} == {
        n: v.item() for n, v in measured.items()
    }


def test_diagnostics_do_not_count_masked_negatives() -> None:
    tensors = batch(num_negatives=2)
    padded = {
        name: torch.nn.functional.pad(tensor, (1, 2), value=math.nan)
        if tensor.ndim == 2
        else tensor
        for name, tensor in tensors.items()
    }
    mask = torch.nn.functional.pad(torch.ones(40, 2, dtype=torch.bool), (1, 2), value=False)
    measured = preference_diagnostics(**padded, rejected_mask=mask)
    expected = preference_diagnostics(**tensors)
    assert np.allclose(
        [value.item() for value in measured.values()],
        [value.item() for value in expected.values()],
    )
