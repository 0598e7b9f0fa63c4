"""Parts of transformers that we patch: these tests fail when transformers changes them."""

import inspect
import logging
import sys

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.models.llama import modeling_llama

from dynamicpo.scoring import transformers_internals
from dynamicpo.scoring.cpu_kernels import fused_rotary
from dynamicpo.scoring.transformers_internals import (
    ATTENTION_NAME,
    PATCHED_MODULES,
    ROTARY_FUNCTION,
    is_rms_norm,
    is_swiglu,
    no_mask,
    replaced_forward,
    replaced_rotary,
    use_our_attention,
)
from tests.fixtures.scoring import VOCABULARY, tiny_model


@pytest.fixture(autouse=True)
def nothing_logged_yet():
    transformers_internals._log_unpatched.cache_clear()


@pytest.mark.parametrize("model_type", PATCHED_MODULES)
def test_patched_modules_hold_what_is_replaced(model_type, caplog):
    model = tiny_model(model_type)
    module = sys.modules[PATCHED_MODULES[model_type]]
    assert type(model).__module__ == module.__name__
    parameters = list(inspect.signature(getattr(module, ROTARY_FUNCTION)).parameters)
    assert parameters == ["q", "k", "cos", "sin", "unsqueeze_dim"]
    layer = model.model.layers[0]
    assert is_rms_norm(layer.input_layernorm)
    assert is_swiglu(layer.mlp)
    with replaced_rotary(model, fused_rotary):
        assert getattr(module, ROTARY_FUNCTION) is fused_rotary
    assert getattr(module, ROTARY_FUNCTION) is not fused_rotary
    assert not caplog.messages


@pytest.mark.parametrize("model_type", ["gemma", "gpt2"])
def test_other_architectures_are_left_alone(model_type, caplog):
    model = tiny_model(model_type)
    assert not any(is_rms_norm(layer) or is_swiglu(layer) for layer in model.modules())
    with replaced_rotary(model, fused_rotary):
        pass
    assert not caplog.messages


def test_a_missing_function_is_logged_once(monkeypatch, caplog):
    monkeypatch.delattr(modeling_llama, ROTARY_FUNCTION)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with replaced_rotary(tiny_model(), fused_rotary):
                assert not hasattr(modeling_llama, ROTARY_FUNCTION)
    assert len(caplog.messages) == 1
    assert "modeling_llama has no apply_rotary_pos_emb" in caplog.text


def test_a_model_class_from_elsewhere_is_logged_once(caplog):
    class Elsewhere(modeling_llama.LlamaForCausalLM):
        pass

    model = Elsewhere(tiny_model().config)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with replaced_rotary(model, fused_rotary):
                assert modeling_llama.apply_rotary_pos_emb is not fused_rotary
    assert len(caplog.messages) == 1
    assert "Elsewhere: not computed by our fused kernel" in caplog.text


def test_a_layer_without_a_known_attribute_is_logged_once(caplog):
    norm = modeling_llama.LlamaRMSNorm(4)
    del norm.variance_epsilon
    with caplog.at_level(logging.WARNING):
        assert not is_rms_norm(norm)
        assert not is_rms_norm(norm)
    assert caplog.messages == [
        "LlamaRMSNorm: not computed by our fused kernel, as it has no variance_epsilon"
    ]


def test_an_instances_forward_is_called_and_taken_away_again():
    layer = nn.Linear(2, 3)
    with replaced_forward(layer, lambda inputs: inputs + 1):
        assert layer(torch.zeros(2)).tolist() == [1, 1]
    assert layer(torch.zeros(2)).shape == (3,)


def test_our_attention_gets_what_a_call_brings():
    model = tiny_model()
    use_our_attention(model)
    assert model.config._attn_implementation == ATTENTION_NAME
    assert AttentionInterface()[ATTENTION_NAME] is transformers_internals._attention
    assert AttentionMaskInterface()[ATTENTION_NAME] is sdpa_mask
    calls = []

    def attention(module, query, key, value, dropout, scaling, **settings):
        calls.append((module.layer_idx, dropout, scaling, ATTENTION_NAME in settings))
        return query.transpose(1, 2)

    token_ids = torch.randint(0, VOCABULARY, (1, 5))
    model(
        input_ids=token_ids,
        attention_mask=no_mask(token_ids),
        use_cache=False,
        **{ATTENTION_NAME: attention},
    )
    assert calls == [(0, 0.0, 8**-0.5, False), (1, 0.0, 8**-0.5, False)]


def test_a_mask_of_four_dimensions_is_handed_down_as_it_is():
    model = tiny_model()
    masks = []
    attention = model.model.layers[0].self_attn
    attention.register_forward_pre_hook(
        lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    token_ids = torch.randint(0, VOCABULARY, (1, 5))
    mask = no_mask(token_ids)
    use_our_attention(model)
    model(
        input_ids=token_ids,
        attention_mask=mask,
        use_cache=False,
        **{ATTENTION_NAME: lambda _, query, *others, **settings: query.transpose(1, 2)},
    )
    assert masks[0] is mask
