"""Greedy generation: its definition token by token, with and without a tree, in any batch."""

import pytest
import torch
from transformers import GenerationConfig

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.generation import generate_answers, prefix_tree
from dynamicpo.scoring.shared_prefix import answer_logps
from tests.fixtures.scoring import CONFIGS, random_rows, tiny_model

END = 1
ENDS = [END]
WITHOUT_END: list[int] = []


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
    assert generate_answers(model, ENDS, rows, max_new_tokens=7) == expected


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_constrained_generation_is_greedy_among_the_answers(name):
    model, rows = tiny_model(name), rows_with_end(12)
    actual = generate_answers(model, ENDS, rows, constrained=True)
    assert actual == [greedy(model, row.prompt_ids, 9, row.answer_ids) for row in rows]
    assert all(generated in row.answer_ids for generated, row in zip(actual, rows, strict=True))


def test_batches_change_nothing():
    model, rows = tiny_model(), rows_with_end(9)
    for constrained in (False, True):
        expected = generate_answers(model, ENDS, rows, constrained)
        assert generate_answers(model, ENDS, rows, constrained, token_budget=1) == expected
        assert generate_answers(model, ENDS, rows[4:6], constrained) == expected[4:6]


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
    assert len(generate_answers(tiny_model(), ENDS, rows, max_new_tokens=3)[0]) > 3


OWN_SETTINGS = {
    "do_sample": True,
    "temperature": 2.0,
    "repetition_penalty": 5.0,
    "suppress_tokens": [*range(2, 60)],
    "begin_suppress_tokens": [*range(60, 97)],
    "bad_words_ids": [[token] for token in range(20, 90)],
    "guidance_scale": 3.0,
    "max_time": 1e-9,
    "min_length": 60,
    "min_new_tokens": 9,
    "stop_strings": ["a"],
    "forced_eos_token_id": 7,
    "sequence_bias": [[[5], 50.0]],
    "no_repeat_ngram_size": 1,
    "num_beams": 3,
}


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("name", OWN_SETTINGS)
def test_a_models_own_settings_are_ignored(name, constrained):
    model, rows = tiny_model(), rows_with_end(5)
    limit = 9 if constrained else 7
    answers = [row.answer_ids if constrained else None for row in rows]
    expected = [
        greedy(model, row.prompt_ids, limit, among)
        for row, among in zip(rows, answers, strict=True)
    ]
    own = GenerationConfig(**{name: OWN_SETTINGS[name]})
    model.generation_config = own
    actual = generate_answers(model.train(), ENDS, rows, constrained, max_new_tokens=7)
    assert actual == expected
    assert model.training and model.generation_config is own


def test_an_end_of_several_tokens_ends_an_answer():
    model = tiny_model()
    rows = random_rows(5, 2, (3,))
    generated = [greedy(model, row.prompt_ids, 12) for row in rows]
    end = generated[0][1:3]
    expected = []
    for said in generated:
        stops = [stop for stop in range(2, 13) if said[stop - 2 : stop] == end]
        expected.append(said[: min(stops, default=12)])
    actual = generate_answers(model, end, rows, max_new_tokens=12)
    assert actual == expected
    assert {len(tokens) for tokens in actual} > {12}


def test_tree_shares_beginnings_and_refuses_answers_without_an_end():
    assert prefix_tree([[2, 3], [2, 4], [5]]) == {2: {3: {}, 4: {}}, 5: {}}
    with pytest.raises(DataError, match=r"none may be the beginning of another, \[2\] is"):
        prefix_tree([[2], [2, 4]])
