"""Greedy generation: its definition token by token, with and without a tree, in any batch."""

from types import SimpleNamespace

import pytest
import torch

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.generation import generate_answers, prefix_tree
from dynamicpo.scoring.shared_prefix import answer_logps
from tests.fixtures.scoring import CONFIGS, random_rows, tiny_model

END = 1
TOKENIZER = SimpleNamespace(eos_token_id=END, pad_token_id=None)
WITHOUT_END = SimpleNamespace(eos_token_id=None, pad_token_id=None)


def rows_with_end(number: int, seed: int = 0) -> list[Row]:
    rows = random_rows(number, 6, (1, 2, 3), seed)
    return [
        Row(
            row.prompt_ids,
            [[token + (token == END) for token in ids] + [END] for ids in row.answer_ids],
        )
        for row in rows
    ]


def greedy(model, prompt, limit, answers=None):
    """The definition: the most likely token, among those that lead to an answer."""
    generated = []
    while len(generated) < limit and END not in generated:
        logits = model(input_ids=torch.tensor([[*prompt, *generated]])).logits[0, -1]
        if answers is not None:
            follow = {
                ids[len(generated)]
                for ids in answers
                if ids[: len(generated)] == generated and len(ids) > len(generated)
            }
            if not follow:
                break
            logits = torch.tensor(
                [value if token in follow else -1e9 for token, value in enumerate(logits.tolist())]
            )
        generated.append(int(logits.argmax()))
    return generated


@pytest.mark.parametrize("name", CONFIGS)
def test_free_generation_is_greedy(name):
    model, rows = tiny_model(name), rows_with_end(4)
    expected = [greedy(model, row.prompt_ids, 7) for row in rows]
    assert generate_answers(model, TOKENIZER, rows, max_new_tokens=7) == expected


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_constrained_generation_is_greedy_among_the_answers(name):
    model, rows = tiny_model(name), rows_with_end(12)
    actual = generate_answers(model, TOKENIZER, rows, constrained=True)
    assert actual == [greedy(model, row.prompt_ids, 9, row.answer_ids) for row in rows]
    assert all(generated in row.answer_ids for generated, row in zip(actual, rows, strict=True))


def test_batches_change_nothing():
    model, rows = tiny_model(), rows_with_end(9)
    for constrained in (False, True):
        expected = generate_answers(model, TOKENIZER, rows, constrained)
        assert generate_answers(model, TOKENIZER, rows, constrained, token_budget=1) == expected
        assert generate_answers(model, TOKENIZER, rows[4:6], constrained) == expected[4:6]


def test_one_token_answers_without_an_end_are_ranked():
    model, rows = tiny_model(), random_rows(6, 9, (1,))
    best = answer_logps(model, rows).argmax(1).tolist()
    expected = [row.answer_ids[place] for row, place in zip(rows, best, strict=True)]
    assert generate_answers(model, WITHOUT_END, rows, constrained=True) == expected
    assert [len(generated) for generated in generate_answers(model, WITHOUT_END, rows)] == [1] * 6


def test_without_an_end_a_rows_longest_answer_is_the_limit():
    rows = [Row([5], [[2, 3], [4]]), Row([6, 7], [[2, 3, 4, 5], [6]])]
    assert list(map(len, generate_answers(tiny_model(), WITHOUT_END, rows))) == [2, 4]


def test_a_free_answer_may_be_as_long_as_the_longest_candidate():
    rows = [Row([5], [[2] * 12 + [END]])]
    assert len(generate_answers(tiny_model(), TOKENIZER, rows, max_new_tokens=3)[0]) > 3


def test_a_models_own_sampling_settings_are_ignored():
    model, rows = tiny_model(), rows_with_end(5)
    expected = generate_answers(model, TOKENIZER, rows)
    model.generation_config.do_sample, model.generation_config.temperature = True, 2.0
    model.generation_config.repetition_penalty = 5.0
    assert generate_answers(model.train(), TOKENIZER, rows) == expected
    assert model.training


def test_tree_shares_beginnings_and_refuses_answers_without_an_end():
    assert prefix_tree([[2, 3], [2, 4], [5]]) == {2: {3: {}, 4: {}}, 5: {}}
    with pytest.raises(DataError, match=r"none may be the beginning of another, \[2\] is"):
        prefix_tree([[2], [2, 4]])
