"""Parts of transformers that its documentation doesn't promise, in one place, each with our reason.

`tests/dynamicpo/scoring/test_transformers_internals.py` fails when transformers changes one of
them; a patch that doesn't apply at run time is logged once, and the model's own code runs.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, Protocol, TypeGuard, cast

from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)
from transformers.activations import SiLUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer

log = logging.getLogger(__name__)

# The name of our attention, and of the argument that brings a packed sequence's attention to it.
ATTENTION_NAME = "shared_prefix"
# Attention of the models that ours can stand in for: others keep state that we don't know.
REPLACEABLE_ATTENTION = (ATTENTION_NAME, "sdpa", "eager", "flex_attention")
# Modules by model type. Their norms, gated units and rotary positions are computed alike; those of
# other architectures differ (Gemma's norm adds 1 to its weight, GPT-2 has neither).
PATCHED_MODULES = {
    model_type: f"transformers.models.{model_type}.modeling_{model_type}"
    for model_type in ("llama", "mistral", "qwen2", "qwen3")
}
_PATCHED_MODULE_NAMES = frozenset(PATCHED_MODULES.values())
ROTARY_FUNCTION = "apply_rotary_pos_emb"


class HeadsAttention(Protocol):
    """Attention of a packed sequence, as a model's layers call it."""

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        /,
        dropout: float = 0.0,
        scaling: float | None = None,
        **settings: object,
    ) -> Tensor:
        """Outputs (1, T, H, D), of query (1, H, T, D) and key, value (1, H / G, T, D)."""


class RMSNormLayer(nn.Module):
    """The attributes of a norm of a patched module, whose class is another in each of them."""

    weight: Tensor
    variance_epsilon: float


class SwiGLULayer(nn.Module):
    """The attributes of a gated unit of a patched module."""

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear
    act_fn: nn.Module


class RotaryFunction(Protocol):
    """The function of transformers that turns queries and keys by their positions."""

    def __call__(
        self, query: Tensor, key: Tensor, cosines: Tensor, sines: Tensor, /, unsqueeze_dim: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Turned queries and keys."""


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """Unwrap the transformers model: out of DDP's or FSDP's `module`, then out of PEFT's model."""
    inner: Any = getattr(model, "module", model)
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    return cast(PreTrainedModel, inner)


def attention_name(config: PreTrainedConfig) -> str:
    """Name of the attention with which a model computes; there is no public way to ask for it."""
    return str(config._attn_implementation)


def use_our_attention(model: PreTrainedModel) -> None:
    """Put our attention into a model, where it stays: without a packed sequence it is SDPA.

    It isn't taken out again after a call, as gradient checkpointing runs layers a second time in
    the backward pass, and as `set_attn_implementation` walks through the whole model.
    """
    _register_attention()
    if attention_name(model.config) != ATTENTION_NAME:
        model.set_attn_implementation(ATTENTION_NAME)


@lru_cache(maxsize=1)
def _register_attention() -> None:
    AttentionInterface.register(ATTENTION_NAME, _attention)
    # Without an entry of its own, transformers would build the masks of eager attention.
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **settings: object,
) -> tuple[Tensor, Tensor | None]:
    """Attention of a packed sequence where the call brings one, else SDPA as ever."""
    # Models hand the keyword arguments of their call down to their attention.
    packed_attention = cast(HeadsAttention | None, settings.pop(ATTENTION_NAME, None))
    if packed_attention is not None:
        outputs = packed_attention(module, query, key, value, dropout, scaling, **settings)
        return outputs, None
    result: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout, scaling, **settings
    )
    return result


def no_mask(token_ids: Tensor) -> Tensor:
    """A mask that is never read: given any four dimensions, a model makes none of its own."""
    return token_ids.new_zeros(1, 1, 1, 1)


def is_patched_class(module: nn.Module) -> bool:
    """Tell whether the class is one of those whose code we know."""
    return type(module).__module__ in _PATCHED_MODULE_NAMES


def is_rms_norm(layer: nn.Module) -> TypeGuard[RMSNormLayer]:
    """Tell whether it is a norm of a patched module: x / sqrt(mean(x ** 2) + epsilon) * weight."""
    return _is_patched(layer, "RMSNorm") and _has_attributes_of(layer, RMSNormLayer)


def is_swiglu(layer: nn.Module) -> TypeGuard[SwiGLULayer]:
    """Tell whether it is a gated unit of a patched module whose activation is SiLU."""
    if not _is_patched(layer, "MLP"):
        return False
    if not _has_attributes_of(layer, SwiGLULayer):
        return False
    return isinstance(layer.act_fn, nn.SiLU | SiLUActivation)


def _is_patched(layer: nn.Module, class_suffix: str) -> bool:
    # The classes are told by their names' ends, as each module has its own: LlamaMLP, Qwen3MLP.
    class_name = type(layer).__name__
    return is_patched_class(layer) and class_name.endswith(class_suffix)


def _has_attributes_of(layer: nn.Module, described: type[nn.Module]) -> bool:
    for name in described.__annotations__:
        if not hasattr(layer, name):
            class_name = type(layer).__name__
            _log_unpatched(class_name, f"it has no {name}")
            return False
    return True


@lru_cache(maxsize=32)
def _log_unpatched(name: str, reason: str) -> None:
    """Log once for each thing that we couldn't patch, and reason."""
    log.warning("%s: not computed by our fused kernel, as %s", name, reason)


@contextmanager
def replaced_forward(layer: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Give one layer another `forward`, without touching its class or wrapping it.

    A wrapper would change the names of the weights, and peft looks for its layers by class.
    """
    attributes = vars(layer)  # nn.Module's own setter looks through parameters and buffers first
    attributes["forward"] = forward
    try:
        yield
    finally:
        del attributes["forward"]


@contextmanager
def replaced_rotary(model: nn.Module, function: RotaryFunction) -> Iterator[None]:
    """Turn queries and keys of a model of a patched module by another function.

    It is a plain function of the module, called by name: there is no layer to give a `forward`.
    """
    module = sys.modules[type(model).__module__]
    original = _rotary_function(model)
    # In a context within another one it is replaced already; the outer one puts it back.
    if original is None or original is function:
        yield
        return
    setattr(module, ROTARY_FUNCTION, function)
    try:
        yield
    finally:
        setattr(module, ROTARY_FUNCTION, original)


def _rotary_function(model: nn.Module) -> RotaryFunction | None:
    """Look up the function that a model's layers call; None where we don't know it."""
    name = type(model).__name__
    if not is_patched_class(model):
        config = getattr(model, "config", None)
        model_type = getattr(config, "model_type", None)
        if model_type in PATCHED_MODULES:
            _log_unpatched(name, f"its class is not from {PATCHED_MODULES[model_type]}")
        return None
    module = sys.modules[type(model).__module__]
    function: RotaryFunction | None = getattr(module, ROTARY_FUNCTION, None)
    if function is None:
        _log_unpatched(name, f"{module.__name__} has no {ROTARY_FUNCTION}")
    return function


def forget_gguf_format(model: PreTrainedModel) -> None:
    """Make a model that was read from a GGUF file an ordinary model of float32 weights.

    transformers dequantises such a file when it reads it, yet goes on to treat the model as a
    quantised one, which it refuses to save or to quantise.
    """
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False


def forget_local_files_only(tokenizer: PreTrainedTokenizerBase) -> None:
    """Remove from a tokenizer's settings that it was loaded offline.

    transformers saves the arguments with which a tokenizer was loaded, this one included. It says
    whether HF_HUB_OFFLINE was set, so that the same training would give other bytes.
    """
    tokenizer.init_kwargs.pop("local_files_only", None)


def use_one_gpu(arguments: TrainingArguments) -> None:
    """Have a trainer leave a machine's other GPUs alone.

    With several it would multiply the batch by their number and copy the model to each of them.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1


def expect_process_group() -> None:
    """Have transformers not warn of processes whose gradients are added up without it."""
    logging.getLogger("transformers.training_args").setLevel(logging.ERROR)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that a model repeats, in their order."""
    return [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]


def switch_noise_off(model: nn.Module) -> None:
    """Put a model in training into evaluation mode, but keep gradient checkpointing.

    Besides dropout that is all that a model does in training mode alone: noise of routers, layers
    that are left out.
    """
    model.eval()
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            _checkpoint_in_evaluation(layer)


def _checkpoint_in_evaluation(layer: GradientCheckpointingLayer) -> None:
    """Have a layer checkpoint itself: it does so in training mode alone, which its own code sees.

    The mode is set back while that code runs, in the backward pass as well.
    """
    layer.training = True
    checkpoint = layer._gradient_checkpointing_func
    if isinstance(checkpoint, _QuietCheckpoint):
        return
    layer._gradient_checkpointing_func = _QuietCheckpoint(layer, checkpoint)


class _QuietCheckpoint:
    """A layer's checkpointing function, within which the layer is in evaluation mode."""

    def __init__(self, layer: nn.Module, checkpoint: Callable[..., Any]) -> None:
        # In a list: `nn.Module` would register the layer as its own part.
        self._layers = [layer]
        self._checkpoint = checkpoint

    def __call__(self, forward: Callable[..., Any], *inputs: Any) -> Any:
        return self._checkpoint(partial(self._run, forward), *inputs)

    def _run(self, forward: Callable[..., Any], *inputs: Any) -> Any:
        (layer,) = self._layers
        layer.training = False
        try:
            return forward(*inputs)
        finally:
            layer.training = True
