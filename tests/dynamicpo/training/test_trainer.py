"""The trainer of transformers with losses of ours, schedules and batches."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from dynamicpo.core.config import PreferenceConfig, SFTConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import Row
from dynamicpo.models.backbones import COMPACT, BaseModelSpec
from dynamicpo.models.base_models import load_base_model
from dynamicpo.scoring.transformers_internals import use_one_gpu
from dynamicpo.training import preference_batches, sft_batches
from dynamicpo.training.batches import IGNORED_LABEL, BatchLoss
from dynamicpo.training.schedule import Schedule
from dynamicpo.training.sft_batches import SFTBatch, SFTExample
from dynamicpo.training.trainer import final_mean, train


@pytest.fixture
def model() -> nn.Module:
    return load_base_model(BaseModelSpec(COMPACT, items=("a", "b")))[0]


def schedule(**changes: float) -> Schedule:
    return Schedule.from_config(SFTConfig(**changes), learning_rate=0.1)


def sft_examples(*labels: list[int]) -> list[SFTExample]:
    """Rows with these labels."""
    return [
        {"example_id": f"row-{index}", "input_ids": [0] * len(row), "labels": row}
        for index, row in enumerate(labels)
    ]


def sum_of_labels(model: nn.Module, batch: SFTBatch) -> BatchLoss:
    """A loss whose gradient of each weight is the sum of the labels that count."""
    labels = batch["labels"]
    counted = torch.where(labels == IGNORED_LABEL, 0, labels).sum()
    weights = sum((parameter.sum() for parameter in model.parameters()), torch.tensor(0.0))
    return BatchLoss(counted * (1 + 0 * weights), {"counted": counted.detach()})


def test_a_step_divides_by_the_labels_of_all_its_micro_batches(
    model: nn.Module, tmp_path: Path
) -> None:
    """Labels at the first position count, which transformers would leave out."""
    ignored = IGNORED_LABEL
    labels = [[ignored, 6], [ignored, ignored, 3], [ignored, 9], [ignored, 2, 4]]
    rows = sft_examples(*labels)
    seen: list[Tensor] = []
    divisors: list[Tensor] = []

    def loss(model: nn.Module, batch: SFTBatch) -> BatchLoss:
        result = sum_of_labels(model, batch)
        total = result.total.clone()
        # The gradient of the sum is 1 over the divisor.
        total.register_hook(lambda gradient: divisors.append(1 / gradient))
        seen.append(result.metrics["counted"])
        return BatchLoss(total, result.metrics)

    config = schedule(batch_size=4, micro_batch_size=2, max_steps=1)
    steps = train(model, rows, sft_batches.collate_sft, loss, config, tmp_path, "test")
    # The first pass, of one row, estimates the memory.
    assert len(seen) == 3 and [float(divisor) for divisor in divisors] == pytest.approx([5, 5])
    assert steps[0]["loss"] == pytest.approx(24 / 5)


def test_losses_that_are_not_finite_stop_training(model: nn.Module, tmp_path: Path) -> None:
    rows = sft_examples([IGNORED_LABEL, 2])

    def loss(model: nn.Module, batch: SFTBatch) -> BatchLoss:
        return BatchLoss(sum_of_labels(model, batch).total * math.inf, {})

    with pytest.raises(DataError, match="step 1: the loss must be finite, got inf"):
        train(model, rows, sft_batches.collate_sft, loss, schedule(), tmp_path, "test")
    assert not (tmp_path / "steps.jsonl").exists()


def test_steps_of_a_schedule() -> None:
    assert schedule(batch_size=8).num_steps(17) == 3
    assert schedule(batch_size=8, epochs=2.5).num_steps(16) == 5
    assert schedule(batch_size=8, epochs=0.01).num_steps(17) == 1
    assert schedule(batch_size=8, max_steps=7).num_steps(17) == 7


def test_micro_batches_are_never_larger_than_a_batch_and_fill_it() -> None:
    assert schedule(batch_size=8).micro_batch_size == 8
    assert schedule(batch_size=8, micro_batch_size=32).micro_batch_size == 8
    with pytest.raises(DataError, match=r"multiple of micro_batch_size \(3\), got 8"):
        schedule(batch_size=8, micro_batch_size=3).check()


def test_a_schedule_has_the_settings_of_its_stage() -> None:
    config = PreferenceConfig(epochs=3, max_grad_norm=0.5, seed=4, gradient_checkpointing=True)
    result = Schedule.from_config(config, learning_rate=0.2)
    assert (result.epochs, result.max_grad_norm, result.seed) == (3, 0.5, 4)
    assert result.gradient_checkpointing and result.learning_rate == 0.2


def test_learning_rates_rise_from_the_first_step_on(model: nn.Module, tmp_path: Path) -> None:
    """Ten steps, two of warm-up: thirds of the peak, then half a cosine over eight steps."""
    rows = sft_examples(*[[IGNORED_LABEL, 2]] * 10)
    config = schedule(batch_size=1, warmup_share=0.2)
    steps = train(model, rows, sft_batches.collate_sft, sum_of_labels, config, tmp_path, "test")
    rates = [step["learning_rate"] / 0.1 for step in steps]
    cosine = [0.5 * (1 + math.cos(math.pi * index / 8)) for index in range(8)]
    assert rates == pytest.approx([1 / 3, 2 / 3, *cosine])


def test_several_gpus_do_not_multiply_the_batch(tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=4)
    arguments._n_gpu = 2
    assert arguments.train_batch_size == 8
    use_one_gpu(arguments)
    assert arguments.train_batch_size == 4


def test_each_position_of_an_sft_batch_has_the_token_that_it_predicts() -> None:
    batch = sft_batches.collate_sft(
        [
            {
                "example_id": "a",
                "input_ids": [5, 6, 7],
                "labels": [IGNORED_LABEL, IGNORED_LABEL, 7],
            },
            {"example_id": "b", "input_ids": [8, 9], "labels": [8, 9]},
        ]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    ignored = IGNORED_LABEL
    assert batch["labels"].tolist() == [[ignored, 7, ignored], [9, ignored, ignored]]


def test_every_row_of_a_preference_batch_counts_once() -> None:
    example: preference_batches.PreferenceExample = {
        "example_id": "x",
        "prompt_ids": [1],
        "answer_ids": [[2], [3, 4]],
    }
    batch = preference_batches.collate_preferences([example, example])
    assert batch["rows"] == [Row([1], [[2], [3, 4]])] * 2 and batch["example_ids"] == ["x", "x"]
    assert int((batch["labels"] != IGNORED_LABEL).sum()) == 2 and "reference_logps" not in batch
    with_reference = preference_batches.collate_preferences(
        [{**example, "reference_logps": [-1.0, -2.0]}]
    )
    assert with_reference["reference_logps"].tolist() == [[-1.0, -2.0]]


def test_final_means_are_over_the_last_ten_steps() -> None:
    steps = [{"loss": float(number)} for number in range(12)]
    assert final_mean(steps, "loss") == 6.5
    assert final_mean(steps[:2], "loss") == 0.5
