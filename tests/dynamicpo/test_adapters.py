"""LoRA layers in fewer passes: peft's own values and gradients; layers that are more than plain LoRA are left alone."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.testing import assert_close

from dynamicpo import adapters
from dynamicpo.adapters import adapted, fused_adapters
from dynamicpo.scoring import answer_logps
from tests.fixtures.scoring import random_rows, tiny_model


class Two(nn.Module):
    """One layer with a bias and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 7, bias=False)

    def forward(self, inputs):
        return self.second(self.first(inputs))


def wrapped(module: nn.Module, **settings) -> nn.Module:
    """The module with LoRA on all of its layers, none of whose weights is zero."""
    torch.manual_seed(0)
    model = get_peft_model(module, LoraConfig(**{"r": 3, "target_modules": ["first", "second"], **settings}))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.5)
    return model


@pytest.fixture
def calls(monkeypatch):
    """Every call of our function."""
    seen = []
    monkeypatch.setattr(adapters, "adapted", lambda *values: seen.append(values) or adapted(*values))
    return seen


def test_values_and_gradients_are_those_of_peft(calls):
    model = wrapped(Two()).double()
    inputs = torch.randn(4, 2, 6, dtype=torch.float64, requires_grad=True)
    wanted = [inputs, *(weight for weight in model.parameters() if weight.requires_grad)]
    expected = model(inputs)
    with fused_adapters(model):
        found = model(inputs)
    assert len(calls) == 2
    assert_close(found, expected, atol=1e-12, rtol=1e-12)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((values * weights).sum(), wanted) for values in (found, expected)]
    assert len(wanted) == 5
    for ours, theirs in zip(*gradients, strict=True):
        assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_gradients_are_those_of_small_differences():
    torch.manual_seed(0)
    shapes = [(3, 2, 4), (5, 4), (5,), (2, 4), (5, 2)]
    values = [
        torch.randn(shape, dtype=torch.float64, requires_grad=place in (0, 3, 4)) for place, shape in enumerate(shapes)
    ]
    assert torch.autograd.gradcheck(lambda *given: adapted(*given, 1.7), values)


def test_products_are_in_bfloat16_under_autocast_and_gradients_in_the_weights_own_precision(calls):
    model = wrapped(Two())
    inputs = torch.randn(40, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(inputs)
        with fused_adapters(model):
            found = model(inputs)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert len(calls) == 2
    assert_close(found, expected, atol=0.05, rtol=0.05)
    found.float().square().sum().backward()
    assert {weight.grad.dtype for weight in [inputs, *model.parameters()] if weight.requires_grad} == {torch.float32}


def test_the_model_is_as_before_afterwards(calls):
    model = wrapped(Two())
    inputs = torch.randn(2, 6)
    with pytest.raises(ZeroDivisionError), fused_adapters(model):
        1 / 0  # noqa: B018
    model(inputs)
    assert not calls
    with fused_adapters(model), fused_adapters(model):
        model(inputs)
    assert len(calls) == 2


def merged(model: nn.Module) -> None:
    model.merge_adapter()


def switched_off(model: nn.Module) -> None:
    model.base_model.disable_adapter_layers()


def trained_below(model: nn.Module) -> None:
    for layer in (model.base_model.model.first, model.base_model.model.second):
        layer.base_layer.weight.requires_grad_(True)


def two_at_once(model: nn.Module) -> None:
    model.add_adapter("other", LoraConfig(r=2, target_modules=["first", "second"]))
    model.base_model.set_adapter(["default", "other"])


def wrapped_below(model: nn.Module) -> None:
    class Wrapper(nn.Sequential):
        @property
        def weight(self):
            return self[0].weight

    for layer in (model.base_model.model.first, model.base_model.model.second):
        layer.lora_A["default"] = Wrapper(layer.lora_A["default"])


@pytest.mark.parametrize("change", [merged, switched_off, trained_below, two_at_once, wrapped_below])
def test_layers_in_another_state_are_left_to_peft(calls, change):
    model = wrapped(Two())
    change(model)
    inputs = torch.randn(2, 6)
    with fused_adapters(model):
        found = model(inputs)
    assert not calls
    assert_close(found, model(inputs))


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True, "target_modules": ["first"]}])
def test_layers_of_another_kind_are_left_to_peft(calls, settings):
    with fused_adapters(model := wrapped(Two(), **settings)):
        model(torch.randn(2, 6))
    assert not calls


def test_dropout_is_left_to_peft_while_it_drops(calls):
    model = wrapped(Two(), lora_dropout=0.5).train()
    with fused_adapters(model):
        model(torch.randn(2, 6))
    assert not calls
    with fused_adapters(model.eval()):
        model(torch.randn(2, 6))
    assert len(calls) == 2


def test_scoring_uses_it_but_for_checkpointed_layers(calls):
    model = get_peft_model(tiny_model(), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")).train()
    answer_logps(model, random_rows(2, 3), "sdpa")
    layers = sum(hasattr(module, "lora_A") for module in model.modules())
    assert len(calls) == layers > 0
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    answer_logps(model, random_rows(2, 3), "sdpa")
    assert len(calls) == layers
