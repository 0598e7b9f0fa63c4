"""A sweep over the architectures of transformers: scores, gradients, generation, positions.

Right is what a plain forward of one prompt with one answer gives: no padding, packing or cache.
"""

import pytest
import torch
from torch import Tensor, nn

from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.rows import Row
from dynamicpo.models.causality import check_causal
from dynamicpo.models.lora import add_adapter
from dynamicpo.scoring.generation import generate_answers
from dynamicpo.scoring.positions import position_limit
from dynamicpo.scoring.shared_prefix import answer_logps
from tests.fixtures.architectures import VOCABULARY, tiny_architecture
from tests.fixtures.scoring import defined_logps, random_rows

END = 1
MOST_TOKENS = 5
LINEAR_AND_FULL = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
# Recurrent ones have an attention layer, too, without which their cache has no length.
CHANGES = {
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "phimoe": {"router_jitter_noise": 0.1},
    "olmo": {"clip_qkv": 0.5},
    "deepseek_v3": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.95, 0.0],
        "intermediate_size": [48, 48],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 64},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1, "chunk_size": 8},
    "nemotron_h": {
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "chunk_size": 8,
    },
    "qwen3_next": LINEAR_AND_FULL,
    "qwen3_5_text": LINEAR_AND_FULL,
    "recurrent_gemma": {
        "block_types": ["recurrent", "attention"],
        "lru_width": 32,
        "attention_window_size": 64,
    },
}
# They look positions up in a table of 64 rows.
WITH_TABLES = (
    "bart",
    "biogpt",
    "codegen",
    "ctrl",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "gptj",
    "mbart",
    "mpt",
    "openai-gpt",
    "opt",
    "pegasus",
    "trocr",
)
OTHERS = (
    "apertus",
    "arcee",
    "bamba",
    "bitnet",
    "bloom",
    "cohere",
    "cohere2",
    "deepseek_v3",
    "diffllama",
    "doge",
    "dots1",
    "ernie4_5",
    "exaone4",
    "falcon",
    "falcon_h1",
    "falcon_mamba",
    "flex_olmo",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma3n_text",
    "glm",
    "glm4",
    "glm4_moe",
    "gpt_neox",
    "gpt_oss",
    "granite",
    "granitemoe",
    "granitemoehybrid",
    "helium",
    "hunyuan_v1_dense",
    "jamba",
    "jetmoe",
    "lfm2",
    "lfm2_moe",
    "llama",
    "llama4_text",
    "mamba",
    "mamba2",
    "minimax_m2",
    "ministral",
    "mistral",
    "mixtral",
    "modernbert-decoder",
    "nanochat",
    "nemotron",
    "nemotron_h",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "persimmon",
    "phi",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_5_text",
    "qwen3_moe",
    "qwen3_next",
    "recurrent_gemma",
    "rwkv",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
    "vaultgemma",
    "xglm",
)
ENCODERS = (
    "bert",
    "big_bird",
    "camembert",
    "electra",
    "megatron-bert",
    "roberta",
    "roformer",
    "xlm",
    "xlm-roberta",
    "xlnet",
)


def architecture(name: str) -> nn.Module:
    return tiny_architecture(name, **CHANGES.get(name, {}))


def greedy(model: nn.Module, prompt: list[int]) -> list[int]:
    """The most likely token, again and again, each time from the whole text."""
    tokens: list[int] = []
    while len(tokens) < MOST_TOKENS and END not in tokens:
        text = torch.tensor([[*prompt, *tokens]])
        tokens.append(int(model(input_ids=text, use_cache=False).logits[0, -1].argmax()))
    return tokens


def gradients(logps: Tensor, model: nn.Module) -> list[Tensor | None]:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    factors = torch.linspace(-1, 1, logps.numel()).view(logps.shape)
    return list(torch.autograd.grad((logps * factors).sum(), weights, allow_unused=True))


@pytest.mark.parametrize("name", [*WITH_TABLES, *OTHERS])
def test_scores_and_generation_are_those_of_plain_forwards(name: str) -> None:
    model = architecture(name)
    check_causal(model, name)
    rows = random_rows(3, 3)
    with torch.no_grad():
        torch.testing.assert_close(
            answer_logps(model, rows), defined_logps(model, rows), rtol=1e-4, atol=1e-4
        )
        expected = [greedy(model, row.prompt_ids) for row in rows]
    generated = generate_answers(model, [END], rows, max_new_tokens=MOST_TOKENS)
    assert [tokens[:MOST_TOKENS] for tokens in generated] == expected


@pytest.mark.parametrize("name", [*WITH_TABLES, *OTHERS])
def test_gradients_of_an_adapter_are_those_of_plain_forwards(name: str) -> None:
    model = add_adapter(architecture(name), rank=2, alpha=4, dropout=0.0).eval()
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if "lora_B" in weight_name:
                weight.normal_(0, 0.05)
    rows = random_rows(2, 3)
    expected = gradients(defined_logps(model, rows), model)
    actual = gradients(answer_logps(model, rows), model)
    largest = max(float(values.abs().max()) for values in expected if values is not None)
    for one, other in zip(actual, expected, strict=True):
        if one is None or other is None:
            assert one is other
        else:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * largest)


@pytest.mark.parametrize("name", WITH_TABLES)
def test_more_tokens_than_rows_of_a_table_are_refused(name: str) -> None:
    model = architecture(name)
    limit = position_limit(model)
    assert limit is not None and limit.number == 64
    fits = Row([2] * 60, [[3, 4, 5, 6, 7]])
    with torch.no_grad():
        assert answer_logps(model, [fits]).isfinite().all()
    # Of the 20 tokens that it may have, as many as there are positions for.
    assert len(generate_answers(model, [96], [fits], max_new_tokens=20)[0]) <= 5
    too_long = Row([2] * 61, [[3, 4, 5, 6, 7]])
    for run in (
        lambda: answer_logps(model, [too_long]),
        lambda: generate_answers(model, [96], [too_long]),
    ):
        with pytest.raises(DataError, match="fit into the 64 positions of the model.*, got 65"):
            run()


@pytest.mark.parametrize("name", OTHERS)
def test_models_that_compute_their_positions_have_no_end_of_them(name: str) -> None:
    assert position_limit(architecture(name)) is None


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"must be a causal LM, but {name} sees the tokens"):
        check_causal(architecture(name), name)
