"""Dropout in the layers of a Llama, whose own configuration has it for attention weights alone.

Hooks do it, so that a saved model knows nothing of it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn
from transformers import LlamaForCausalLM

# What a module returns: hidden states, alone or with attention weights behind them.
Outputs = Tensor | tuple[Tensor, ...]


@contextmanager
def layer_dropout(model: LlamaForCausalLM, share: float) -> Iterator[None]:
    """Drop a share of the embeddings, and of what each layer adds to them, in training mode.

    Source: Vaswani et al., "Attention is all you need" (2017), section 5.4.

    Args:
        model: A Llama; as it was when the context ends.
        share: Share of the values that become 0; the others grow, so that their mean stays.
    """
    modules: list[nn.Module] = [model.model.embed_tokens]
    for layer in model.model.layers:
        modules += [layer.self_attn, layer.mlp]
    with ExitStack() as stack:
        # Without a hook a model runs as fast, and as exactly, as it does elsewhere.
        for module in modules if share else ():
            hook = module.register_forward_hook(partial(_drop, share))
            stack.callback(hook.remove)
        yield


def _drop(share: float, module: nn.Module, inputs: object, outputs: Outputs) -> Outputs:
    if isinstance(outputs, Tensor):
        return nn.functional.dropout(outputs, share, training=module.training)
    hidden, *others = outputs
    return (nn.functional.dropout(hidden, share, training=module.training), *others)
