"""Answers by greedy generation, free or constrained to a row's own answers by a prefix tree."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin

from dynamicpo.core.errors import DataError
from dynamicpo.core.progress import Progress
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.packing import batches, check_rows

# A token to the tree of what may follow it; nothing follows an answer's last token.
PrefixTree: TypeAlias = dict[int, "PrefixTree"]


class SpecialTokens(Protocol):
    """The tokens that generation needs from a tokenizer."""

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends an answer."""

    @property
    def pad_token_id(self) -> int | None:
        """The token that fills up a batch."""


@torch.no_grad()
def generate_answers(
    model: nn.Module,
    tokenizer: SpecialTokens,
    rows: Sequence[Row],
    constrained: bool = False,
    max_new_tokens: int = 32,
    token_budget: int = 8192,
    label: str = "generating",
) -> list[list[int]]:
    """Generate the most likely next token, again and again, with a cache of keys and values.

    Args:
        model: A causal LM; dropout is off meanwhile.
        tokenizer: Its end-of-sequence token ends an answer. Without one, a row's longest answer is
            the limit.
        rows: Prompts, and the answers that a constrained generation chooses from.
        constrained: Only tokens that lead to one of the row's answers are allowed.
        max_new_tokens: A free answer is cut after this many tokens, or after the row's longest
            answer if that is more.
        token_budget: Prompt tokens generated from at once, padding included.
        label: The name of the work in progress reports.

    Returns:
        For each row the tokens that were generated, the end-of-sequence token included.

    Raises:
        DataError: An empty prompt or answer, or (constrained) an answer that another one starts
            with.
        ShapeError: Unequal numbers of answers.
    """
    check_rows(rows)
    has_end = tokenizer.eos_token_id is not None
    is_free = has_end and not constrained
    least_limit = max_new_tokens if is_free else 0
    requests = [_request(row, least_limit, constrained) for row in rows]
    prompt_lengths = [len(row.prompt_ids) for row in rows]
    result: list[list[int]] = [[]] * len(rows)
    was_training = model.training
    model.eval()
    try:
        with Progress(label, len(rows)) as counter:
            for batch in batches(prompt_lengths, token_budget, padded=True):
                batch_requests = [requests[index] for index in batch]
                outputs = _generate(model, tokenizer, batch_requests)
                for index, output in zip(batch, outputs, strict=True):
                    result[index] = output
                counter.advance(len(batch))
    finally:
        model.train(was_training)
    return result


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


def _request(row: Row, least_limit: int, constrained: bool) -> _Request:
    tree = prefix_tree(row.answer_ids) if constrained else None
    longest_answer = max(map(len, row.answer_ids))
    limit = max(least_limit, longest_answer)
    return _Request(row.prompt_ids, limit, tree)


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
    model: nn.Module, tokenizer: SpecialTokens, requests: Sequence[_Request]
) -> list[list[int]]:
    """Generate for a batch."""
    end = tokenizer.eos_token_id
    padding = _padding_token(tokenizer)
    device = next(model.parameters()).device
    prompts = [request.prompt for request in requests]
    token_ids, mask = _pad_left(prompts, padding)
    prompt_length = token_ids.shape[1]
    limit = max(request.limit for request in requests)
    trees = [request.tree for request in requests if request.tree is not None]
    constraint = _Constraint(trees, prompt_length, padding) if trees else None
    sequences = _language_model(model).generate(
        input_ids=token_ids.to(device),
        attention_mask=mask.to(device),
        generation_config=_greedy(limit, end, padding),
        prefix_allowed_tokens_fn=constraint,
    )
    outputs: list[list[int]] = sequences[:, prompt_length:].tolist()
    result = []
    for output, request in zip(outputs, requests, strict=True):
        answer = output[: request.limit]
        result.append(_cut_after_end(answer, end, request.tree))
    return result


def _padding_token(tokenizer: SpecialTokens) -> int:
    if tokenizer.pad_token_id is not None:
        return tokenizer.pad_token_id
    # Padding is masked: without a token for it, any does.
    return tokenizer.eos_token_id or 0


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


def _greedy(limit: int, end: int | None, padding: int) -> GenerationConfig:
    # All of these are set, as a model's own generation settings hold for what isn't.
    return GenerationConfig(
        max_new_tokens=limit,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        eos_token_id=end,
        pad_token_id=padding,
    )


def _language_model(model: nn.Module) -> GenerationMixin:
    """The model as what it is: PEFT's models generate, too, but share no class with the others."""
    return model


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


def _cut_after_end(tokens: list[int], end: int | None, tree: PrefixTree | None) -> list[int]:
    """Leave out what stands behind the end of the answer."""
    for index, token in enumerate(tokens):
        if tree is not None:
            tree = tree[token]
        is_complete = tree is not None and not tree
        if token == end or is_complete:
            return tokens[: index + 1]
    return tokens
