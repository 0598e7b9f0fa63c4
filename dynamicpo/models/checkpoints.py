"""Load and save trained language models: adapters or all weights, and their tokenizers.

A model folder holds the weights (an adapter or all of them, safetensors), the tokenizer, and a manifest
whose `extra` says kind, backbone, revision and prompt settings. Weights are never unpickled.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest, read_manifest, write_json
from dynamicpo.models.backbones import COMPACT, Base, device, load_base_model
from dynamicpo.prompts.encoding import PromptSettings


@dataclass
class Loaded:
    """A model with what is needed to use it."""

    model: nn.Module
    tokenizer: Any
    settings: PromptSettings
    base: Base
    manifest: Manifest

    def running(self) -> AbstractContextManager[None]:
        """The context in which the model is to be run."""
        return running(self.base)


@contextmanager
def running(base: Base) -> Iterator[None]:
    """Matrix products in the base's precision, and the threads that its size is worth.

    The compact backbone runs in one thread: its products are too small to share, two threads on a busy machine are
    many times slower, and its numbers then do not depend on the number of processors. Weights in training change
    between steps, so their bfloat16 copies are never kept: torch would keep them until this context ends.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if base.backbone == COMPACT else threads)
    try:
        with torch.autocast(
            device().type,
            dtype=torch.bfloat16,
            enabled=base.precision == "bfloat16",
            cache_enabled=False,
        ):
            yield
    finally:
        torch.set_num_threads(threads)


def add_adapter(
    model: nn.Module, rank: int, alpha: int, dropout: float, new_tokens: int = 0, seed: int = 0
) -> nn.Module:
    """Wrap a model with a fresh LoRA adapter on all linear layers.

    Args:
        model: A causal LM.
        rank: Rank of the adapter.
        alpha: Its scale.
        dropout: Its dropout.
        new_tokens: How many tokens at the end of the vocabulary were added and are trained as a whole.
        seed: Seed of its weights.
    """
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        trainable_token_indices=list(range(vocabulary - new_tokens, vocabulary))
        if new_tokens
        else None,
    )
    torch.manual_seed(seed)
    adapted: nn.Module = get_peft_model(model, config)
    return adapted


def save_model(folder: Path, model: nn.Module, tokenizer: Any) -> None:
    """Write the weights (an adapter's, or all) as safetensors, and the tokenizer."""
    model.save_pretrained(str(folder), safe_serialization=True)  # type: ignore[operator]
    tokenizer.init_kwargs.pop(
        "local_files_only", None
    )  # it says how this process was started (HF_HUB_OFFLINE)
    tokenizer.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():  # it holds sets, whose order changes from process to process
        settings = json.loads(adapter.read_text(encoding="utf-8"))
        write_json(
            adapter,
            {
                k: sorted(value) if isinstance(value, list) else value
                for k, value in settings.items()
            },
        )


def describe(base: Base, model: nn.Module, settings: PromptSettings) -> dict[str, Any]:
    """What a model folder's manifest says of the model."""
    kind = "adapter" if isinstance(model, PeftModel) else "full"
    return {
        "kind": kind,
        "base": {**asdict(base), "items": list(base.items)},
        "prompts": asdict(settings),
    }


def load_model(folder: Path, *, trainable: bool = False) -> Loaded:
    """A fine-tuned model from its folder.

    Args:
        folder: Output of SFT or preference training.
        trainable: Whether its weights (an adapter's, or all) shall be trained further.

    Raises:
        DataError: The folder is not a finished model, or doesn't hold what its manifest says.
    """
    manifest, base, settings = _facts(folder)
    kind = manifest.extra["kind"]
    try:
        if kind == "adapter":
            model, tokenizer = load_base_model(base)
            model = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
        else:
            transformers.utils.logging.disable_progress_bar()
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
            model = transformers.AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=torch.float32, attn_implementation="sdpa", use_safetensors=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{folder}: must hold the {kind} weights its manifest names: {reason}. Train again."
        ) from error
    return Loaded(model.to(device()).train(trainable), tokenizer, settings, base, manifest)


def load_base_of(folder: Path) -> Loaded:
    """The untrained base of a fine-tuned model, prompted as that model is."""
    manifest, base, settings = _facts(folder)
    model, tokenizer = load_base_model(base)
    return Loaded(model.eval(), tokenizer, settings, base, manifest)


def _facts(folder: Path) -> tuple[Manifest, Base, PromptSettings]:
    manifest = read_manifest(folder)
    if "kind" not in manifest.extra:
        raise DataError(
            f"{folder}: must be the output of sft or train-preferences, not of {manifest.stage}."
        )
    base: Mapping[str, Any] = manifest.extra["base"]
    return (
        manifest,
        Base(**{**base, "items": tuple(base["items"])}),
        PromptSettings(**manifest.extra["prompts"]),
    )
