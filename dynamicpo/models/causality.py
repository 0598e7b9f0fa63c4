"""Check that a model does not look ahead: an encoder knows the answer that it is asked for."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dynamicpo.core.errors import ConfigError

_NUM_TOKENS = 4


def check_causal(model: PreTrainedModel, backbone: str) -> None:
    """Refuse a model whose first logits depend on later tokens.

    Their gradient tells: in a causal model it is exactly 0, as the weights of hidden tokens are.

    Raises:
        ConfigError: They do: it is an encoder, such as BERT.
    """
    if _looks_ahead(model):
        raise ConfigError(
            f"backbone: must be a causal LM, but {backbone} sees the tokens that it is to predict "
            f"(it is an encoder, {type(model).__name__}). Use a decoder."
        )


def _looks_ahead(model: PreTrainedModel) -> bool:
    embedded: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        # Not the leaf itself, which a model could not scale in place.
        return embedded[-1].clone()

    was_training = model.training
    device = next(model.parameters()).device
    embeddings = model.get_input_embeddings()
    # A table of one item makes a model of three tokens.
    token_ids = torch.arange(_NUM_TOKENS, device=device)[None] % embeddings.num_embeddings
    hook = embeddings.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = model.eval()(input_ids=token_ids, use_cache=False).logits
            first = logits[0, 0].float().square().sum()
            (gradient,) = torch.autograd.grad(first, embedded[0])
    finally:
        hook.remove()
        model.train(was_training)
    # A row for each token, whether the batch is the first axis or the second.
    of_later_tokens = gradient.reshape(_NUM_TOKENS, -1)[1:]
    # The square root of a padding token's zeros has no slope: times 0 that is NaN, not a look.
    return bool(of_later_tokens.nan_to_num().any())
