"""Log-probabilities of the answers to a prompt, with the prompt run through the model once.

Backends: "sdpa" (any device), "flex" (FlexAttention, GPU), "plain" (a prompt for each answer: the yardstick, and
the fallback for models that can't share a prompt).

The shared way lays rows into one sequence (see `packing`) and puts an attention of ours into the model by the
interface of transformers. It stays there and does as SDPA always does unless a call brings a packed sequence.
"""

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dynamicpo.core.errors import ConfigError, DataError, unknown_name
from dynamicpo.core.progress import Progress
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.cpu_layers import fused_layers
from dynamicpo.scoring.frozen_head import frozen_head_logps
from dynamicpo.scoring.packing import PROMPT, Packed, batches, check_rows, pack, packed_length
from dynamicpo.scoring.sdpa_attention import SplitAttention

__all__ = ["Row", "answer_logps", "score_rows", "token_logps"]
log = logging.getLogger(__name__)

BACKENDS = ("auto", "sdpa", "flex", "plain")
TOKEN_BUDGET = 4096
# Architectures that take an attention of ours and positions that restart; each has a test.
SHARING = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2")
SHARED = "shared_prefix"


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
        DataError: An empty prompt or answer, or more tokens than the model has positions.
        ShapeError: Unequal numbers of answers.
    """
    check_rows(rows)
    chosen = choose_backend(model, rows, backend)
    sequences = list(rows)
    if chosen == "plain":
        sequences = [Row(row.prompt_ids, [answer]) for row in rows for answer in row.answer_ids]
    lengths = [packed_length(row) for row in sequences]
    # One-token answers are never fed, so there is nothing to keep apart: ordinary padded sequences do.
    padded = chosen == "plain" or all(
        length == len(row.prompt_ids) for length, row in zip(lengths, rows, strict=True)
    )
    device = next(model.parameters()).device
    parts = batches(lengths, token_budget, padded=padded)
    results = [
        _logps(
            model,
            pack([sequences[place] for place in part], padded=padded).to(device),
            "" if padded else chosen,
        )
        for part in parts
    ]
    if len(parts) == 1 and parts[0] == list(range(len(sequences))):
        return results[0].view(len(rows), -1)
    order = torch.tensor([place for part in parts for place in part]).argsort()
    return torch.cat(results)[order.to(device)].view(len(rows), -1)


def choose_backend(model: nn.Module, rows: Sequence[Row], backend: str) -> str:
    """The backend to use; says once why, when a model can't share prompts."""
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    config = _causal_lm(model).config
    longest = max(len(row.prompt_ids) + max(map(len, row.answer_ids)) for row in rows) - 1
    if config.model_type == "gpt2" and longest > config.n_positions:
        raise DataError(
            f"rows: prompt and answer must fit into the {config.n_positions} positions of the model, "
            f"got {longest} tokens. Shorten the prompts."
        )
    if backend == "plain":
        return backend
    reason = _why_plain(config, longest)
    if reason and backend != "auto":
        raise ConfigError(
            f"backend: {backend} can't score this model: {reason}. Use auto or plain."
        )
    if backend == "auto":
        backend = "plain" if reason else "flex" if next(model.parameters()).is_cuda else "sdpa"
    _say_backend(backend, reason)
    return backend


def _why_plain(config: Any, longest: int) -> str:
    """Why a model can't share prompts; empty when it can."""
    window = getattr(config, "sliding_window", None)
    if config.model_type not in SHARING:
        return f"prompts are not known to be shareable with models of type {config.model_type}"
    if window and window < longest:
        return f"its sliding window ({window}) is shorter than a prompt with its answer ({longest} tokens)"
    if config._attn_implementation not in (SHARED, "sdpa", "eager", "flex_attention"):
        return (
            f"its attention ({config._attn_implementation}) is not one that ours can stand in for"
        )
    return ""


@lru_cache(maxsize=32)
def _say_backend(backend: str, reason: str) -> None:
    """Once for each backend and reason."""
    if reason:
        log.warning("scoring: the plain way, a prompt for each answer, as %s", reason)
    else:
        log.info("scoring: prompts shared, backend %s", backend)


def _logps(model: nn.Module, packed: Packed, backend: str) -> Tensor:
    """Log-probabilities of packed rows; no backend stands for the model's own causal attention."""
    extra: dict[str, Any] = {}
    if backend:
        extra["position_ids"] = packed.position_ids
        extra[SHARED] = SplitAttention(packed) if backend == "sdpa" else BlockAttention(packed)
    places = (packed.predicting, packed.source, packed.targets)
    logps = token_logps(model, packed.token_ids, None, *places, **extra)
    number = packed.shape[0] * packed.shape[1]
    return logps.new_zeros(number).index_add(0, packed.answers, logps).view(packed.shape)


def token_logps(
    model: nn.Module,
    token_ids: Tensor,
    mask: Tensor | None,
    places: Tensor,
    source: Tensor,
    targets: Tensor,
    **extra: Any,
) -> Tensor:
    """Log-probabilities of tokens at chosen places: the head sees nothing else.

    The model is called as a whole, so wrappers (PEFT, DDP, FSDP) and whatever an architecture does around its head stay
    in force; a hook hands the head the chosen hidden states. A head that is not trained gets none: what it would say
    is computed in its stead, without keeping all logits.

    Args:
        model: A causal LM.
        token_ids: Shape (S, T).
        mask: Padding mask (S, T); None: causal, which is all that padding at the end needs.
        places: Flat places that predict, shape (P,).
        source: For each target, its place in `places`. Shape (N,).
        targets: Token ids. Shape (N,).
        extra: `position_ids`, and our attention under the name `SHARED`.

    Returns:
        Shape (N,), float32 or better, nats.
    """
    inner = _causal_lm(model)
    if SHARED in extra:
        if inner.config._attn_implementation != SHARED:
            inner.set_attn_implementation(SHARED)
        mask = token_ids.new_zeros(
            1, 1, 1, 1
        )  # any four dimensions: the model shall make no mask of its own
    head = inner.get_output_embeddings()
    frozen = (
        type(head) is nn.Linear
        and not head.weight.requires_grad
        and inner.config.model_type in SHARING
    )
    found: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        chosen = inputs[0].flatten(0, 1)[places]
        if frozen:
            found.append(frozen_head_logps(chosen, head.weight, head.bias, source, targets))
            chosen = chosen[:0]
        return (chosen, *inputs[1:])

    hook = head.register_forward_pre_hook(keep)
    try:
        with fused_layers(inner):
            logits: Tensor = model(
                input_ids=token_ids, attention_mask=mask, use_cache=False, **extra
            ).logits
    finally:
        hook.remove()
    return found[0] if frozen else logits.float().log_softmax(-1)[source, targets]


def _causal_lm(model: nn.Module) -> Any:
    """The transformers model inside wrappers."""
    inner: Any = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, Tensor | None]:
    """SDPA as ever, or, where a call brings it, the attention of a packed sequence."""
    shared: Callable[..., Tensor] | None = settings.pop(SHARED, None)
    if shared is None:
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **settings
        )
        return result
    return shared(module, query, key, value, **settings), None


AttentionInterface.register(SHARED, _attention)
AttentionMaskInterface.register(SHARED, sdpa_mask)


class BlockAttention:
    """FlexAttention with a block mask over the whole sequence."""

    def __init__(self, packed: Packed) -> None:
        """Make the block mask, once for all layers."""
        segments, owners = packed.segments[0], packed.owners[0]

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same_answer = (segments[query] == segments[key]) | (segments[key] == PROMPT)
            return same_answer & (owners[query] == owners[key]) & (query >= key)

        width = len(segments)
        self.mask: BlockMask = create_block_mask(
            sees, None, None, width, width, device=str(segments.device)
        )

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **settings: Any
    ) -> Tensor:
        """Heads' outputs, (1, T, H, D)."""
        result: Tensor = flex_attention_forward(module, query, key, value, self.mask, **settings)[0]
        return result


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
    try:
        with Progress(label, len(rows)) as counter:
            for part in batches([packed_length(row) for row in rows], token_budget, padded=False):
                result[part] = answer_logps(
                    model, [rows[place] for place in part], backend, token_budget
                ).cpu()
                counter.advance(len(part))
    finally:
        model.train(was_training)
    return result
