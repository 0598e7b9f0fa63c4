"""Weights of causal LMs: all of them, no others, from safetensors only, without code."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, TypedDict

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import BitsAndBytesConfig, PreTrainedModel

from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.messages import reason_of

log = logging.getLogger(__name__)

_SAFETENSORS = "*.safetensors"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SIZES = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")
_NAMES_SHOWN = 5
# A part of transformers' message where a model has attention code of its own only.
_NO_SDPA = "scaled_dot_product_attention"


# The name of a weight, its shape in the file, and its shape in the model.
MismatchedKey: TypeAlias = tuple[str, tuple[int, ...], tuple[int, ...]]


class LoadReport(TypedDict):
    """The part of transformers' report on a loaded model that we look at."""

    missing_keys: list[str]
    unexpected_keys: list[str]
    mismatched_keys: list[MismatchedKey]


class WeightSource(TypedDict, total=False):
    """Arguments of `from_pretrained` that say where weights are, and how they are held."""

    pretrained_model_name_or_path: str
    gguf_file: str
    revision: str
    trust_remote_code: bool
    local_files_only: bool
    dtype: torch.dtype
    quantization_config: BitsAndBytesConfig


def load_causal_lm(source: WeightSource, *, is_ours: bool) -> PreTrainedModel:
    """A causal LM with the weights that its files hold.

    Args:
        source: Where they are.
        is_ours: Written by us: weights without a place in the model are an error, not a warning.

    Raises:
        DataError: Weights are missing or have another shape, their file is damaged, or they are
            only there as a pickle.
        OSError, ValueError: transformers can't load it.
    """
    where = source["pretrained_model_name_or_path"]
    folder = Path(where)
    if folder.is_dir() and "gguf_file" not in source:
        check_format(folder)
    # Its bar of loaded weights would break into our lines of progress.
    transformers.utils.logging.disable_progress_bar()
    try:
        model, report = _load(source, "sdpa")
    except (ValueError, ImportError) as error:
        if _NO_SDPA not in str(error):
            raise
        # The model's own attention computes what SDPA can't, such as capped scores.
        model, report = _load(source, "eager")
    _check_shapes(where, report["mismatched_keys"])
    check_keys(where, report["missing_keys"], report["unexpected_keys"], is_ours=is_ours)
    return model


def _load(source: WeightSource, attention: str) -> tuple[PreTrainedModel, LoadReport]:
    loaded: tuple[PreTrainedModel, LoadReport]
    with _without_its_report():
        try:
            _check_sizes(source)
            loaded = transformers.AutoModelForCausalLM.from_pretrained(
                **source,
                attn_implementation=attention,
                # Else transformers would unpickle a `pytorch_model.bin`, which can run any code.
                use_safetensors=True,
                output_loading_info=True,
                # They are in its report, by name, and refused by us.
                ignore_mismatched_sizes=True,
            )
        except torch.OutOfMemoryError:
            raise
        except (SafetensorError, RuntimeError) as error:
            # Such as a file that was cut off, or experts that can't be put together.
            raise DataError(
                f"{source['pretrained_model_name_or_path']}: must hold whole weights that fit the "
                f"model, but transformers can't read them ({reason_of(error)}). "
                "Get the whole model."
            ) from error
    return loaded


def _check_sizes(source: WeightSource) -> None:
    """Refuse a configuration of a far larger model than the weights are of, before it is made."""
    folder = Path(source["pretrained_model_name_or_path"])
    files = sorted(folder.glob(_SAFETENSORS))
    if not files or "gguf_file" in source:
        return
    config = transformers.AutoConfig.from_pretrained(
        str(folder), trust_remote_code=source.get("trust_remote_code", False)
    ).get_text_config()
    hidden, layers, *widths = (getattr(config, name, None) or 1 for name in _SIZES)
    sizes = [size for file in files for size in _tensor_sizes(file)]
    # The largest matrix alone. Weights of 4 bits are stored as an eighth of their number.
    needed = hidden * max(hidden, *widths)
    if layers > len(sizes) or needed > 8 * sum(sizes):
        raise DataError(
            f"{folder}: must hold weights of the shapes that its config.json says, but those are "
            f"of a far larger model (hidden_size {hidden}, num_hidden_layers {layers}). "
            "Get the config.json that belongs to them."
        )


def _tensor_sizes(file: Path) -> list[int]:
    with safe_open(str(file), framework="pt") as tensors:
        return [math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys()]


@contextmanager
def _without_its_report() -> Iterator[None]:
    """Keep transformers from logging its own table of missing and unexpected weights."""
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_shapes(where: str, mismatched: list[MismatchedKey]) -> None:
    if not mismatched:
        return
    name, found, needed = min(mismatched)
    raise DataError(
        f"{where}: must hold weights of the shapes that its config.json says, but "
        f"{len(mismatched)} have others ({name}: {tuple(found)}, must be {tuple(needed)}). "
        "Get the config.json that belongs to them."
    )


def check_keys(
    where: str | Path, missing: list[str], unexpected: list[str], *, is_ours: bool
) -> None:
    """Refuse weights that don't fill a model, which would be drawn at random in silence.

    Args:
        where: The folder, for messages.
        missing: Names of weights that the files lack, but for those that others are tied to.
        unexpected: Names of weights that the model has no place for.
        is_ours: These are an error, too. Other people's files often hold a tower of images.

    Raises:
        DataError: The weights are incomplete.
    """
    if missing:
        raise DataError(
            f"{where}: must hold all weights of the model, but {len(missing)} are missing "
            f"({_names(missing)}). Get the whole model."
        )
    if unexpected and is_ours:
        raise DataError(
            f"{where}: must hold the weights of this model alone, but {len(unexpected)} are of "
            f"another ({_names(unexpected)}). Train again."
        )
    if unexpected:
        log.warning(
            "%s: %d weights have no place in the model and are left out (%s)",
            where,
            len(unexpected),
            _names(unexpected),
        )


def _names(keys: list[str]) -> str:
    shown = sorted(keys)[:_NAMES_SHOWN]
    return ", ".join(shown) + (", ..." if len(keys) > _NAMES_SHOWN else "")


def check_format(folder: Path) -> None:
    """Refuse a folder whose weights are pickled: reading them could run any code.

    Raises:
        DataError: No safetensors are there, but pickles are.
    """
    if any(folder.glob(_SAFETENSORS)):
        return
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise DataError(
            f"{folder}: must hold safetensors, but its weights are pickled ({pickled[0]}), which "
            "is never read. Convert them where you trust the file: load the model there with "
            "from_pretrained, and save it with save_pretrained."
        )


def explain_remote_code(name: str, error: Exception) -> Exception:
    """The error of a model that can't be loaded; where that is for its code, ours says so."""
    if "trust_remote_code" not in str(error):
        return error
    return ConfigError(
        f"{name}: comes with code of its own, which runs only if this command is given "
        "trust_remote_code. Give it if you trust the author, or use another model."
    )
