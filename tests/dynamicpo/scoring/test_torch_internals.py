"""Parts of torch that we use without a promise: these tests fail when torch changes them."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from dynamicpo.scoring.torch_internals import (
    HOOK_TABLES,
    has_hooks,
    has_replaced_forward,
    silu_backward,
    softmax_backward_,
)


def nothing(*_):
    return None


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_every_kind_of_hook_is_seen(register):
    layer = nn.Linear(2, 2)
    assert not has_hooks(layer)
    hook = getattr(layer, register)(nothing)
    assert has_hooks(layer)
    hook.remove()
    assert not has_hooks(layer)


def test_modules_keep_their_hooks_in_these_tables():
    assert vars(nn.Linear(2, 2)).keys() >= set(HOOK_TABLES)


def test_a_replaced_forward_is_seen():
    layer = nn.Linear(2, 2)
    assert not has_replaced_forward(layer)
    layer.forward = nothing
    assert has_replaced_forward(layer)


def test_the_gradient_of_softmax_is_written_over_that_of_its_output():
    torch.manual_seed(0)
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weights = scores.softmax(-1)
    grad_weights = torch.randn_like(weights)
    (expected,) = torch.autograd.grad(weights, scores, grad_weights)
    actual = softmax_backward_(grad_weights, weights.detach())
    assert actual is grad_weights
    assert_close(actual, expected, atol=1e-14, rtol=1e-14)


def test_the_gradient_of_silu():
    torch.manual_seed(0)
    inputs = torch.randn(7, dtype=torch.float64, requires_grad=True)
    grad_output = torch.randn_like(inputs)
    (expected,) = torch.autograd.grad(nn.functional.silu(inputs), inputs, grad_output)
    assert_close(silu_backward(grad_output, inputs.detach()), expected, atol=1e-14, rtol=1e-14)
