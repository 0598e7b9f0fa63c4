"""Attention along the paths of a token tree, with a cache of keys and values.

Axes: H heads; G heads that share their keys and values; n tokens of a call; D numbers of a head.
"""

from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from dynamicpo.core.arrays import IntArray


class KeysAndValues(NamedTuple):
    """Keys and values of tokens, each (H / G, tokens, D)."""

    keys: Tensor
    values: Tensor


class PathAttention:
    """Attention of a prompt to itself, then of tokens to the prompt and to their own paths.

    It keeps the keys and values of both, for each layer.

    Attributes:
        paths: For each token of a call the slots of its ancestors' keys and values, its own last;
            None: the call is the prompt's. Shape (n, depth).
    """

    def __init__(self) -> None:
        """Start with an empty cache."""
        self.paths: Tensor | None = None
        self._prompt: dict[int, KeysAndValues] = {}
        self._path_cache: dict[int, KeysAndValues] = {}
        self._num_slots = 0

    def forget_paths(self) -> None:
        """Keep the prompt only."""
        self._path_cache = {}
        self._num_slots = 0

    def allocate(self, number: int) -> IntArray:
        """Reserve slots for so many more tokens."""
        first = self._num_slots
        self._num_slots += number
        return np.arange(first, self._num_slots)

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
        """Outputs of the heads, (1, n, H, D).

        Args:
            module: The layer's attention, which knows the layer's index.
            query: Shape (1, H, n, D).
            key: Shape (1, H / G, n, D).
            value: Shape (1, H / G, n, D).
            dropout: Not used: the model is in evaluation mode.
            scaling: Of the scores; D ** -0.5 where the model gives none.
            settings: Not used.
        """
        dtype = torch.promote_types(query.dtype, torch.float32)
        scale = scaling or query.shape[-1] ** -0.5
        tokens = KeysAndValues(key[0].to(dtype), value[0].to(dtype))
        # Heads that share keys stand on an axis of their own: (H / G, G, n, D).
        kv_heads = key.shape[1]
        queries = query[0].to(dtype).view(kv_heads, -1, *query.shape[2:])
        layer = cast(int, module.layer_idx)
        with torch.autocast(query.device.type, enabled=False):
            if self.paths is None:
                self._prompt[layer] = tokens
                outputs = _causal_attention(queries, tokens, scale)
            else:
                paths = self._store(layer, tokens, self.paths)
                outputs = _attend_along_paths(queries * scale, self._prompt[layer], paths)
        return outputs.to(query.dtype).permute(2, 0, 1, 3).flatten(1, 2)[None]

    def _store(self, layer: int, tokens: KeysAndValues, paths: Tensor) -> KeysAndValues:
        """Put tokens into their slots; look up their paths, (H / G, n, depth, D) each."""
        nothing = KeysAndValues(tokens.keys[:, :0], tokens.values[:, :0])
        cache = self._path_cache.get(layer, nothing)
        keys = self._grow(cache.keys, tokens.keys)
        values = self._grow(cache.values, tokens.values)
        own_slots = paths[:, -1]
        keys[:, own_slots] = tokens.keys
        values[:, own_slots] = tokens.values
        self._path_cache[layer] = KeysAndValues(keys, values)
        return KeysAndValues(keys[:, paths], values[:, paths])

    def _grow(self, cached: Tensor, like: Tensor) -> Tensor:
        """Enlarge a cache to all slots: once for a level, however many calls the level takes."""
        num_missing = self._num_slots - cached.shape[1]
        if num_missing == 0:
            return cached
        more = like.new_empty(len(cached), num_missing, like.shape[2])
        return torch.cat([cached, more], dim=1)


def _causal_attention(queries: Tensor, tokens: KeysAndValues, scale: float) -> Tensor:
    """Attention of a prompt to itself. Shape (H / G, G, n, D)."""
    num_shared = queries.shape[1]
    # Expanding repeats nothing in memory.
    keys = tokens.keys[:, None].expand(-1, num_shared, -1, -1)
    values = tokens.values[:, None].expand(-1, num_shared, -1, -1)
    return scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale)


def _attend_along_paths(queries: Tensor, prompt: KeysAndValues, paths: KeysAndValues) -> Tensor:
    """Attention of tokens to a prompt and to their paths, by one softmax over both.

    Args:
        queries: Scaled already. Shape (H / G, G, n, D).
        prompt: Keys and values of the prompt's tokens, the same for all.
        paths: Those of each token's path, (H / G, n, depth, D).

    Returns:
        Shape (H / G, G, n, D).
    """
    kv_heads, num_shared, num_tokens, head_dim = queries.shape
    # All tokens see the same prompt, so heads and tokens are rows of one product.
    stacked_scores = queries.flatten(1, 2) @ prompt.keys.mT
    prompt_scores = stacked_scores.view(kv_heads, num_shared, num_tokens, -1)
    # Each token has a path of its own: a small product for each.
    queries_by_token = queries.permute(0, 2, 1, 3)
    path_scores = (queries_by_token @ paths.keys.mT).permute(0, 2, 1, 3)
    weights = torch.cat([prompt_scores, path_scores], dim=-1).softmax(-1)
    prompt_length = prompt_scores.shape[-1]
    prompt_weights, path_weights = weights.tensor_split([prompt_length], dim=-1)
    from_prompt = (prompt_weights.flatten(1, 2) @ prompt.values).view(
        kv_heads, num_shared, num_tokens, head_dim
    )
    from_path = (path_weights.permute(0, 2, 1, 3) @ paths.values).permute(0, 2, 1, 3)
    return from_prompt + from_path
