"""The choice of a scoring backend, and the reasons for which a model can't share prompts.

Backends: "sdpa" (any device), "flex" (FlexAttention, GPU), "plain" (a prompt for each answer: the
yardstick, and the fallback for models that can't share a prompt).
"""

import logging
from collections.abc import Sequence
from functools import lru_cache

from torch import nn
from transformers import PreTrainedConfig

from dynamicpo.core.choices import BACKENDS
from dynamicpo.core.errors import ConfigError, unknown_name
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.positions import check_positions
from dynamicpo.scoring.transformers_internals import (
    REPLACEABLE_ATTENTION,
    attention_name,
    causal_lm,
)

log = logging.getLogger(__name__)

# Architectures that take an attention of ours and positions that restart; each has a test.
SUPPORTED_MODEL_TYPES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2")


def choose_backend(model: nn.Module, rows: Sequence[Row], backend: str) -> str:
    """Resolve "auto"; log once why, when a model can't share prompts.

    Raises:
        ConfigError: An unknown backend, or one the model can't take.
        DataError: More tokens than the model has positions.
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    config = causal_lm(model).config
    num_tokens = _longest_sequence(rows)
    check_positions(model, num_tokens)
    if backend == "plain":
        return backend
    reason = _reason_against_sharing(config, num_tokens)
    if reason and backend != "auto":
        raise ConfigError(
            f"backend: {backend} can't score this model: {reason}. Use auto or plain."
        )
    if backend == "auto":
        backend = "plain" if reason else _fastest_backend(model)
    _log_backend(backend, reason)
    return backend


def _longest_sequence(rows: Sequence[Row]) -> int:
    """Most tokens of a prompt with one answer, whose last token is never an input."""
    return max(len(row.prompt_ids) + max(map(len, row.answer_ids)) for row in rows) - 1


def _fastest_backend(model: nn.Module) -> str:
    return "flex" if next(model.parameters()).is_cuda else "sdpa"


def _reason_against_sharing(config: PreTrainedConfig, num_tokens: int) -> str:
    """Tell why a model can't share prompts; empty when it can."""
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        return f"prompts are not known to be shareable with models of type {config.model_type}"
    window = getattr(config, "sliding_window", None)
    if window and window < num_tokens:
        return (
            f"its sliding window ({window}) is shorter than a prompt with its answer "
            f"({num_tokens} tokens)"
        )
    attention = attention_name(config)
    if attention not in REPLACEABLE_ATTENTION:
        return f"its attention ({attention}) is not one that ours can stand in for"
    return ""


@lru_cache(maxsize=32)
def _log_backend(backend: str, reason: str) -> None:
    """Log once for each backend and reason."""
    if reason:
        log.warning("scoring: the plain way, a prompt for each answer, as %s", reason)
    else:
        log.info("scoring: prompts shared, backend %s", backend)
