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
        # By layer.
        self._prompts: dict[int, KeysAndValues] = {}
        self._path_caches: dict[int, KeysAndValues] = {}
        self._num_slots = 0

    def forget_paths(self) -> None:
        """Keep the prompt only."""
        self._path_caches = {}
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
        _, _, num_tokens, head_dim = query.shape
        kv_heads = key.shape[1]
        dtype = torch.promote_types(query.dtype, torch.float32)
        # Heads that share keys stand on an axis of their own: (H / G, G, n, D).
        queries = query[0].to(dtype)
        queries = queries.view(kv_heads, -1, num_tokens, head_dim)
        keys = key[0].to(dtype)
        values = value[0].to(dtype)
        tokens = KeysAndValues(keys, values)
        scale = scaling or head_dim**-0.5
        layer = cast(int, module.layer_idx)
        with torch.autocast(query.device.type, enabled=False):
            outputs = self._attend(layer, queries, tokens, scale)
        by_token = outputs.to(query.dtype).permute(2, 0, 1, 3)
        return by_token.flatten(1, 2)[None]

    def _attend(self, layer: int, queries: Tensor, tokens: KeysAndValues, scale: float) -> Tensor:
        """Outputs (H / G, G, n, D) of the prompt's tokens, or of tokens with paths."""
        if self.paths is None:
            self._prompts[layer] = tokens
            return _causal_attention(queries, tokens, scale)
        paths = self._store(layer, tokens, self.paths)
        # Queries are fewer numbers than their scores, so they are scaled.
        return _attend_along_paths(queries * scale, self._prompts[layer], paths)

    def _store(self, layer: int, tokens: KeysAndValues, paths: Tensor) -> KeysAndValues:
        """Put tokens into their slots; look up their paths, (H / G, n, depth, D) each."""
        cache = self._path_caches.get(layer)
        if cache is None:
            cache = _without_tokens(tokens)
        keys = self._grow(cache.keys)
        values = self._grow(cache.values)
        own_slots = paths[:, -1]
        keys[:, own_slots] = tokens.keys
        values[:, own_slots] = tokens.values
        self._path_caches[layer] = KeysAndValues(keys, values)
        path_keys = keys[:, paths]
        path_values = values[:, paths]
        return KeysAndValues(path_keys, path_values)

    def _grow(self, cached: Tensor) -> Tensor:
        """Enlarge a cache to all slots: once for a level, however many calls the level takes."""
        kv_heads, length, head_dim = cached.shape
        num_missing = self._num_slots - length
        if num_missing == 0:
            return cached
        more = cached.new_empty(kv_heads, num_missing, head_dim)
        return torch.cat([cached, more], dim=1)


def _without_tokens(like: KeysAndValues) -> KeysAndValues:
    no_keys = like.keys[:, :0]
    no_values = like.values[:, :0]
    return KeysAndValues(no_keys, no_values)


def _causal_attention(queries: Tensor, tokens: KeysAndValues, scale: float) -> Tensor:
    """Attention of a prompt to itself. Shape (H / G, G, n, D)."""
    # Views: nothing is repeated in memory.
    keys = tokens.keys[:, None].expand_as(queries)
    values = tokens.values[:, None].expand_as(queries)
    return scaled_dot_product_attention(
        queries,
        keys,
        values,
        is_causal=True,
        scale=scale,
    )


def _attend_along_paths(queries: Tensor, prompt: KeysAndValues, paths: KeysAndValues) -> Tensor:
    """Attention of tokens to a prompt and to their paths, by one softmax over both.

    Args:
        queries: Scaled already. Shape (H / G, G, n, D).
        prompt: Keys and values of the prompt's tokens, the same for all.
        paths: Those of each token's path, (H / G, n, depth, D).

    Returns:
        Shape (H / G, G, n, D).
    """
    kv_heads, num_shared, num_tokens, _ = queries.shape
    prompt_length = prompt.keys.shape[1]
    # All tokens see the same prompt, so heads and tokens are rows of one product.
    stacked_queries = queries.flatten(1, 2)
    stacked_scores = stacked_queries @ prompt.keys.mT
    prompt_scores = stacked_scores.view(kv_heads, num_shared, num_tokens, prompt_length)
    # Each token has a path of its own: a small product for each.
    queries_by_token = queries.transpose(1, 2)
    path_scores = queries_by_token @ paths.keys.mT

    scores = torch.cat([prompt_scores, path_scores.transpose(1, 2)], dim=-1)
    weights = scores.softmax(-1)
    prompt_weights, path_weights = weights.tensor_split([prompt_length], dim=-1)

    stacked_outputs = prompt_weights.flatten(1, 2) @ prompt.values
    from_prompt = stacked_outputs.view(queries.shape)
    outputs_by_token = path_weights.transpose(1, 2) @ paths.values
    return from_prompt + outputs_by_token.transpose(1, 2)
