"""Fused layers: which layers of a model are computed in fewer passes over memory.

Only layers whose weights are not trained are computed so, but for LoRA's own. LoRA gains on GPUs as
well, where peft's copies into float32 and back took a fifth of a step of a 7B model on an H100. The
other kernels of `cpu_kernels` are for CPUs; on GPUs torch has a fused norm of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from dynamicpo.scoring.cpu_kernels import fused_lora, fused_rms_norm, fused_rotary, fused_swiglu
from dynamicpo.scoring.frozen_layers import is_frozen, is_frozen_linear, is_frozen_on_cpu
from dynamicpo.scoring.peft_internals import LoraLinear, is_plain_lora, lora_weights
from dynamicpo.scoring.torch_internals import has_hooks, has_replaced_forward
from dynamicpo.scoring.transformers_internals import (
    RMSNormLayer,
    SwiGLULayer,
    is_rms_norm,
    is_swiglu,
    replaced_forward,
    replaced_rotary,
)


@contextmanager
def fused_layers(model: nn.Module) -> Iterator[None]:
    """Compute what is possible of a causal LM by our kernels while the context is open.

    Models under gradient checkpointing stay as they are, as their layers are computed again later,
    outside. One thread at a time may use a model so, and no other thread a checkpointed one of the
    same family.
    """
    # An error half-way puts back what was replaced until then.
    with ExitStack() as stack:
        if not _is_checkpointed(model):
            for layer in model.modules():
                forward = _fused_forward(layer)
                if forward is not None:
                    stack.enter_context(replaced_forward(layer, forward))
            if _is_on_cpu(model):
                stack.enter_context(replaced_rotary(model, fused_rotary))
        yield


def _is_checkpointed(model: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def _is_on_cpu(model: nn.Module) -> bool:
    return all(weight.device.type == "cpu" for weight in model.parameters())


def _fused_forward(layer: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Find the forward pass that computes a layer in fewer passes, if one does."""
    # Somebody else replaced it (accelerate does, for offloading), or a context of ours around this.
    if has_replaced_forward(layer):
        return None
    if isinstance(layer, LoraLinear):
        return partial(_forward_lora, layer) if is_plain_lora(layer) else None
    if is_rms_norm(layer):
        return _fused_rms_norm_of(layer)
    if is_swiglu(layer):
        return partial(_forward_swiglu, layer) if _is_frozen_swiglu(layer) else None
    return None


def _fused_rms_norm_of(layer: RMSNormLayer) -> Callable[[Tensor], Tensor] | None:
    if is_frozen_on_cpu(layer):
        return partial(_forward_rms_norm, layer)
    if layer.weight.is_cuda and is_frozen(layer):
        return partial(_forward_rms_norm_on_gpu, layer)
    return None


def _is_frozen_swiglu(layer: SwiGLULayer) -> bool:
    """Tell whether its three products have no bias, and nobody waits for a call of its parts."""
    if has_hooks(layer.act_fn) or not is_frozen_on_cpu(layer):
        return False
    for product in (layer.gate_proj, layer.up_proj, layer.down_proj):
        if not is_frozen_linear(product):
            return False
        if product.bias is not None:
            return False
    return True


def _forward_lora(layer: LoraLinear, inputs: Tensor) -> Tensor:
    return fused_lora(inputs, *lora_weights(layer))


def _forward_rms_norm(layer: RMSNormLayer, inputs: Tensor) -> Tensor:
    if inputs.dtype == torch.float32 == layer.weight.dtype:
        return fused_rms_norm(inputs, layer.weight, layer.variance_epsilon)
    # In lower precision transformers rounds between the steps; its own code keeps that.
    unpatched = type(layer).forward
    result: Tensor = unpatched(layer, inputs)
    return result


def _forward_rms_norm_on_gpu(layer: RMSNormLayer, inputs: Tensor) -> Tensor:
    # One kernel, in float32 inside; transformers has six, each of which reads and writes it all.
    width = (inputs.shape[-1],)
    weight = layer.weight.to(inputs.dtype)
    return nn.functional.rms_norm(inputs, width, weight, layer.variance_epsilon)


def _forward_swiglu(layer: SwiGLULayer, inputs: Tensor) -> Tensor:
    gate = layer.gate_proj.weight
    up = layer.up_proj.weight
    down = layer.down_proj.weight
    return fused_swiglu(inputs, gate, up, down)
