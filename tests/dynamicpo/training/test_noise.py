"""Dropout in preference training: off unless asked for, as the reference has none."""

import math
from pathlib import Path

import pytest
import transformers
from torch import nn

from dynamicpo.core.config import PreferenceConfig, SFTConfig
from dynamicpo.scoring.shared_prefix import score_rows
from dynamicpo.training.preference_batches import collate_preferences
from dynamicpo.training.preference_objective import PreferenceObjective
from dynamicpo.training.schedule import Schedule
from dynamicpo.training.step_log import StepMetrics
from dynamicpo.training.trainer import train
from tests.fixtures.scoring import VOCABULARY, preference_examples, random_rows, tiny_model

K = 3


@pytest.fixture
def gpt2() -> nn.Module:
    """As GPT-2 is shipped: a tenth of embeddings, attention and outputs is dropped."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64
    )
    assert (config.embd_pdrop, config.attn_pdrop, config.resid_pdrop) == (0.1, 0.1, 0.1)
    return tiny_model(config=config)


def steps_of(
    model: nn.Module,
    folder: Path,
    config: PreferenceConfig,
) -> list[StepMetrics]:
    rows = random_rows(8, 1 + config.num_negatives)
    reference = score_rows(model, rows)
    dataset = preference_examples(rows, reference)
    schedule = Schedule.from_config(config, learning_rate=1e-3)
    objective = PreferenceObjective(config)
    return train(model, dataset, collate_preferences, objective, schedule, folder, "test")


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    ("loss", "negatives", "expected"),
    [("dmpo", 1, math.log(2)), ("dmpo", K, math.log(2)), ("sdpo", K, math.log(1 + K))],
)
def test_the_first_loss_is_that_of_a_policy_that_equals_its_reference(
    loss: str, negatives: int, expected: float, checkpointed: bool, gpt2: nn.Module, tmp_path: Path
) -> None:
    config = PreferenceConfig(
        loss=loss,
        dynamic="none",
        num_negatives=negatives,
        max_steps=1,
        gradient_checkpointing=checkpointed,
    )
    (step,) = steps_of(gpt2, tmp_path, config)
    assert step["loss"] == pytest.approx(expected, abs=2e-5)


def test_boundary_negatives_are_chosen_from_scores_without_noise(
    gpt2: nn.Module, tmp_path: Path
) -> None:
    config = PreferenceConfig(num_negatives=K, max_steps=1)
    rows = random_rows(8, 1 + K)
    logps = score_rows(gpt2, rows)
    violations = (logps[:, 1:] >= logps[:, :1]).any(dim=1).float().mean()
    (step,) = steps_of(gpt2, tmp_path, config)
    assert step["violation_share"] == pytest.approx(float(violations))


def test_dropout_is_there_for_who_wants_it(gpt2: nn.Module, tmp_path: Path) -> None:
    config = PreferenceConfig(num_negatives=K, max_steps=1, dropout=True, dynamic="none")
    (step,) = steps_of(gpt2, tmp_path, config)
    assert abs(step["loss"] - math.log(2)) > 1e-3


def test_checkpointed_layers_are_computed_again_without_noise(
    gpt2: nn.Module, tmp_path: Path
) -> None:
    """The same weights after three steps, and each layer runs twice in a step."""
    config = PreferenceConfig(num_negatives=K, max_steps=3, gradient_checkpointing=True)
    calls: list[bool] = []
    layer = gpt2.transformer.h[0]
    layer.attn.register_forward_hook(lambda module, *_: calls.append(layer.training))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    checkpointed = steps_of(gpt2, tmp_path / "a", config)
    assert calls[-6:] == [False] * 6
    num_calls = len(calls)
    plain = steps_of(
        tiny_model(config=gpt2.config),
        tmp_path / "b",
        PreferenceConfig(num_negatives=K, max_steps=3),
    )
    assert len(calls) == num_calls
    for first, second in zip(checkpointed, plain, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], abs=1e-4)


def test_sft_keeps_its_dropout() -> None:
    assert Schedule.from_config(SFTConfig(), learning_rate=1e-3).dropout
    assert not Schedule.from_config(PreferenceConfig(), learning_rate=1e-3).dropout
