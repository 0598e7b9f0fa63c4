"""Answers by greedy generation, free or constrained to a row's own answers by a prefix tree."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from itertools import groupby
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from dynamicpo.core.errors import DataError
from dynamicpo.core.progress import Progress
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.packing import batches, check_rows
from dynamicpo.scoring.positions import check_positions, position_limit
from dynamicpo.scoring.shards import LongWork, ScoredRows, Shards, rows_left
from dynamicpo.scoring.transformers_internals import causal_lm

# A token to the tree of what may follow it; nothing follows an answer's last token.
PrefixTree: TypeAlias = dict[int, "PrefixTree"]
# Of a shard: answers, filled up to one length.
_TOKENS = "tokens"
_NO_TOKEN = -1
_GENERATING = LongWork("generating")


@torch.no_grad()
def generate_answers(
    model: nn.Module,
    end_ids: Sequence[int],
    rows: Sequence[Row],
    constrained: bool = False,
    max_new_tokens: int = 32,
    token_budget: int = 8192,
    work: LongWork = _GENERATING,
) -> list[list[int]]:
    """Generate the most likely next token, again and again, with a cache of keys and values.

    Args:
        model: A causal LM; dropout is off meanwhile.
        end_ids: The tokens that end an answer. Without any, a row's longest answer is the limit.
        rows: Prompts, and the answers that a constrained generation chooses from.
        constrained: Only tokens that lead to one of the row's answers are allowed.
        max_new_tokens: A free answer is cut after this many tokens, or after the row's longest
            answer if that is more; and where the model has no more positions.
        token_budget: Prompt tokens generated from at once, padding included.
        work: Its name, and what is kept of it.

    Returns:
        For each row the tokens that were generated, those of its end included.

    Raises:
        DataError: An empty prompt or answer, more tokens than the model has positions, or
            (constrained) an answer that another one starts with.
        ShapeError: Unequal numbers of answers.
    """
    check_rows(rows)
    is_free = bool(end_ids) and not constrained
    least_limit = max_new_tokens if is_free else 0
    requests = [_request(model, row, least_limit, constrained) for row in rows]
    result: list[list[int]] = [[]] * len(rows)
    left: Sequence[Sequence[int]] = _batches(model, requests, token_budget)
    longest = max(request.limit for request in requests)
    label, shards = work
    if shards is not None:
        left = _take_finished(shards, left, result, longest)
    was_training = model.training
    model.eval()
    try:
        with Progress(label, len(rows)) as counter:
            num_left = sum(map(len, left))
            counter.skip(len(rows) - num_left)
            for batch in left:
                batch_requests = [requests[index] for index in batch]
                outputs = _generate(causal_lm(model), end_ids, batch_requests)
                for index, output in zip(batch, outputs, strict=True):
                    result[index] = output
                counter.advance(len(batch))
                if shards is not None:
                    shards.add(_shard_rows(batch, outputs, longest))
    finally:
        model.train(was_training)
    return result


def _take_finished(
    shards: Shards, batches: Sequence[Sequence[int]], result: list[list[int]], longest: int
) -> list[Sequence[int]]:
    """Put finished answers into the result. Returns the batches that are left."""
    none = torch.zeros(0, longest, dtype=torch.int64)
    known = shards.finished(len(result), {_TOKENS: none})
    numbers = known.numbers.tolist()
    answers = known.columns[_TOKENS]
    for index, padded in zip(numbers, answers, strict=True):
        is_token = padded != _NO_TOKEN
        result[index] = padded[is_token].tolist()
    return rows_left(batches, known.numbers)


def _shard_rows(batch: Sequence[int], outputs: Sequence[Sequence[int]], longest: int) -> ScoredRows:
    numbers = torch.tensor(batch)
    shape = (len(batch), longest)
    padded = torch.full(shape, _NO_TOKEN)
    for row, tokens in zip(padded, outputs, strict=True):
        num_tokens = len(tokens)
        row[:num_tokens] = torch.tensor(tokens)
    return ScoredRows(numbers, {_TOKENS: padded})


class _Request(NamedTuple):
    """A row's prompt, and the limits of its answer.

    Attributes:
        prompt: Token ids.
        limit: Most tokens of the answer.
        tree: The answers it must be one of; None: it is free.
    """

    prompt: Sequence[int]
    limit: int
    tree: PrefixTree | None


def _request(model: nn.Module, row: Row, least_limit: int, constrained: bool) -> _Request:
    tree = prefix_tree(row.answer_ids) if constrained else None
    prompt_length = len(row.prompt_ids)
    longest_answer = max(map(len, row.answer_ids))
    # The last token is never an input.
    check_positions(model, prompt_length + longest_answer - 1)
    limit = max(least_limit, longest_answer)
    positions = position_limit(model)
    if positions is not None:
        limit = min(limit, positions.number - prompt_length + 1)
    return _Request(row.prompt_ids, limit, tree)


def _batches(model: nn.Module, requests: Sequence[_Request], token_budget: int) -> list[list[int]]:
    """Group requests of similar prompts; each is alone where a batch would need more positions."""
    prompt_lengths = [len(request.prompt) for request in requests]
    result = batches(prompt_lengths, token_budget, padded=True)
    # Models that aren't told positions count padding, too: for them there must be none.
    if "position_ids" not in signature(causal_lm(model).forward).parameters:
        result = [
            list(group)
            for batch in result
            for _, group in groupby(batch, key=prompt_lengths.__getitem__)
        ]
    positions = position_limit(model)
    longest_answer = max(request.limit for request in requests)
    most_tokens = max(prompt_lengths) + longest_answer - 1
    if positions is not None and most_tokens > positions.number:
        return [[index] for index in range(len(requests))]
    return result


def prefix_tree(answers: Sequence[Sequence[int]]) -> PrefixTree:
    """Build a tree of tokens in which the answers are the paths to the leaves.

    Raises:
        DataError: An answer is the beginning of another, so that its end can't be told.
    """
    root: PrefixTree = {}
    for answer in answers:
        node = root
        for token in answer:
            node = node.setdefault(token, {})
    for answer in answers:
        if _continuations(root, answer):
            raise DataError(
                f"answers: none may be the beginning of another, {list(answer)} is. "
                "Append an end-of-sequence token."
            )
    return root


def _continuations(tree: PrefixTree, tokens: Sequence[int]) -> PrefixTree:
    """Walk along tokens; nothing follows a complete answer or tokens that belong to none."""
    for token in tokens:
        tree = tree.get(token, {})
    return tree


def _generate(
    model: PreTrainedModel, end_ids: Sequence[int], requests: Sequence[_Request]
) -> list[list[int]]:
    """Generate for a batch."""
    # Padding is masked: any token does.
    padding = end_ids[-1] if end_ids else 0
    device = next(model.parameters()).device
    prompts = [request.prompt for request in requests]
    token_ids, mask = _pad_left(prompts, padding)
    prompt_length = token_ids.shape[1]
    limit = max(request.limit for request in requests)
    trees = [request.tree for request in requests if request.tree is not None]
    constraint = _Constraint(trees, prompt_length, padding) if trees else None
    ends = [_EndTokens(end_ids, prompt_length)] if len(end_ids) > 1 else []
    with _without_own_settings(model):
        sequences = model.generate(
            input_ids=token_ids.to(device),
            attention_mask=mask.to(device),
            generation_config=_greedy(limit, end_ids, padding),
            prefix_allowed_tokens_fn=constraint,
            stopping_criteria=StoppingCriteriaList(ends),
        )
    outputs: list[list[int]] = sequences[:, prompt_length:].tolist()
    result = []
    for output, request in zip(outputs, requests, strict=True):
        answer = output[: request.limit]
        result.append(_cut_after_end(answer, end_ids, request.tree))
    return result


@contextmanager
def _without_own_settings(model: PreTrainedModel) -> Iterator[None]:
    """Take a model's own generation settings away, as those that we don't set would hold."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


class _EndTokens(StoppingCriteria):  # type: ignore[misc]
    """Tells which rows have ended, where an end is more than one token."""

    def __init__(self, end_ids: Sequence[int], prompt_length: int) -> None:
        self._end = torch.tensor(end_ids)
        self._prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        end = self._end.to(input_ids.device)
        generated = input_ids[:, self._prompt_length :]
        if generated.shape[1] < len(end):
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        windows = generated.unfold(1, len(end), 1)
        return (windows == end).all(dim=2).any(dim=1)


def _pad_left(prompts: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Lay prompts out, so that all of them end where generation starts: token ids and mask."""
    width = max(map(len, prompts))
    shape = (len(prompts), width)
    token_ids = torch.full(shape, padding)
    mask = torch.zeros(shape, dtype=torch.long)
    for index, prompt in enumerate(prompts):
        start = width - len(prompt)
        token_ids[index, start:] = torch.tensor(prompt)
        mask[index, start:] = 1
    return token_ids, mask


def _greedy(limit: int, end_ids: Sequence[int], padding: int) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=limit,
        do_sample=False,
        use_cache=True,
        # A list would mean that any of its tokens ends an answer.
        eos_token_id=end_ids[0] if len(end_ids) == 1 else None,
        pad_token_id=padding,
    )


class _Constraint:
    """The tokens that lead to one of a row's answers, as `generate` asks for them."""

    def __init__(self, trees: Sequence[PrefixTree], prompt_length: int, padding: int) -> None:
        self._trees = trees
        self._prompt_length = prompt_length
        self._padding = padding

    def __call__(self, batch_index: int, tokens: Tensor) -> list[int]:
        tree = self._trees[batch_index]
        generated = tokens[self._prompt_length :].tolist()
        allowed = list(_continuations(tree, generated))
        # Something must be allowed behind a complete answer, while others of the batch go on.
        return allowed or [self._padding]


def _cut_after_end(tokens: list[int], end_ids: Sequence[int], tree: PrefixTree | None) -> list[int]:
    """Leave out what stands behind the end of the answer."""
    for index, token in enumerate(tokens):
        if tree is not None:
            tree = tree[token]
        is_complete = tree is not None and not tree
        if is_complete or ends_with(tokens[: index + 1], end_ids):
            return tokens[: index + 1]
    return tokens


def ends_with(tokens: Sequence[int], end_ids: Sequence[int]) -> bool:
    """Tell whether an answer has its end."""
    return bool(end_ids) and list(tokens[-len(end_ids) :]) == list(end_ids)
