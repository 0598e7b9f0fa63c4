"""LoRA adapters: all that depends on PEFT."""

import json
from pathlib import Path
from typing import TypeAlias

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from dynamicpo.core.records.manifest import write_json

# A causal LM with or without an adapter.
LanguageModel: TypeAlias = PreTrainedModel | PeftModel


def add_adapter(
    model: PreTrainedModel,
    rank: int,
    alpha: int,
    dropout: float,
    new_tokens: int = 0,
    seed: int = 0,
) -> PeftModel:
    """Wrap a model with a fresh LoRA adapter on all linear layers.

    Args:
        model: A causal LM.
        rank: Rank of the adapter.
        alpha: Its scale.
        dropout: Its dropout.
        new_tokens: Number of tokens at the end of the vocabulary that were added. Their embeddings
            are trained themselves, not by an adapter.
        seed: Seed of its weights.
    """
    vocabulary_size = model.get_input_embeddings().num_embeddings
    new_token_ids = range(vocabulary_size - new_tokens, vocabulary_size)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        # An empty list, unlike None, would wrap the embeddings.
        trainable_token_indices=list(new_token_ids) or None,
    )
    torch.manual_seed(seed)
    return get_peft_model(model, config)


def load_adapter(model: PreTrainedModel, folder: Path, *, trainable: bool) -> PeftModel:
    """Wrap a base model with an adapter from a folder."""
    return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


def has_adapter(model: LanguageModel) -> bool:
    """True for a model that is wrapped with an adapter."""
    return isinstance(model, PeftModel)


def sort_adapter_config(folder: Path) -> None:
    """Sort the lists in an adapter's configuration, so that the same training gives the same bytes.

    PEFT writes sets of module names, whose order changes from process to process.
    """
    path = folder / "adapter_config.json"
    if not path.is_file():
        return
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if isinstance(value, list):
            settings[name] = sorted(value)
    write_json(path, settings)
