"""Attributes of peft's LoRA layers that we read: these tests fail when peft changes them."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.testing import assert_close

from dynamicpo.scoring.peft_internals import LoraLinear, is_plain_lora, lora_weights


def lora_layer(**settings) -> nn.Module:
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["0"], **settings)
    layer = get_peft_model(nn.Sequential(nn.Linear(4, 3)), config).base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    return layer


def test_a_layers_output_is_made_of_these_weights():
    layer = lora_layer()
    assert isinstance(layer, LoraLinear)
    assert is_plain_lora(layer)
    weights = lora_weights(layer)
    assert weights.scaling == 3
    inputs = torch.randn(5, 4)
    expected = inputs @ weights.weight.T + weights.bias
    expected += weights.scaling * inputs @ weights.lora_a.T @ weights.lora_b.T
    assert_close(layer(inputs), expected)


def test_layers_that_compute_more_are_told_apart():
    assert not is_plain_lora(lora_layer(use_dora=True))
    assert not is_plain_lora(lora_layer(lora_bias=True))
    assert not is_plain_lora(lora_layer(lora_dropout=0.5).train())
    assert is_plain_lora(lora_layer(lora_dropout=0.5).eval())


def test_switched_off_and_merged_layers_are_told_apart():
    switched_off = lora_layer()
    switched_off.enable_adapters(False)
    assert not is_plain_lora(switched_off)
    merged = lora_layer()
    merged.merge()
    assert not is_plain_lora(merged)
