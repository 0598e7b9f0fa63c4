"""Log-probabilities by a frozen head: values and gradients of log_softmax, without its memory."""

import pytest
import torch
from torch.testing import assert_close

from dynamicpo.scoring import frozen_head
from dynamicpo.scoring.frozen_head import frozen_head_logps

PREDICTION_INDEX = torch.tensor([4, 0, 0, 1, 3, 4, 4])
TARGETS = torch.tensor([10, 3, 0, 7, 7, 10, 2])


def problem(dtype: torch.dtype = torch.float64, bias: bool = False) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(5, 6, dtype=dtype, requires_grad=True)
    return hidden, torch.randn(11, 6, dtype=dtype), torch.randn(11, dtype=dtype) if bias else None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 5, 256])
def test_log_softmax_and_its_gradient(monkeypatch, chunk, bias):
    monkeypatch.setattr(frozen_head, "CHUNK", chunk)
    hidden, weight, offset = problem(bias=bias)
    expected = torch.nn.functional.linear(hidden, weight, offset).log_softmax(-1)[
        PREDICTION_INDEX, TARGETS
    ]
    actual = frozen_head_logps(hidden, weight, offset, PREDICTION_INDEX, TARGETS)
    assert_close(actual, expected, atol=1e-12, rtol=1e-12)
    grad_output = torch.arange(1.0, 8.0, dtype=torch.float64)
    (ours,) = torch.autograd.grad(actual, hidden, grad_output)
    (theirs,) = torch.autograd.grad(expected, hidden, grad_output)
    assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    assert torch.autograd.gradcheck(
        lambda states: frozen_head_logps(states, weight, offset, PREDICTION_INDEX, TARGETS), hidden
    )


def test_large_logits_stay_finite():
    hidden, weight, _ = problem(torch.float32)
    actual = frozen_head_logps(hidden * 1e3, weight, None, PREDICTION_INDEX, TARGETS)
    expected = ((hidden * 1e3) @ weight.T).log_softmax(-1)[PREDICTION_INDEX, TARGETS]
    assert_close(actual, expected)


def test_bfloat16_products_give_float32():
    hidden, weight, _ = problem(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = frozen_head_logps(hidden, weight, None, PREDICTION_INDEX, TARGETS)
    assert actual.dtype == torch.float32
    assert (actual <= 0).all()
    assert_close(
        actual, (hidden @ weight.T).log_softmax(-1)[PREDICTION_INDEX, TARGETS], atol=0.05, rtol=0.02
    )
    (gradient,) = torch.autograd.grad(actual.sum(), hidden)
    assert gradient.dtype == torch.float32


def test_nothing_is_kept_without_a_gradient():
    hidden, weight, _ = problem()
    assert not frozen_head_logps(
        hidden.detach(), weight, None, PREDICTION_INDEX, TARGETS
    ).requires_grad
