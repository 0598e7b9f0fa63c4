"""Log-probabilities of the answers to a prompt, with the prompt run through the model once.

Rows are laid into one sequence (see `packing`), and an attention of ours is put into the model by
the interface of transformers (see `transformers_internals`). It stays there and does as SDPA always
does unless a call brings a packed sequence. `backend_choice` says which models can't share prompts.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynamicpo.core.progress import Progress
from dynamicpo.core.records.rows import Row
from dynamicpo.distributed.collectives import add_up, shared_out
from dynamicpo.distributed.group import world_size
from dynamicpo.scoring.backend_choice import SUPPORTED_MODEL_TYPES, choose_backend
from dynamicpo.scoring.cpu_layers import fused_layers
from dynamicpo.scoring.flex_attention import BLOCK_SIZE, BlockAttention
from dynamicpo.scoring.frozen_head import frozen_head_logps
from dynamicpo.scoring.packing import Packed, batches, check_rows, pack, packed_length, pad_sequence
from dynamicpo.scoring.sdpa_attention import SplitAttention
from dynamicpo.scoring.shards import ScoredRows, Shards, rows_left
from dynamicpo.scoring.transformers_internals import (
    ATTENTION_NAME,
    HeadsAttention,
    causal_lm,
    no_mask,
    use_our_attention,
)

# Tokens in one forward pass: on a CPU, longer sequences fall out of its caches; on a GPU, shorter
# ones end before the next kernel has been started.
TOKEN_BUDGET = 4096
GPU_TOKEN_BUDGET = 65536
# Between two of a process's batches of which the others' results are put together for a shard.
_BATCHES_OF_TURN = 8


class PackedInput(NamedTuple):
    """Arguments of a model's call besides the token ids of a packed sequence.

    Attributes:
        position_ids: Shape (S, T).
        attention: Our attention for this sequence.
    """

    position_ids: Tensor
    attention: HeadsAttention


def answer_logps(
    model: nn.Module,
    rows: Sequence[Row],
    backend: str = "auto",
    token_budget: int | None = None,
) -> Tensor:
    """Log-probability of each answer after its row's prompt; gradients flow.

    Args:
        model: A causal LM of transformers, with or without PEFT.
        rows: Rows with equally many answers A.
        backend: "auto", "sdpa", "flex" or "plain".
        token_budget: Tokens in one forward pass; None: as many as the device does well with.

    Returns:
        Sums over each answer's tokens, in nats. Shape (B, A), float32.

    Raises:
        ConfigError: An unknown backend, or one the model can't take.
        DataError: An empty prompt or answer, or more tokens than the model has positions.
        ShapeError: Unequal numbers of answers.
    """
    check_rows(rows)
    if token_budget is None:
        on_gpu = next(model.parameters()).is_cuda
        token_budget = GPU_TOKEN_BUDGET if on_gpu else TOKEN_BUDGET
    return _checked_answer_logps(model, rows, backend, token_budget)


@torch.no_grad()
def score_rows(
    model: nn.Module,
    rows: Sequence[Row],
    token_budget: int = 8192,
    backend: str = "auto",
    label: str = "scoring",
    shards: Shards | None = None,
) -> Tensor:
    """Log-probabilities of many rows, without gradients, in batches of similar length.

    Several processes take turns with the batches, and all get the result.

    Args:
        model: A causal LM; dropout is off meanwhile.
        rows: Rows with equally many answers A.
        token_budget: Tokens in one forward pass.
        backend: As for `answer_logps`.
        label: The name of the work in progress reports.
        shards: What an earlier attempt has finished is taken from them, and new rows are added.

    Returns:
        Shape (N, A), float32, on the CPU, in the order of the rows.
    """
    check_rows(rows)
    lengths = [packed_length(row) for row in rows]
    parts: list[Sequence[int]] = [*batches(lengths, token_budget, padded=False)]
    result = torch.zeros(len(rows), len(rows[0].answer_ids))
    turn_size = max(1, len(parts))
    if shards is not None:
        known = shards.finished(len(rows), {"logps": result[:0]})
        result[known.numbers] = known.columns["logps"]
        parts = rows_left(parts, known.numbers)
        turn_size = _BATCHES_OF_TURN * world_size()
    was_training = model.training
    model.eval()
    try:
        own = shared_out(parts)
        with Progress(label, sum(map(len, own))) as counter:
            for start in range(0, len(parts), turn_size):
                turn = parts[start : start + turn_size]
                logps = _turn_logps(model, rows, turn, backend, token_budget, counter)
                row_numbers = [*chain.from_iterable(turn)]
                numbers = torch.tensor(row_numbers)
                result[numbers] = logps
                if shards is not None:
                    shards.add(ScoredRows(numbers, {"logps": logps}))
    finally:
        model.train(was_training)
    return result


def _turn_logps(
    model: nn.Module,
    rows: Sequence[Row],
    turn: Sequence[Sequence[int]],
    backend: str,
    token_budget: int,
    counter: Progress,
) -> Tensor:
    """Log-probabilities of some batches, one after another, each computed by one process."""
    num_answers = len(rows[0].answer_ids)
    turn_numbers = range(len(turn))
    own = shared_out(turn_numbers)
    parts = []
    for number, batch in enumerate(turn):
        num_rows = len(batch)
        # Zeros where another process scores, so that the sum is exact.
        logps = torch.zeros(num_rows, num_answers)
        if number in own:
            batch_rows = [rows[index] for index in batch]
            scored = _checked_answer_logps(model, batch_rows, backend, token_budget)
            logps = scored.cpu()
            counter.advance(num_rows)
        parts.append(logps)
    result = torch.cat(parts)
    add_up([result])
    return result


def _checked_answer_logps(
    model: nn.Module, rows: Sequence[Row], backend: str, token_budget: int
) -> Tensor:
    """Log-probabilities of answers, of rows that `check_rows` has seen. Shape (B, A)."""
    chosen = choose_backend(model, rows, backend)
    sequences = _one_answer_each(rows) if chosen == "plain" else list(rows)
    lengths = [packed_length(row) for row in sequences]
    # One-token answers are never inputs, so there is nothing to keep apart: ordinary padded
    # sequences do, with the model's own causal attention.
    nothing_packed = all(_has_short_answers(row) for row in rows)
    padded = chosen == "plain" or nothing_packed
    device = next(model.parameters()).device
    parts = batches(lengths, token_budget, padded=padded)
    results = []
    for part in parts:
        part_rows = [sequences[index] for index in part]
        packed = pack(part_rows, padded=padded)
        if chosen == "flex" and not padded:
            packed = pad_sequence(packed, BLOCK_SIZE)
        packed = packed.to(device)
        logps = _packed_logps(model, packed, None if padded else chosen)
        results.append(logps)
    return _in_order(results, parts).view(len(rows), -1)


def _one_answer_each(rows: Sequence[Row]) -> list[Row]:
    result = []
    for row in rows:
        for answer in row.answer_ids:
            result.append(Row(row.prompt_ids, [answer]))
    return result


def _has_short_answers(row: Row) -> bool:
    """Tell whether every answer is one token."""
    return packed_length(row) == len(row.prompt_ids)


def _in_order(results: Sequence[Tensor], parts: Sequence[Sequence[int]]) -> Tensor:
    """Concatenate batches' results in the order of the rows."""
    indices = [index for part in parts for index in part]
    is_ordered = indices == sorted(indices)
    # The usual batch of training: nothing to copy.
    if len(parts) == 1 and is_ordered:
        return results[0]
    joined = torch.cat(list(results))
    order = torch.tensor(indices).argsort()
    return joined[order.to(joined.device)]


def _packed_logps(model: nn.Module, packed: Packed, backend: str | None) -> Tensor:
    """Log-probabilities of packed rows; None is the model's own causal attention."""
    packed_input = None
    if backend is not None:
        attention = SplitAttention(packed) if backend == "sdpa" else BlockAttention(packed)
        packed_input = PackedInput(packed.position_ids, attention)
    of_tokens = token_logps(
        model,
        packed.token_ids,
        None,
        packed.prediction_positions,
        packed.prediction_index,
        packed.targets,
        packed_input,
    )
    num_rows, num_answers = packed.shape
    zeros = of_tokens.new_zeros(num_rows * num_answers)
    of_answers = zeros.index_add(0, packed.answer_index, of_tokens)
    return of_answers.view(packed.shape)


def token_logps(
    model: nn.Module,
    token_ids: Tensor,
    mask: Tensor | None,
    positions: Tensor,
    prediction_index: Tensor,
    targets: Tensor,
    packed_input: PackedInput | None = None,
) -> Tensor:
    """Log-probabilities of tokens at chosen positions: the head sees nothing else.

    The model is called as a whole, so wrappers (PEFT, DDP, FSDP) and whatever an architecture does
    around its head stay in force; a hook hands the head the chosen hidden states. A head that is
    not trained gets none: its log-probabilities are computed in its stead, without keeping all
    logits.

    Args:
        model: A causal LM.
        token_ids: Shape (S, T).
        mask: Padding mask (S, T); None: causal, which is all that padding at the end needs.
        positions: Flat positions that predict, shape (P,).
        prediction_index: For each target, its index in `positions`. Shape (N,).
        targets: Token ids. Shape (N,).
        packed_input: Positions and attention of a packed sequence; None for ordinary sequences.

    Returns:
        Shape (N,), float32 or better, nats.
    """
    inner = causal_lm(model)
    head = inner.get_output_embeddings()
    is_frozen = _is_frozen_head(head, inner.config.model_type)
    frozen_logps: list[Tensor] = []

    def choose_positions(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        all_hidden, *others = inputs
        hidden = all_hidden.flatten(0, 1)[positions]
        if is_frozen:
            logps = frozen_head_logps(hidden, head.weight, head.bias, prediction_index, targets)
            frozen_logps.append(logps)
            # The head is called all the same, as what stands around it may expect: for nothing.
            hidden = hidden[:0]
        return (hidden, *others)

    hook = head.register_forward_pre_hook(choose_positions)
    try:
        with fused_layers(inner):
            logits = _call_model(model, token_ids, mask, packed_input)
    finally:
        hook.remove()
    if is_frozen:
        return frozen_logps[0]
    return logits.float().log_softmax(-1)[prediction_index, targets]


def _call_model(
    model: nn.Module, token_ids: Tensor, mask: Tensor | None, packed_input: PackedInput | None
) -> Tensor:
    """Logits of the positions that reach the head."""
    arguments: dict[str, object] = {}
    if packed_input is not None:
        use_our_attention(causal_lm(model))
        mask = no_mask(token_ids)
        arguments["position_ids"] = packed_input.position_ids
        arguments[ATTENTION_NAME] = packed_input.attention
    # Without a cache: no call follows that could use the keys and values.
    outputs = model(input_ids=token_ids, attention_mask=mask, use_cache=False, **arguments)
    logits: Tensor = outputs.logits
    return logits


def _is_frozen_head(head: nn.Module, model_type: str) -> bool:
    """Tell whether the head is a frozen product and nothing else, such as a scaling, follows it.

    The latter is known of the architectures that we test.
    """
    if type(head) is not nn.Linear:
        return False
    if model_type not in SUPPORTED_MODEL_TYPES:
        return False
    return not head.weight.requires_grad
