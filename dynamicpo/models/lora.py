"""LoRA adapters: all that depends on PEFT."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model, get_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.messages import reason_of
from dynamicpo.core.records.manifest import write_json
from dynamicpo.models.weights import check_format, check_keys

ALL_LINEAR = "all-linear"
_READ_LAYERS = ("out_proj", "dt_proj")
# A causal LM with or without an adapter.
LanguageModel: TypeAlias = PreTrainedModel | PeftModel


def add_adapter(
    model: PreTrainedModel,
    rank: int,
    alpha: int,
    dropout: float,
    item_token_ids: Sequence[int] = (),
    modules: str = ALL_LINEAR,
    seed: int = 0,
) -> PeftModel:
    """Wrap a model with a fresh LoRA adapter on linear layers that can have one.

    Args:
        model: A causal LM.
        rank: Rank of the adapter.
        alpha: Its scale.
        dropout: Its dropout.
        item_token_ids: Tokens of items. Their embeddings, and their rows of the head, are trained
            themselves, not by an adapter.
        modules: "all-linear", or names of layers or their ends, separated by commas.
        seed: Seed of its weights.

    Raises:
        ConfigError: The model has no layer that it can be added to, or none of a name, or the rank
            is no low one.
    """
    _check_rank(model, rank)
    excluded = _without_adapter(model)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_target_modules(model, modules, excluded),
        # An empty list, unlike None, would change the adapter's file.
        exclude_modules=excluded or None,
        trainable_token_indices=_trainable_rows(model, item_token_ids),
    )
    torch.manual_seed(seed)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(
            f"tuning: lora needs linear layers, which the backbone must have ({reason_of(error)}). "
            "Choose another backbone, or tuning 'full'."
        ) from error


def _check_rank(model: PreTrainedModel, rank: int) -> None:
    # Above the rank of every matrix an adapter only takes memory: an extra 0 may be all there is.
    shapes = [tuple(matrix.shape) for matrix in model.parameters() if matrix.dim() == 2]
    highest = max(map(min, shapes), default=rank)
    if rank > highest:
        raise ConfigError(
            f"lora_rank: must be <= {highest}, the rank of the backbone's largest matrix, "
            f"got {rank}. Lower it."
        )


def _target_modules(
    model: PreTrainedModel, modules: str, excluded: Sequence[str]
) -> str | list[str]:
    """Modules as PEFT takes them, of which each name is that of a linear layer."""
    if modules == ALL_LINEAR:
        return modules
    wanted = [name.strip() for name in modules.split(",")]
    # Embeddings and the head are no target of "all-linear" either.
    head = model.get_output_embeddings()
    linear = {
        name
        for name, module in model.named_modules()
        if _is_linear(module) and module is not head and name not in excluded
    }
    for name in wanted:
        if not any(layer == name or layer.endswith(f".{name}") for layer in linear):
            known = sorted({layer.rpartition(".")[2] for layer in linear})
            raise ConfigError(
                f"lora_modules: must name linear layers of the backbone, {name!r} is none. "
                f"Choose from {', '.join(known)}, or {ALL_LINEAR}."
            )
    return wanted


def _is_linear(module: nn.Module) -> bool:
    """Tell a linear layer; GPT-2's are of a class of transformers."""
    return isinstance(module, nn.Linear | Conv1D)


def _trainable_rows(
    model: PreTrainedModel, token_ids: Sequence[int]
) -> list[int] | dict[str, list[int]] | None:
    """Rows of the embeddings to train; of the head, too, where that is a matrix of its own."""
    # An empty list, unlike None, would wrap the embeddings.
    if not token_ids:
        return None
    rows = list(token_ids)
    embeddings = model.get_input_embeddings()
    head = model.get_output_embeddings()
    if head is None or head.weight is embeddings.weight:
        return rows
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(embeddings)]: rows, names[id(head)]: list(rows)}


def _without_adapter(model: PreTrainedModel) -> list[str]:
    """Names of linear layers that LoRA can't be added to."""
    names = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not _is_product(module):
            names.append(name)
        # State-space blocks read the weights of these layers and don't call them.
        if hasattr(module, "conv1d"):
            names += [f"{name}.{part}" for part in _READ_LAYERS if hasattr(module, part)]
    return names


@torch.no_grad()
def _is_product(layer: nn.Linear) -> bool:
    """Tell whether a layer maps vectors to vectors: routers that are linear layers return more."""
    # 4-bit layers are made to be adapted, and have to be called on their device.
    if type(layer) is nn.Linear or "transformers" not in type(layer).__module__:
        return True
    vector = torch.zeros(1, 1, layer.in_features, dtype=layer.weight.dtype)
    try:
        result = layer(vector.to(layer.weight.device))
    except (RuntimeError, TypeError, ValueError):
        return False
    return isinstance(result, torch.Tensor) and result.shape == (1, 1, layer.out_features)


def load_adapter(model: PreTrainedModel, folder: Path, *, trainable: bool) -> PeftModel:
    """Wrap a base model with an adapter from a folder.

    Raises:
        DataError: Its weights are pickled, or not all there, or others are.
    """
    check_format(folder)
    weights = folder / SAFETENSORS_WEIGHTS_NAME
    # PEFT would look for a pickle of another name.
    if not weights.is_file():
        raise DataError(f"{folder}: must hold {weights.name}, which is not there. Train again.")
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except KeyError as error:
        # PEFT looks rows of tokens up without asking whether the file has them.
        check_keys(folder, [str(error.args[0])], [], is_ours=True)
        raise
    _check_kind(adapted, folder)
    # PEFT warns of missing weights of LoRA alone, and says nothing of others.
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    with safe_open(str(weights), framework="pt") as file:
        found = set(file.keys())
    embeddings = _saved_embeddings(adapted, found)
    check_keys(
        folder,
        sorted(expected - found),
        sorted(found - expected - embeddings),
        is_ours=True,
    )
    return adapted


def _check_kind(model: PeftModel, folder: Path) -> None:
    """Refuse an adapter that does not act on each token alike: a shared prompt has one state."""
    config = model.active_peft_config
    is_activated = getattr(config, "alora_invocation_tokens", None) is not None
    if config.peft_type != PeftType.LORA or is_activated:
        kind = "activated LoRA" if is_activated else str(config.peft_type)
        raise DataError(
            f"{folder / CONFIG_NAME}: must be of LoRA that acts on all tokens, got {kind}. "
            "Train again."
        )


def _saved_embeddings(model: PeftModel, names: set[str]) -> set[str]:
    """Of the names in an adapter's file, those of embeddings and head of the base.

    PEFT saves them along where tokens were added to them: the base has the same.
    """
    inner = model.get_base_model()
    matrices = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    prefixes = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if any(module is matrix for matrix in matrices)
    )
    suffix = ".base_layer.weight"
    return {name for name in names if name.startswith(prefixes) and name.endswith(suffix)}


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
