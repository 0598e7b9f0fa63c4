"""Every item by a tree of tokens gives what each answer alone gives, on every architecture."""

import logging
import random

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from dynamicpo.core.errors import ConfigError
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring import catalogue_scoring
from dynamicpo.scoring.catalogue_scoring import CachedPrompt, catalogue_scores
from dynamicpo.scoring.shared_prefix import token_logps
from dynamicpo.scoring.token_trie import make_trie
from tests.dynamicpo.scoring.test_shared_prefix import with_lora
from tests.fixtures.scoring import CONFIGS, VOCABULARY, defined_logps, tiny_model


def titles(number: int = 60, seed: int = 0) -> list[list[int]]:
    """Answers of 1 to 7 tokens: many begin alike, one begins another, and two are equal."""
    draw = random.Random(seed)
    random_answers = [
        [draw.randrange(4), *(draw.randrange(3) for _ in range(draw.randrange(7)))]
        for _ in range(number - 3)
    ]
    return [*random_answers, [90, 91, 92, 93], [90, 91], [90, 91]]


def prompts(number: int = 4, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 20))] for _ in range(number)]


def defined(model: nn.Module, answers: list[list[int]]) -> np.ndarray:
    with torch.no_grad():
        return defined_logps(model, [Row(prompt, answers) for prompt in prompts()]).numpy()


def scores(model: nn.Module, answers: list[list[int]], **more: object) -> np.ndarray:
    return np.concatenate(list(catalogue_scores(model, prompts(), answers, **more)))


@pytest.mark.parametrize("at_once", [512, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_scores_as_defined(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue_scoring, "NODES_AT_ONCE", at_once)
    model = tiny_model(name)
    actual = scores(model, titles())
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, defined(model, titles()), atol=1e-5, rtol=1e-6)
    assert (actual[:, -1] == actual[:, -2]).all()


def test_adapters_are_scored_too() -> None:
    model = with_lora(tiny_model()).eval()
    np.testing.assert_allclose(
        scores(model, titles()), defined(model, titles()), atol=1e-5, rtol=1e-6
    )


def test_ranks_stay_exact_where_hopeless_branches_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, answers = tiny_model(), titles(200)
    expected = defined(model, answers)
    evaluated: list[int] = []
    original = token_logps
    monkeypatch.setattr(
        catalogue_scoring,
        "token_logps",
        lambda *a, **b: evaluated.append(a[1].shape[1]) or original(*a, **b),
    )
    scores(model, answers)
    all_tokens, saved = sum(evaluated), 0
    for target in (int(expected[0].argmax()), 0, 17, 100):
        evaluated.clear()
        actual = scores(model, answers, targets=[target] * 4)
        saved += all_tokens - sum(evaluated)
        for ours, theirs in zip(actual, expected, strict=True):
            above = theirs >= theirs[target]
            np.testing.assert_allclose(ours[above], theirs[above], atol=1e-5, rtol=1e-6)
            assert (ours[~above] <= theirs[target]).all()
            assert ours[~above & np.isfinite(ours)] == pytest.approx(
                theirs[~above & np.isfinite(ours)], abs=1e-5
            )
    assert saved > all_tokens


def test_a_floor_leaves_out_what_is_below_it_and_nothing_else() -> None:
    model, tree = tiny_model(), make_trie(titles())
    with torch.no_grad():
        prompt = CachedPrompt(model, prompts()[0], tree.levels[0].tokens)
        all_scores = prompt.scores(tree)
        floor = float(np.median(all_scores))
        some = prompt.scores(tree, floor)
        again = prompt.scores(tree)
    assert np.isneginf(some).any()
    assert (all_scores[np.isneginf(some)] < floor).all()
    assert (again == all_scores).all()


@pytest.mark.parametrize("budget", [8192, 40, 1])
def test_items_of_one_token_take_one_softmax(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, answers = tiny_model(), [[token] for token in (5, 3, 96, 3, 40)]
    calls = []
    original = token_logps
    monkeypatch.setattr(
        catalogue_scoring,
        "token_logps",
        lambda *a, **b: calls.append(a[1].shape) or original(*a, **b),
    )
    blocks = list(catalogue_scores(model, prompts(), answers, token_budget=budget))
    np.testing.assert_allclose(
        np.concatenate(blocks), defined(model, answers), atol=1e-5, rtol=1e-6
    )
    assert sum(shape[0] for shape in calls) == 4
    assert len(calls) == (1 if budget == 8192 else 2 if budget == 40 else 4)


def test_a_model_that_cannot_share_prompts_is_scored_the_plain_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = transformers.OPTConfig(
        vocab_size=VOCABULARY, hidden_size=32, ffn_dim=32, num_hidden_layers=1,
        num_attention_heads=2, word_embed_proj_dim=32,
    )  # fmt: skip
    model = tiny_model(config=config)
    with caplog.at_level(logging.WARNING):
        actual = scores(model, titles(20))
    np.testing.assert_allclose(actual, defined(model, titles(20)), atol=1e-5, rtol=1e-6)
    np.testing.assert_allclose(
        scores(tiny_model(), titles(20), backend="plain"),
        defined(tiny_model(), titles(20)),
        atol=1e-5,
    )
    with pytest.raises(ConfigError, match="backend: sdpa can't score this model"):
        scores(model, titles(20), backend="sdpa")


def test_nothing_is_left_out_for_a_score_that_is_not_a_number() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[0] = float("nan")
    assert np.isnan(scores(model, titles(), targets=[0] * 4)).all()


def test_training_mode_comes_back_and_dropout_is_off() -> None:
    model = tiny_model("gpt2")
    expected = scores(model, titles())
    model.train()
    np.testing.assert_array_equal(scores(model, titles()), expected)
    assert model.training


def test_no_prompts_no_scores() -> None:
    assert list(catalogue_scores(tiny_model(), [], titles())) == []
