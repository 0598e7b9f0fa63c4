"""The likelihood term of preference training: off by default, exact however rows are scored."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from dynamicpo.core.config import PreferenceConfig
from dynamicpo.core.errors import ConfigError
from dynamicpo.core.records.rows import Row
from dynamicpo.objective import preference_losses
from dynamicpo.scoring.shared_prefix import answer_logps, score_rows
from dynamicpo.training.batches import BatchLoss
from dynamicpo.training.preference_batches import PreferenceBatch, collate_preferences
from dynamicpo.training.preference_objective import PreferenceObjective
from dynamicpo.training.schedule import Schedule
from dynamicpo.training.step_log import StepMetrics
from dynamicpo.training.trainer import train
from tests.fixtures.scoring import preference_examples, random_rows, tiny_model

K = 3
NUM_ROWS = 6
CONFIG = PreferenceConfig(num_negatives=K, loss="dmpo", dynamic="none")


@pytest.fixture
def rows() -> Sequence[Row]:
    """Answers of several tokens, which share their prompt."""
    return random_rows(NUM_ROWS, 1 + K)


def batch_of(rows: Sequence[Row], reference: Tensor) -> PreferenceBatch:
    return {
        "rows": list(rows),
        "example_ids": [str(index) for index in range(len(rows))],
        "labels": torch.zeros(len(rows), dtype=torch.long),
        "reference_logps": reference,
    }


def gradients_of(
    model: nn.Module, rows: Sequence[Row], config: PreferenceConfig
) -> tuple[BatchLoss, Mapping[str, Tensor]]:
    reference = torch.full((len(rows), 1 + K), -10.0)
    model.zero_grad()
    result = PreferenceObjective(config)(model, batch_of(rows, reference))
    result.total.backward()
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return result, gradients


def test_the_loss_is_the_preference_loss_plus_the_weighted_likelihood(rows) -> None:
    model = tiny_model()
    logps = score_rows(model, rows)
    reference = torch.full((NUM_ROWS, 1 + K), -10.0)
    plain = preference_losses(
        logps[:, 0], logps[:, 1:], reference[:, 0], reference[:, 1:], loss="dmpo", dynamic=False
    ).losses.sum()
    likelihood = -0.5 * logps[:, 0].sum()
    config = dataclasses.replace(CONFIG, sft_weight=0.5)
    result, _ = gradients_of(model, rows, config)
    assert_close(result.total.detach(), plain + likelihood, rtol=1e-5, atol=1e-5)
    expected_share = likelihood / (plain + likelihood)
    assert result.metrics["sft_loss_share"].item() == pytest.approx(float(expected_share), rel=1e-5)


@pytest.mark.parametrize("loss", ["dmpo", "sdpo"])
@pytest.mark.parametrize("dynamic", ["none", "full"])
def test_its_gradient_is_that_of_plain_scoring_where_the_prompt_is_shared(
    loss: str, dynamic: str, rows
) -> None:
    config = dataclasses.replace(CONFIG, loss=loss, dynamic=dynamic, sft_weight=0.7)
    model = tiny_model()
    shared, shared_gradients = gradients_of(
        model, rows, dataclasses.replace(config, backend="sdpa")
    )
    plain, plain_gradients = gradients_of(model, rows, dataclasses.replace(config, backend="plain"))
    assert_close(shared.total, plain.total, rtol=1e-5, atol=1e-5)
    assert shared_gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        assert_close(shared_gradients[name], gradient, rtol=1e-3, atol=1e-4)


def test_it_reaches_the_chosen_answer_alone(rows) -> None:
    """The gradient's growth is that of the chosen answers' likelihood, worked out by itself."""
    model = tiny_model()
    _, without = gradients_of(model, rows, CONFIG)
    _, with_term = gradients_of(model, rows, dataclasses.replace(CONFIG, sft_weight=2.0))
    chosen = [Row(row.prompt_ids, row.answer_ids[:1]) for row in rows]
    model.zero_grad()
    (-2.0 * answer_logps(model, chosen).sum()).backward()
    for name, parameter in model.named_parameters():
        assert_close(with_term[name] - without[name], parameter.grad, rtol=1e-3, atol=1e-3)


def test_without_it_a_step_logs_what_it_did_before(rows) -> None:
    model = tiny_model()
    plain, gradients = gradients_of(model, rows, CONFIG)
    zero, zero_gradients = gradients_of(model, rows, dataclasses.replace(CONFIG, sft_weight=0.0))
    assert "sft_loss_share" not in plain.metrics
    assert plain.total.equal(zero.total)
    assert all(gradients[name].equal(zero_gradients[name]) for name in gradients)


def test_simpo_takes_the_sum_over_tokens_not_their_mean(rows) -> None:
    model = tiny_model()
    config = dataclasses.replace(CONFIG, loss="simpo")
    batch = batch_of(rows, torch.zeros(0))
    del batch["reference_logps"]
    plain = PreferenceObjective(config)(model, batch)
    with_term = PreferenceObjective(dataclasses.replace(config, sft_weight=0.5))(model, batch)
    chosen = score_rows(model, rows)[:, 0].sum()
    assert_close((with_term.total - plain.total).detach(), -0.5 * chosen, rtol=1e-4, atol=1e-3)


def steps_of(folder: Path, rows: Sequence[Row], config: PreferenceConfig) -> list[StepMetrics]:
    model = tiny_model()
    folder.mkdir()
    dataset = preference_examples(rows, score_rows(model, rows))
    schedule = Schedule.from_config(config, learning_rate=1e-2)
    objective = PreferenceObjective(config)
    return train(model, dataset, collate_preferences, objective, schedule, folder, "test")


def test_training_with_it_keeps_the_chosen_answers_likely(rows, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, max_steps=15, batch_size=NUM_ROWS)
    plain = steps_of(tmp_path / "plain", rows, config)
    with_term = steps_of(tmp_path / "term", rows, dataclasses.replace(config, sft_weight=1.0))
    assert with_term[-1]["logps/chosen"] > plain[-1]["logps/chosen"] + 0.5
    # The first loss: log 2 of the preference, and the rest is the likelihood.
    first = with_term[0]
    share = 1 - math.log(2) / first["loss"]
    assert first["sft_loss_share"] == pytest.approx(share, abs=1e-4)


def test_micro_batches_of_unequal_answers_equal_one_batch(rows, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, max_steps=3, batch_size=NUM_ROWS, sft_weight=0.5)
    whole = steps_of(tmp_path / "whole", rows, config)
    parts = steps_of(tmp_path / "parts", rows, dataclasses.replace(config, micro_batch_size=2))
    for one, other in zip(whole, parts, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_that_is_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="sft_weight: must be"):
        PreferenceConfig(sft_weight=weight)
