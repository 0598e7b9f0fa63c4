"""The objective on any device: no copy to the host, one graph, and finite in every precision."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from dynamicpo.objective.diagnostics import preference_diagnostics
from dynamicpo.objective.dynamicpo import preference_losses
from tests.fixtures.logps import MULTI, batch

HOST_COPIES = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "unique",
    "_unique2",
    "item",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sdpo_is_finite_at_gaps_of_a_thousand(dtype: torch.dtype) -> None:
    chosen = torch.tensor([-1000.0, -1.0], dtype=dtype, requires_grad=True)
    rejected = torch.tensor([[-1.0, -2.0], [-1001.0, -1002.0]], dtype=dtype, requires_grad=True)
    losses = preference_losses(chosen, rejected, loss="sdpo", dynamic=False).losses
    assert losses.tolist() == pytest.approx([999 + math.log1p(math.exp(-1)), 0.0], rel=1e-6)
    for gradient in torch.autograd.grad(losses.sum(), (chosen, rejected)):
        assert bool(gradient.isfinite().all())
    assert preference_losses(chosen, rejected, loss="sdpo").losses.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", MULTI)
def test_half_precision_is_computed_in_float32(loss: str, dtype: torch.dtype) -> None:
    tensors = batch(loss=loss, dtype=dtype)
    tensors["policy_rejected_logps"].requires_grad_()
    result = preference_losses(**tensors, loss=loss)
    expected = preference_losses(
        **{name: tensor.float() for name, tensor in tensors.items()}, loss=loss
    )
    assert result.losses.dtype == result.betas.dtype == torch.float32
    assert torch.equal(result.losses, expected.losses)
    (gradient,) = torch.autograd.grad(result.losses.sum(), tensors["policy_rejected_logps"])
    assert gradient.dtype == dtype


class NoHostCopy(TorchDispatchMode):
    """Refuses operations that wait for the device to know a value, and moves to another device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        moves = kwargs.get("device") not in (
            None,
            args[0].device if args and isinstance(args[0], Tensor) else None,
        )
        indexes = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if name in HOST_COPIES or indexes or (name in ("_to_copy", "copy_") and moves):
            raise AssertionError(f"{name} copies to the host")
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    "copies",
    [
        lambda values: values.sum().item(),
        lambda values: values[values > 0],
        lambda values: values.nonzero(),
        lambda values: values.to("meta"),
        lambda values: bool(values.any()),
    ],
)
def test_host_copies_are_detected(copies: Callable[[Tensor], Any]) -> None:
    with NoHostCopy(), pytest.raises(AssertionError, match="copies to the host"):
        copies(torch.ones(3))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("loss", MULTI)
def test_nothing_is_copied_to_the_host(loss: str, dynamic: bool, device: str) -> None:
    # on the meta device tensors hold no values: whatever needs one fails
    tensors = {
        name: tensor.to(device) for name, tensor in batch(loss=loss, dtype=torch.float32).items()
    }
    tensors["policy_rejected_logps"].requires_grad_()
    mask = torch.ones(40, 7, dtype=torch.bool, device=device)
    with NoHostCopy():
        result = preference_losses(**tensors, rejected_mask=mask, loss=loss, dynamic=dynamic)
        result.losses.sum().backward()
        preference_diagnostics(**tensors, rejected_mask=mask, loss=loss, dynamic=dynamic)
    assert result.losses.device.type == device


@pytest.mark.parametrize("loss", MULTI)
def test_compiled_graph_has_no_break_and_is_equal(loss: str) -> None:
    tensors = batch(loss=loss)
    compiled = torch.compile(preference_losses, fullgraph=True, backend="aot_eager", dynamic=False)
    for name in ("policy_chosen_logps", "policy_rejected_logps"):
        tensors[name].requires_grad_()
    ours, expected = compiled(**tensors, loss=loss), preference_losses(**tensors, loss=loss)
    assert torch.equal(ours.boundary_mask, expected.boundary_mask)
    assert_close(ours.losses, expected.losses, rtol=1e-12, atol=1e-12)
    assert_close(
        torch.autograd.grad(ours.losses.sum(), tensors["policy_rejected_logps"]),
        torch.autograd.grad(expected.losses.sum(), tensors["policy_rejected_logps"]),
    )


def test_compiled_code_is_equal() -> None:
    tensors = batch(num_negatives=15, dtype=torch.float32)
    ours = torch.compile(preference_losses, fullgraph=True, dynamic=False)(**tensors)
    expected = preference_losses(**tensors)
    assert torch.equal(ours.boundary_mask, expected.boundary_mask)
    assert_close(ours.losses, expected.losses, rtol=1e-5, atol=1e-5)
    assert_close(ours.betas, expected.betas, rtol=1e-5, atol=1e-5)
