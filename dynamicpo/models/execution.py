"""Device, precision and threads with which a model runs."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dynamicpo.core.errors import ConfigError
from dynamicpo.models.backbones import COMPACT, BaseModelSpec


def device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def release_memory() -> None:
    """Give back what models or a failed pass have left, once nothing holds on to it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def choose_precision(precision: str, backbone: str) -> str:
    """Resolve "auto": bfloat16 where it is multiplied natively, but float32 for `compact`."""
    if precision != "auto":
        return precision
    use_bfloat16 = backbone != COMPACT and _has_native_bfloat16()
    return "bfloat16" if use_bfloat16 else "float32"


def choose_base_weights(weights: str, precision: str, *, is_frozen: bool) -> str:
    """Resolve "auto": bfloat16 on a GPU for weights that only serve products in bfloat16.

    Args:
        weights: "auto", "float32" or "bfloat16".
        precision: Of matrix products, resolved.
        is_frozen: All weights of the base are left as they are: small steps get lost in bfloat16.

    Raises:
        ConfigError: bfloat16 weights that are trained, or whose products are in float32.
    """
    fits = is_frozen and precision == "bfloat16"
    if weights == "auto":
        return "bfloat16" if fits and torch.cuda.is_available() else "float32"
    if weights == "bfloat16" and not fits:
        raise ConfigError(
            "base_weights: bfloat16 needs tuning 'lora', items as titles, no quantization and "
            "precision 'bfloat16', so that no weight in it is trained. Use 'float32' or 'auto'."
        )
    return weights


def _has_native_bfloat16() -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    # torch multiplies bfloat16 on every CPU; without this instruction it is slower than float32.
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


@contextmanager
def execution_context(base: BaseModelSpec) -> Iterator[None]:
    """Run matrix products in the base model's precision, in as many threads as its size is worth.

    The compact backbone runs in one thread: its products are too small to share, two threads on a
    busy machine are many times slower, and its numbers then do not depend on the number of
    processors.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if base.backbone == COMPACT else threads)
    try:
        with torch.autocast(
            device().type,
            dtype=torch.bfloat16,
            enabled=base.precision == "bfloat16",
            # Weights in training change between steps, and torch would keep their bfloat16 copies
            # until this context ends, that is, for the whole training.
            cache_enabled=False,
        ):
            yield
    finally:
        torch.set_num_threads(threads)
