"""Answers by greedy generation, free or constrained to a row's own answers by a token trie."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from dynamicpo.core.errors import DataError
from dynamicpo.core.progress import Progress
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.packing import batches, check_rows

Trie = dict[int, Any]  # a token to what may follow it; nothing follows an answer's last token


@torch.no_grad()
def generate_answers(
    model: nn.Module,
    tokenizer: Any,
    rows: Sequence[Row],
    constrained: bool = False,
    max_new_tokens: int = 32,
    token_budget: int = 8192,
    label: str = "generating",
) -> list[list[int]]:
    """The most likely next token, again and again, in batches of like length with a cache of keys and values.

    Args:
        model: A causal LM; dropout is off meanwhile.
        tokenizer: Its end-of-sequence token ends an answer. Without one, a row's longest answer is the limit.
        rows: Prompts, and the answers that a constrained generation chooses from.
        constrained: Only tokens that lead to one of the row's answers are allowed.
        max_new_tokens: A free answer is cut after this many tokens, or after the row's longest answer if that is more.
        token_budget: Prompt tokens generated from at once, padding included.
        label: What progress calls it.

    Returns:
        For each row the tokens that were generated, the end-of-sequence token included.

    Raises:
        DataError: An empty prompt or answer, or (constrained) an answer that another one starts with.
        ShapeError: Unequal numbers of answers.
    """
    check_rows(rows)
    tries = [token_trie(row.answer_ids) for row in rows] if constrained else []
    result: list[list[int]] = [[]] * len(rows)
    was_training = model.training
    model.eval()
    try:
        with Progress(label, len(rows)) as counter:
            for part in batches([len(row.prompt_ids) for row in rows], token_budget, padded=True):
                least = 0 if constrained or tokenizer.eos_token_id is None else max_new_tokens
                limits = [max(least, *map(len, rows[place].answer_ids)) for place in part]
                prompts = [rows[place].prompt_ids for place in part]
                follow = [tries[place] for place in part] if constrained else None
                said = _generate(model, tokenizer, prompts, max(limits), follow)
                for place, tokens, limit in zip(part, said, limits, strict=True):
                    result[place] = _ended(
                        tokens[:limit],
                        tokenizer.eos_token_id,
                        tries[place] if constrained else None,
                    )
                counter.advance(len(part))
    finally:
        model.train(was_training)
    return result


def token_trie(answers: Sequence[Sequence[int]]) -> Trie:
    """The answers as a tree of tokens.

    Raises:
        DataError: An answer is the beginning of another, so that its end can't be told.
    """
    root: Trie = {}
    for answer in answers:
        node = root
        for token in answer:
            node = node.setdefault(token, {})
    for answer in answers:
        if _after(root, answer):
            raise DataError(
                f"answers: none may be the beginning of another, {list(answer)} is. Append an end-of-sequence token."
            )
    return root


def _after(trie: Trie, tokens: Sequence[int]) -> Trie:
    """What may follow; nothing after a whole answer or tokens that belong to none."""
    for token in tokens:
        trie = trie.get(token, {})
    return trie


def _generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    limit: int,
    tries: Sequence[Trie] | None,
) -> list[list[int]]:
    """Generated tokens of each prompt, up to `limit`, with whatever stands behind their end."""
    width = max(map(len, prompts))
    fill = (
        tokenizer.pad_token_id
        if tokenizer.pad_token_id is not None
        else tokenizer.eos_token_id or 0
    )
    device = next(model.parameters()).device
    token_ids = torch.full((len(prompts), width), fill)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for place, prompt in enumerate(prompts):
        token_ids[place, width - len(prompt) :] = torch.tensor(prompt)
        mask[place, width - len(prompt) :] = 1
    settings = GenerationConfig(
        max_new_tokens=limit,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=fill,
    )
    allowed: Callable[[int, Tensor], list[int]] | None = None
    if tries is not None:
        known = tries

        def allowed(place: int, tokens: Tensor) -> list[int]:
            return list(_after(known[place], tokens[width:].tolist())) or [fill]

    tokens: Tensor = model.generate(
        input_ids=token_ids.to(device),
        attention_mask=mask.to(device),
        generation_config=settings,
        prefix_allowed_tokens_fn=allowed,
    )
    said: list[list[int]] = tokens[:, width:].tolist()
    return said


def _ended(tokens: list[int], end: int | None, trie: Trie | None) -> list[int]:
    """The tokens up to the end of the answer."""
    for place, token in enumerate(tokens):
        if trie is not None:
            trie = trie[token]
        if token == end or (trie is not None and not trie):
            return tokens[: place + 1]
    return tokens
