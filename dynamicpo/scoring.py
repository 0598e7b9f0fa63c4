"""Log-probabilities of the answers to a prompt, with the prompt run through the model once.

Backends: "sdpa" (4-D mask, any device), "flex" (FlexAttention's block mask, GPU), "plain" (repeated prompts: the
yardstick, and the fallback for models that can't share a prompt).
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask

from dynamicpo.errors import ConfigError, unknown_name
from dynamicpo.packing import (
    PADDING,
    PROMPT,
    Packed,
    attention_mask,
    check_rows,
    first_fit,
    like_lengths,
    pack,
    packed_length,
)
from dynamicpo.progress import Progress
from dynamicpo.records import Row

__all__ = ["Row", "answer_logps", "score_rows", "token_logits"]
log = logging.getLogger(__name__)

BACKENDS = ("auto", "sdpa", "flex", "plain")
TOKEN_BUDGET = 4096
# Architectures whose attention honours a given 4-D mask and positions that restart; each has a test.
SHARING = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2")


def answer_logps(
    model: nn.Module, rows: Sequence[Row], backend: str = "auto", token_budget: int = TOKEN_BUDGET
) -> Tensor:
    """Log-probability of each answer after its row's prompt; gradients flow.

    Args:
        model: A causal LM of transformers, with or without PEFT.
        rows: Rows with equally many answers A.
        backend: "auto", "sdpa", "flex" or "plain".
        token_budget: Tokens in one forward pass.

    Returns:
        Sums over each answer's tokens, in nats. Shape (B, A), float32.

    Raises:
        ConfigError: An unknown backend, or one the model can't take.
        ShapeError: Rows that can't be scored together.
    """
    check_rows(rows)
    chosen = choose_backend(model, rows, backend)
    if chosen == "plain":
        return _plain_logps(model, rows, token_budget)
    lengths = [packed_length(row) for row in rows]
    batches = like_lengths(lengths, token_budget) if chosen == "sdpa" else first_fit(lengths, token_budget)
    device = next(model.parameters()).device
    results = []
    for batch in batches:
        members = [rows[place] for place in batch]
        bins = None if chosen == "sdpa" else [list(range(len(members)))]
        results.append(_packed_logps(model, pack(members, bins).to(device), chosen))
    order = torch.tensor([place for batch in batches for place in batch]).argsort().to(device)
    return torch.cat(results)[order]


def choose_backend(model: nn.Module, rows: Sequence[Row], backend: str) -> str:
    """The backend to use; says once why, when a model can't share prompts."""
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if backend == "plain":
        return backend
    config: Any = model.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    longest = max(packed_length(row) for row in rows)
    reason = ""
    if config.model_type not in SHARING:
        reason = f"prompts are not known to be shareable with {config.model_type} models"
    elif window and window < longest:
        reason = f"its sliding window ({window}) is shorter than a row ({longest} tokens)"
    elif getattr(config, "_attn_implementation", "sdpa") not in ("sdpa", "eager", "flex_attention"):
        reason = f"its attention ({config._attn_implementation}) takes no mask of ours"
    elif backend == "flex" and not getattr(_causal_lm(model), "_supports_flex_attn", False):
        reason = f"{config.model_type} models have no FlexAttention"
    if reason and backend != "auto":
        raise ConfigError(f"backend: {backend} can't score this model: {reason}. Use auto or plain.")
    chosen = "plain" if reason else backend
    if chosen == "auto":
        flex = next(model.parameters()).is_cuda and getattr(_causal_lm(model), "_supports_flex_attn", False)
        chosen = "flex" if flex else "sdpa"
    _say_backend(chosen, reason)
    return chosen


@lru_cache(maxsize=32)
def _say_backend(backend: str, reason: str) -> None:
    """Once for each backend and reason."""
    if reason:
        log.warning("scoring: the plain way, a prompt for each answer, as %s", reason)
    else:
        log.info("scoring: prompts shared, backend %s", backend)


def _packed_logps(model: nn.Module, packed: Packed, backend: str) -> Tensor:
    if backend == "flex":
        with _attention(model, "flex_attention"):
            logits = token_logits(model, packed.token_ids, _block_mask(packed), packed.predicting, packed.position_ids)
    else:
        logits = token_logits(model, packed.token_ids, attention_mask(packed), packed.predicting, packed.position_ids)
    picked = logits.float().log_softmax(-1)[packed.source, packed.targets]
    number = packed.shape[0] * packed.shape[1]
    return picked.new_zeros(number).index_add(0, packed.answers, picked).view(packed.shape)


def token_logits(
    model: nn.Module, token_ids: Tensor, mask: Any, places: Tensor, position_ids: Tensor | None = None
) -> Tensor:
    """Logits at chosen places only: the head sees nothing else.

    The model is called as a whole, so wrappers (PEFT, DDP, FSDP) and whatever an architecture does around its
    head stay in force; a hook hands the head the chosen hidden states.

    Args:
        model: A causal LM.
        token_ids: Shape (S, T).
        mask: Attention mask, as the model takes it.
        places: Flat places, shape (P,), or a bool mask (S, T).
        position_ids: Shape (S, T), or None for 0..T-1.

    Returns:
        Shape (P, V).
    """

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1)[places.flatten()], *inputs[1:])

    head = _causal_lm(model).get_output_embeddings()  # type: ignore[operator]
    hook = head.register_forward_pre_hook(keep)
    try:
        logits: Tensor = model(
            input_ids=token_ids, attention_mask=mask, position_ids=position_ids, use_cache=False
        ).logits
    finally:
        hook.remove()
    return logits


def _causal_lm(model: nn.Module) -> nn.Module:
    """The transformers model inside wrappers."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


@contextmanager
def _attention(model: nn.Module, implementation: str) -> Iterator[None]:
    """Another attention implementation for a while."""
    inner: Any = _causal_lm(model)
    before = inner.config._attn_implementation
    inner.set_attn_implementation(implementation)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


def _block_mask(packed: Packed) -> Any:
    """FlexAttention's form of `packing.attention_mask`."""
    segments, owners = packed.segments, packed.rows

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same_answer = (segments[batch, query] == segments[batch, key]) | (segments[batch, key] == PROMPT)
        row = owners[batch, query]
        inside = same_answer & (row == owners[batch, key]) & (row != PADDING) & (query >= key)
        return inside | (query == key)

    number, width = segments.shape
    return create_block_mask(sees, B=number, H=None, Q_LEN=width, KV_LEN=width, device=str(segments.device))


def _plain_logps(model: nn.Module, rows: Sequence[Row], token_budget: int) -> Tensor:
    """A sequence for each answer: its prompt again, then the answer."""
    single = [Row(row.prompt_ids, [answer]) for row in rows for answer in row.answer_ids]
    device = next(model.parameters()).device
    batches = like_lengths([packed_length(row) for row in single], token_budget)
    results = []
    for batch in batches:
        packed = pack([single[place] for place in batch]).to(device)
        mask = (packed.segments != PADDING).long()
        logits = token_logits(model, packed.token_ids, mask, packed.predicting)
        picked = logits.float().log_softmax(-1)[packed.source, packed.targets]
        results.append(picked.new_zeros(len(batch)).index_add(0, packed.answers, picked))
    order = torch.tensor([place for batch in batches for place in batch]).argsort().to(device)
    return torch.cat(results)[order].view(len(rows), -1)


@torch.no_grad()
def score_rows(
    model: nn.Module,
    rows: Sequence[Row],
    token_budget: int = 8192,
    backend: str = "auto",
    label: str = "scoring",
) -> Tensor:
    """Log-probabilities of many rows, without gradients, in batches of like length.

    Args:
        model: A causal LM; dropout is off meanwhile.
        rows: Rows with equally many answers A.
        token_budget: Tokens in one forward pass.
        backend: As for `answer_logps`.
        label: What progress calls it.

    Returns:
        Shape (N, A), float32, on the CPU, in the order of the rows.
    """
    check_rows(rows)
    was_training = model.training
    model.eval()
    result = torch.empty(len(rows), len(rows[0].answer_ids))
    with Progress(label, len(rows)) as counter:
        for batch in like_lengths([packed_length(row) for row in rows], token_budget):
            result[batch] = answer_logps(model, [rows[place] for place in batch], backend, token_budget).float().cpu()
            counter.advance(len(batch))
    model.train(was_training)
    return result
