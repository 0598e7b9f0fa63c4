"""Trained language models in folders: adapters or all weights, and their tokenizers.

A model folder holds the weights (an adapter or all of them, safetensors), the tokenizer, and a
manifest whose `extra` says kind, base model and prompt settings. Weights are never unpickled.
"""

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dynamicpo.core.errors import DataError, DynamicPOError
from dynamicpo.core.messages import reason_of
from dynamicpo.core.records.manifest import Manifest, read_input
from dynamicpo.core.records.shapes import as_shape
from dynamicpo.models.backbones import NOTHING_PERMITTED, BaseModelSpec, Permissions
from dynamicpo.models.base_models import load_base_model
from dynamicpo.models.execution import device, execution_context
from dynamicpo.models.lora import LanguageModel, has_adapter, load_adapter, sort_adapter_config
from dynamicpo.models.tokenizers import check_tokens, load_checked_tokenizer
from dynamicpo.models.weights import WeightSource, explain_remote_code, load_causal_lm
from dynamicpo.prompts.encoding import PromptSettings
from dynamicpo.prompts.template import check_template
from dynamicpo.scoring.transformers_internals import forget_local_files_only


class ModelEntries(TypedDict):
    """Entries of a model folder's manifest, from which the model is made again.

    Attributes:
        kind: What the folder holds: an adapter, or all weights.
        base: The untrained model.
        prompts: Prompt settings.
    """

    kind: Literal["adapter", "full"]
    base: BaseModelSpec
    prompts: PromptSettings


@dataclass
class PromptedModel:
    """A model with what is needed to use it."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    settings: PromptSettings
    base: BaseModelSpec

    def execution_context(self) -> AbstractContextManager[None]:
        """The context in which the model is to be run."""
        return execution_context(self.base)


@dataclass
class LoadedModel(PromptedModel):
    """A model from its folder, which has a manifest."""

    manifest: Manifest


def save_model(folder: Path, model: LanguageModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the weights (an adapter's, or all) as safetensors, and the tokenizer."""
    # Its bar of written weights would break into our lines of progress.
    transformers.utils.logging.disable_progress_bar()
    # PEFT would ask the hub for the base's vocabulary, and save embeddings along by the answer.
    of_adapter = {"save_embedding_layers": False} if has_adapter(model) else {}
    model.save_pretrained(str(folder), safe_serialization=True, **of_adapter)
    forget_local_files_only(tokenizer)
    tokenizer.save_pretrained(str(folder))
    # PEFT writes a model card with blanks to fill in.
    card = folder / "README.md"
    card.unlink(missing_ok=True)
    sort_adapter_config(folder)


def manifest_entries(
    base: BaseModelSpec, model: LanguageModel, settings: PromptSettings
) -> dict[str, Any]:
    """Entries of a model folder's manifest, from which `load_model` makes the model again."""
    return {
        "kind": "adapter" if has_adapter(model) else "full",
        # A list, as JSON would give the tuple back.
        "base": {**asdict(base), "items": list(base.items)},
        "prompts": asdict(settings),
    }


def load_model(
    folder: Path, permissions: Permissions = NOTHING_PERMITTED, *, trainable: bool = False
) -> LoadedModel:
    """A fine-tuned model from its folder.

    Args:
        folder: Output of SFT or preference training.
        permissions: What this command allows; its manifest is someone else's word.
        trainable: Whether its weights (an adapter's, or all) shall be trained further.

    Raises:
        ConfigError: That would need what isn't permitted.
        DataError: The folder is not a finished model, or doesn't hold what its manifest says.
    """
    description = _read_description(folder)
    try:
        if description.kind == "adapter":
            base_model, tokenizer = load_base_model(description.base, permissions)
            model = load_adapter(base_model, folder, trainable=trainable)
        else:
            model, tokenizer = _load_all_weights(folder, permissions)
    except (DynamicPOError, MemoryError, torch.OutOfMemoryError):
        raise
    # Damaged files give almost any: tokenizers has a bare Exception, transformers its own.
    except Exception as error:
        raise DataError(
            f"{folder}: must hold the {description.kind} weights its manifest names, with their "
            f"configuration and tokenizer: {reason_of(error)}. Train again."
        ) from error
    model = model.to(device()).train(trainable)
    return _with_description(model, tokenizer, description)


def load_base_of(folder: Path, permissions: Permissions = NOTHING_PERMITTED) -> LoadedModel:
    """The untrained base of a fine-tuned model, prompted as that model is."""
    description = _read_description(folder)
    model, tokenizer = load_base_model(description.base, permissions)
    return _with_description(model.eval(), tokenizer, description)


def _load_all_weights(
    folder: Path, permissions: Permissions
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    # transformers would fetch the base that this file names.
    if (folder / "adapter_config.json").exists():
        raise DataError(
            f"{folder}: must hold all weights, as its manifest says, but is an adapter. "
            "Train again."
        )
    source: WeightSource = {
        "pretrained_model_name_or_path": str(folder),
        "trust_remote_code": permissions.trust_remote_code,
    }
    try:
        tokenizer = load_checked_tokenizer(source)
        model = load_causal_lm({**source, "dtype": torch.float32}, is_ours=True)
        check_tokens(str(folder), model, tokenizer)
    except ValueError as error:
        raise explain_remote_code(str(folder), error) from error
    return model, tokenizer


class _Description(NamedTuple):
    """The content of a model folder's manifest.

    Attributes:
        manifest: The manifest itself.
        kind: "adapter" or "full".
        base: The untrained model.
        settings: Prompt settings.
    """

    manifest: Manifest
    kind: str
    base: BaseModelSpec
    settings: PromptSettings


def _read_description(folder: Path) -> _Description:
    manifest = read_input(folder)
    if "kind" not in manifest.extra:
        raise DataError(
            f"{folder}: must be the output of sft or train-preferences, not of {manifest.stage}."
        )
    path = folder / "manifest.json"
    # Older manifests say whether the model's code was trusted: that is for each command to say.
    entries = as_shape(path, manifest.extra, ModelEntries)
    settings = entries["prompts"]
    check_template(str(path), settings.template, list_candidates=settings.list_candidates)
    return _Description(
        manifest,
        kind=entries["kind"],
        base=entries["base"],
        settings=settings,
    )


def _with_description(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, description: _Description
) -> LoadedModel:
    return LoadedModel(
        model,
        tokenizer,
        description.settings,
        description.base,
        description.manifest,
    )
