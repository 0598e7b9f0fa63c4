"""A warm start: SFT goes on from a trained model, with rows for items that it has never seen."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.config import SFTConfig
from dynamicpo.core.errors import ConfigError
from dynamicpo.models.backbones import Permissions
from dynamicpo.models.base_models import item_token_ids
from dynamicpo.models.checkpoints import LoadedModel, load_model
from dynamicpo.models.lora import has_adapter
from dynamicpo.prompts.encoding import PromptSettings, item_token


def load_start(
    folder: Path, config: SFTConfig, settings: PromptSettings, items: Sequence[str]
) -> LoadedModel:
    """A trained model, to be trained further.

    Args:
        folder: The model, output of SFT or preference training.
        config: The settings of the training that goes on from it.
        settings: The training's prompt settings.
        items: Items that need a token of their own; those without one get it.

    Raises:
        ConfigError: The training's settings make another model than this one.
        DataError: The folder holds no usable model.
    """
    # The backbone is named by this command too, which is checked below.
    permissions = Permissions(config.trust_remote_code, fetch_base=config.backbone != "compact")
    start = load_model(folder, permissions, trainable=True)
    _check_settings(folder, start, config, settings)
    known = set(start.base.items)
    new_items = [item for item in items if item not in known]
    return _with_items(folder, start, new_items, config.seed) if new_items else start


def _check_settings(
    folder: Path, start: LoadedModel, config: SFTConfig, settings: PromptSettings
) -> None:
    found: dict[str, object] = {"backbone": start.base.backbone, "prompts": start.settings}
    wanted: dict[str, object] = {"backbone": config.backbone, "prompts": settings}
    if config.tuning != "auto":
        found["tuning"] = "lora" if has_adapter(start.model) else "full"
        wanted["tuning"] = config.tuning
    if isinstance(start.model, PeftModel):
        found["lora_rank"] = start.model.active_peft_config.r
        wanted["lora_rank"] = config.lora_rank
    differences = []
    for name, value in wanted.items():
        if value != found[name]:
            differences.append(f"{name} ({found[name]}, asked for {value})")
    if differences:
        details = ", ".join(differences)
        raise ConfigError(
            f"start_from: {folder} must be a model of these settings, but it differs in {details}. "
            "Give its settings, or start from the backbone."
        )


def _with_items(
    folder: Path, start: LoadedModel, new_items: Sequence[str], seed: int
) -> LoadedModel:
    """The same model with a token, and rows of the embeddings, for each new item."""
    if has_adapter(start.model):
        raise ConfigError(
            f"start_from: {folder} must have a token for each item, but lacks "
            f"{len(new_items)}, such as {new_items[0]!r}, and an adapter takes no more. "
            "Start from the backbone."
        )
    # The old items keep their rows: theirs are what was learnt.
    items = (*start.base.items, *new_items)
    base = replace(start.base, items=items)
    tokens = [item_token(item) for item in new_items]
    start.tokenizer.add_tokens(tokens)
    all_ids = item_token_ids(start.tokenizer, base)
    new_ids = all_ids[-len(new_items) :]
    model = start.model
    assert isinstance(model, PreTrainedModel)
    embeddings = model.get_input_embeddings()
    # Many models have more rows than their tokenizer has tokens.
    num_rows = max(max(new_ids) + 1, embeddings.weight.shape[0])
    model.resize_token_embeddings(num_rows, mean_resizing=False)
    _draw_rows(model, new_ids, new_items, seed)
    return replace(start, base=base)


@torch.no_grad()
def _draw_rows(
    model: PreTrainedModel, token_ids: Sequence[int], names: Sequence[str], seed: int
) -> None:
    """Draw rows by the names of their items alone, as wide as a fresh model draws its own."""
    spread = float(model.config.initializer_range)
    indices = list(token_ids)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        weights = layer.weight
        width = weights.shape[1]
        rows = spread * _normal(names, width, seed)
        drawn = torch.from_numpy(rows)
        weights[indices] = drawn.to(weights)


def _normal(names: Sequence[str], width: int, seed: int) -> FloatArray:
    """Standard normal numbers for each name (Box and Muller's method). Shape (N, width)."""
    keys = random_keys.keys(seed, "embeddings of new items", names)
    draws = np.arange(2 * width, dtype=np.uint64)
    numbers = random_keys.uniform(keys[:, None], draws)
    # 1 minus them, as the logarithm of 0 is none.
    distances = 1 - numbers[:, :width]
    radii = np.sqrt(-2 * np.log(distances))
    angles = 2 * np.pi * numbers[:, width:]
    return np.asarray(radii * np.cos(angles))
