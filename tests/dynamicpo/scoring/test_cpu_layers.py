"""Fused layers: peft's and transformers' own values and gradients; other layers are left alone."""

import sys

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.testing import assert_close
from transformers.models.llama import modeling_llama

from dynamicpo.scoring import cpu_layers
from dynamicpo.scoring.cpu_kernels import fused_lora, fused_rms_norm, fused_rotary, fused_swiglu
from dynamicpo.scoring.cpu_layers import fused_layers
from dynamicpo.scoring.shared_prefix import answer_logps
from tests.fixtures.scoring import defined_logps, random_rows, tiny_model


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
    model = get_peft_model(
        module, LoraConfig(**{"r": 3, "target_modules": ["first", "second"], **settings})
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.5)
    return model


def recorded_calls(monkeypatch, function):
    """Every call of one of our functions."""
    seen = []
    monkeypatch.setattr(
        cpu_layers, function.__name__, lambda *values: seen.append(values) or function(*values)
    )
    return seen


@pytest.fixture
def calls(monkeypatch):
    return recorded_calls(monkeypatch, fused_lora)


def test_values_and_gradients_are_those_of_peft(calls):
    model = wrapped(Two()).double()
    inputs = torch.randn(4, 2, 6, dtype=torch.float64, requires_grad=True)
    wanted = [inputs, *(weight for weight in model.parameters() if weight.requires_grad)]
    expected = model(inputs)
    with fused_layers(model):
        actual = model(inputs)
    assert len(calls) == 2
    assert_close(actual, expected, atol=1e-12, rtol=1e-12)
    weights = torch.randn_like(actual)
    gradients = [
        torch.autograd.grad((values * weights).sum(), wanted) for values in (actual, expected)
    ]
    assert len(wanted) == 5
    for ours, theirs in zip(*gradients, strict=True):
        assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_gradients_of_lora_are_those_of_small_differences():
    torch.manual_seed(0)
    shapes = [(3, 2, 4), (5, 4), (5,), (2, 4), (5, 2)]
    values = [
        torch.randn(shape, dtype=torch.float64, requires_grad=index in (0, 3, 4))
        for index, shape in enumerate(shapes)
    ]
    assert torch.autograd.gradcheck(lambda *inputs: fused_lora(*inputs, 1.7), values)


def test_products_are_in_bfloat16_under_autocast_and_gradients_in_the_weights_own_precision(calls):
    model = wrapped(Two())
    inputs = torch.randn(40, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(inputs)
        with fused_layers(model):
            actual = model(inputs)
    assert actual.dtype == expected.dtype == torch.bfloat16
    assert len(calls) == 2
    assert_close(actual, expected, atol=0.05, rtol=0.05)
    actual.float().square().sum().backward()
    assert {
        weight.grad.dtype for weight in [inputs, *model.parameters()] if weight.requires_grad
    } == {torch.float32}


def test_the_model_is_as_before_afterwards(calls):
    model = wrapped(Two())
    inputs = torch.randn(2, 6)
    with pytest.raises(ZeroDivisionError), fused_layers(model):
        1 / 0  # noqa: B018
    model(inputs)
    assert not calls
    with fused_layers(model), fused_layers(model):
        model(inputs)
    assert len(calls) == 2


def test_positions_are_turned_by_transformers_again_after_an_error():
    before = modeling_llama.apply_rotary_pos_emb
    with pytest.raises(ZeroDivisionError), fused_layers(tiny_model()):
        1 / 0  # noqa: B018
    assert modeling_llama.apply_rotary_pos_emb is before


def test_contexts_may_end_in_any_order():
    model = tiny_model()
    before = modeling_llama.apply_rotary_pos_emb
    first, second = fused_layers(model), fused_layers(model)
    first.__enter__()
    second.__enter__()
    assert modeling_llama.apply_rotary_pos_emb is fused_rotary
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert modeling_llama.apply_rotary_pos_emb is before


def merged(model: nn.Module) -> None:
    model.merge_adapter()


def switched_off(model: nn.Module) -> None:
    model.base_model.disable_adapter_layers()


def bias_trained_below(model: nn.Module) -> None:
    model.base_model.model.first.base_layer.bias.requires_grad_(True)
    model.base_model.model.second.base_layer.register_forward_hook(lambda *_: None)


def hooks_on_lora(model: nn.Module) -> None:
    model.base_model.model.first.lora_A["default"].register_full_backward_pre_hook(lambda *_: None)
    model.base_model.model.second.lora_B["default"].register_forward_pre_hook(lambda *_: None)


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


@pytest.mark.parametrize(
    "change",
    [
        merged,
        switched_off,
        trained_below,
        bias_trained_below,
        hooks_on_lora,
        two_at_once,
        wrapped_below,
    ],
)
def test_layers_in_another_state_are_left_to_peft(calls, change):
    model = wrapped(Two())
    change(model)
    inputs = torch.randn(2, 6)
    with fused_layers(model):
        actual = model(inputs)
    assert not calls
    assert_close(actual, model(inputs))


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"lora_bias": True, "target_modules": ["first"]}]
)
def test_layers_of_another_kind_are_left_to_peft(calls, settings):
    with fused_layers(model := wrapped(Two(), **settings)):
        model(torch.randn(2, 6))
    assert not calls


def test_dropout_is_left_to_peft_while_it_drops(calls):
    model = wrapped(Two(), lora_dropout=0.5).train()
    with fused_layers(model):
        model(torch.randn(2, 6))
    assert not calls
    with fused_layers(model.eval()):
        model(torch.randn(2, 6))
    assert len(calls) == 2


def test_scoring_uses_them_but_for_checkpointed_models(calls, monkeypatch):
    others = [recorded_calls(monkeypatch, function) for function in (fused_rms_norm, fused_rotary)]
    model = get_peft_model(
        tiny_model(), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
    ).train()
    answer_logps(model, random_rows(2, 3), "sdpa")
    layers = sum(hasattr(module, "lora_A") for module in model.modules())
    assert len(calls) == layers > 0
    assert [len(each) for each in others] == [5, 2]
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    answer_logps(model, random_rows(2, 3), "sdpa")
    assert len(calls) == layers
    assert [len(each) for each in others] == [5, 2]


def frozen(layer: nn.Module) -> nn.Module:
    """A layer with random weights that are not trained."""
    torch.manual_seed(0)
    for weight in layer.parameters():
        nn.init.normal_(weight)
    return layer.requires_grad_(False)


CONFIG = transformers.LlamaConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
NORM = frozen(modeling_llama.LlamaRMSNorm(8, eps=0.01))
GATED_UNIT = frozen(modeling_llama.LlamaMLP(CONFIG))


def computed_by_us(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    if layer is NORM:
        return fused_rms_norm(inputs, NORM.weight.to(inputs.dtype), NORM.variance_epsilon)
    return fused_swiglu(
        inputs,
        *(
            part.weight.to(inputs.dtype)
            for part in (GATED_UNIT.gate_proj, GATED_UNIT.up_proj, GATED_UNIT.down_proj)
        ),
    )


@pytest.mark.parametrize("layer", [NORM, GATED_UNIT])
def test_layers_give_what_transformers_give(layer):
    inputs = torch.randn(2, 5, 8, requires_grad=True)
    weights = torch.randn(2, 5, 8)
    values = computed_by_us(layer, inputs), layer(inputs)
    gradients = [torch.autograd.grad((part * weights).sum(), inputs)[0] for part in values]
    assert_close(*values, atol=1e-5, rtol=1e-5)
    assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [NORM, GATED_UNIT])
def test_gradients_are_those_of_small_differences(layer):
    inputs = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: computed_by_us(layer, values), inputs)


def test_the_gated_unit_is_in_bfloat16_under_autocast():
    inputs = torch.randn(2, 5, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        actual, expected = computed_by_us(GATED_UNIT, inputs), GATED_UNIT(inputs)
    assert actual.dtype == expected.dtype == torch.bfloat16
    assert_close(actual, expected, atol=0.1, rtol=0.05)
    actual.float().square().sum().backward()
    assert inputs.grad.dtype == torch.float32


@pytest.mark.parametrize("heads_at", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_positions_turn_heads_as_in_transformers(heads_at, dtype):
    torch.manual_seed(0)
    shapes = [(2, 3, 4, 6), (2, 1, 4, 6)] if heads_at == 1 else [(2, 4, 3, 6), (2, 4, 1, 6)]
    query, key = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    exact = torch.promote_types(dtype, torch.float32)
    cosines, sines = torch.randn(2, 2, 4, 6, dtype=exact)
    actual = fused_rotary(query, key, cosines, sines, heads_at)
    expected = modeling_llama.apply_rotary_pos_emb(query, key, cosines, sines, heads_at)
    gradients = [
        torch.autograd.grad(sum(part.square().sum() for part in each), [query, key])
        for each in (actual, expected)
    ]
    tolerance = (
        {"atol": 0.05, "rtol": 0.02} if dtype == torch.bfloat16 else {"atol": 1e-12, "rtol": 1e-12}
    )
    for ours, theirs in zip([*actual, *gradients[0]], [*expected, *gradients[1]], strict=True):
        assert ours.dtype == theirs.dtype
        assert_close(ours, theirs, **tolerance)
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(
            lambda *heads: fused_rotary(*heads, cosines, sines, heads_at), [query, key]
        )


@pytest.mark.parametrize(
    ("name", "norms"),
    [("llama", 5), ("mistral", 5), ("qwen2", 5), ("qwen3", 9), ("gemma", 0), ("gpt2", 0)],
)
def test_scoring_uses_them_in_these_models(monkeypatch, name, norms):
    model = tiny_model(name).requires_grad_(False)
    names = vars(sys.modules[type(model).__module__])
    before = names.get("apply_rotary_pos_emb")
    seen = [
        recorded_calls(monkeypatch, function)
        for function in (fused_rms_norm, fused_swiglu, fused_rotary)
    ]
    actual = answer_logps(model, random_rows(2, 3), "sdpa")
    assert [len(each) for each in seen] == ([norms, 2, 2] if norms else [0, 0, 0])
    assert names.get("apply_rotary_pos_emb") is before
    assert_close(actual, defined_logps(model, random_rows(2, 3)), atol=1e-4, rtol=1e-5)


def test_parts_of_a_gated_unit_with_hooks_are_called(monkeypatch):
    units = recorded_calls(monkeypatch, fused_swiglu)
    model, seen = tiny_model().requires_grad_(False), []
    model.model.layers[1].mlp.up_proj.register_forward_hook(lambda *values: seen.append(values))
    answer_logps(model, random_rows(2, 3), "sdpa")
    assert len(units) == len(seen) == 1


def test_weights_that_are_trained_and_other_precisions_are_left_to_transformers(monkeypatch):
    seen = [recorded_calls(monkeypatch, function) for function in (fused_rms_norm, fused_swiglu)]
    answer_logps(tiny_model(), random_rows(2, 3), "sdpa")
    answer_logps(
        get_peft_model(tiny_model(), LoraConfig(task_type="CAUSAL_LM", target_modules=["up_proj"])),
        random_rows(2, 3),
        "sdpa",
    )
    assert [len(each) for each in seen] == [5, 0]
    answer_logps(tiny_model().to(torch.bfloat16).requires_grad_(False), random_rows(2, 3), "sdpa")
    assert [len(each) for each in seen] == [5, 2]
