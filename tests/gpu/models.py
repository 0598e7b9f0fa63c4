"""Models of known shapes with random weights, on the card, and rows of LastFM-like lengths."""

from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from dynamicpo.scoring import Row

# Hidden size, layers and heads as published; "tiny" is for machines without a card.
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "llama-2-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 512,
        "tie_word_embeddings": True,
    },
}

# Of LastFM rows with their 20 candidates in the prompt, tokenised for SmolLM2: means and spreads.
PROMPT_TOKENS = (178, 25)
ANSWER_TOKENS = (4.7, 1.8)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def lora_model(shape: str, weights: torch.dtype) -> nn.Module:
    """A Llama of a shape: frozen random weights, LoRA on all linear layers (r 8, alpha 32)."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPES[shape], attn_implementation="sdpa")
    with torch.device(device()):
        previous = torch.get_default_dtype()
        torch.set_default_dtype(weights)
        try:
            model = transformers.LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(previous)
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, target_modules="all-linear")
    # peft keeps the adapter in float32, whatever the base weights are.
    return get_peft_model(model, lora).train()


def lastfm_like_rows(number: int, num_negatives: int, vocabulary: int, seed: int = 0) -> list[Row]:
    """Rows whose prompts and answers are as long as LastFM's; the tokens themselves are random."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        prompt_size = int(max(32, draw.normal(*PROMPT_TOKENS)))
        sizes = np.maximum(2, draw.normal(*ANSWER_TOKENS, size=num_negatives + 1)).round()
        prompt = draw.integers(3, vocabulary, prompt_size).tolist()
        answers = [draw.integers(3, vocabulary, int(size)).tolist() for size in sizes]
        rows.append(Row(prompt, answers))
    return rows
