"""Micro-batches: cut by tokens, halved when memory runs out, with the whole batch's gradient."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from dynamicpo.core.config import PreferenceConfig, SFTConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.packing import packed_length
from dynamicpo.scoring.shared_prefix import score_rows
from dynamicpo.training.batches import BatchLoss
from dynamicpo.training.micro_batches import MicroBatches, is_out_of_memory, num_tokens
from dynamicpo.training.preference_batches import PreferenceBatch, collate_preferences
from dynamicpo.training.preference_objective import PreferenceObjective
from dynamicpo.training.schedule import Schedule
from dynamicpo.training.sft_batches import SFTBatch, collate_sft, cross_entropy
from dynamicpo.training.step_log import StepMetrics
from dynamicpo.training.trainer import train
from tests.fixtures.scoring import preference_examples, random_rows, tiny_model

K = 3
NUM_ROWS = 12
# Other micro-batches round otherwise; in 32 bits that is all.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


def row(name: str, tokens: int) -> dict[str, object]:
    return {"example_id": name, "input_ids": [1] * tokens, "labels": [1] * tokens}


def test_rows_are_cut_by_their_number_and_their_tokens() -> None:
    cutter = MicroBatches[dict[str, object]](max_rows=4)
    rows = [row("a", 3), row("b", 3), row("c", 9), row("d", 1), row("e", 2), row("f", 1)]

    def names() -> list[str]:
        return ["".join(str(row["example_id"]) for row in part) for part in cutter.cut(rows)]

    assert names() == ["abcd", "ef"]
    cutter.max_tokens = 6
    assert names() == ["ab", "c", "d", "ef"]
    cutter.max_tokens = 1
    assert names() == ["a", "b", "c", "d", "e", "f"]
    cutter.max_tokens = None
    cutter.halve(rows[:4])
    assert cutter.max_tokens == 8


def test_tokens_of_a_preference_row_are_those_of_prompt_and_answers() -> None:
    for number in (1, 4):
        (example,) = preference_examples(random_rows(1, number), None)
        assert num_tokens(example) >= packed_length(random_rows(1, number)[0])


def test_memory_of_cpus_runs_out_too() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("any"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.fixture
def short_memory() -> Iterator[Callable[[int], Callable[[int, Tensor], Tensor]]]:
    """Losses of which none has room for more than so many rows: half of them fail going back."""
    failures: list[int] = []

    def limit(most: int) -> Callable[[int, Tensor], Tensor]:
        def check(rows: int, total: Tensor) -> Tensor:
            if rows <= most:
                return total
            failures.append(rows)
            if len(failures) % 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
            # In the middle of the backward pass, when gradients of the head are there already.
            total.register_hook(lambda _: None)
            return _FailsGoingBack.apply(total)

        return check

    yield limit
    assert failures, "memory has never run out"


class _FailsGoingBack(torch.autograd.Function):
    @staticmethod
    def forward(context: object, total: Tensor) -> Tensor:
        return total.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")


def preference_steps(
    folder: Path,
    check: Callable[[int, Tensor], Tensor] | None = None,
    equal: bool = False,
    **settings: object,
) -> tuple[list[StepMetrics], dict[str, Tensor]]:
    """Steps and weights of a training; with `equal` all rows have as many tokens."""
    model = tiny_model()
    rows = random_rows(NUM_ROWS, 1 + K, (2,) if equal else (1, 1, 2, 3, 6))
    if equal:
        rows = [Row([*row.prompt_ids, *range(9)][:9], row.answer_ids) for row in rows]
    examples = preference_examples(rows, score_rows(model, rows))
    config = PreferenceConfig(num_negatives=K, batch_size=NUM_ROWS, max_steps=3, **settings)
    objective = PreferenceObjective(config)

    def loss(model: nn.Module, batch: PreferenceBatch) -> BatchLoss:
        result = objective(model, batch)
        total = check(len(batch["rows"]), result.total) if check else result.total
        return result._replace(total=total)

    schedule = Schedule.from_config(config, learning_rate=1e-3)
    folder.mkdir()
    steps = train(model, examples, collate_preferences, loss, schedule, folder, "test")
    return steps, model.state_dict()


@pytest.mark.parametrize("most", [6, 5, 1])
def test_out_of_memory_leaves_loss_and_weights_as_they_would_be(
    most: int, short_memory: Callable[[int], Callable[[int, Tensor], Tensor]], tmp_path: Path
) -> None:
    expected, weights = preference_steps(tmp_path / "whole")
    steps, reached = preference_steps(tmp_path / "cut", short_memory(most))
    assert len(steps) == len(expected) == 3
    for step, whole in zip(steps, expected, strict=True):
        assert step["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    for name, weight in weights.items():
        assert_close(reached[name], weight, **TOLERANCE)


def test_halved_micro_batches_have_the_bits_of_those_that_were_asked_for(
    short_memory: Callable[[int], Callable[[int, Tensor], Tensor]], tmp_path: Path
) -> None:
    halved, reached = preference_steps(tmp_path / "halved", short_memory(6), equal=True)
    asked, weights = preference_steps(tmp_path / "asked", equal=True, micro_batch_size=6)
    assert [step["loss"] for step in halved] == [step["loss"] for step in asked]
    assert all(torch.equal(reached[name], weights[name]) for name in weights)


def test_the_gradient_does_not_depend_on_micro_batches(tmp_path: Path) -> None:
    whole, _ = preference_steps(tmp_path / "whole")
    for size in (1, 4):
        steps, _ = preference_steps(tmp_path / str(size), micro_batch_size=size)
        assert [step["loss"] for step in steps] == pytest.approx([step["loss"] for step in whole])


def sft_step(folder: Path, most: int, rows: int = 6) -> list[StepMetrics]:
    examples = [row(str(index), 4 + index) for index in range(rows)]

    def loss(model: nn.Module, batch: SFTBatch) -> BatchLoss:
        if len(batch["input_ids"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return cross_entropy(model, batch)

    schedule = Schedule.from_config(SFTConfig(max_steps=2, batch_size=rows), learning_rate=1e-3)
    folder.mkdir(exist_ok=True)
    return train(tiny_model(), examples, collate_sft, loss, schedule, folder, "test")


def test_it_is_said_once_and_holds_from_then_on(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    expected = sft_step(tmp_path / "whole", most=6)
    with caplog.at_level(logging.WARNING):
        steps = sft_step(tmp_path / "cut", most=3)
    messages = [record.message for record in caplog.records if "out of memory" in record.message]
    assert len(messages) == 1
    assert "a micro-batch of 6 rows and 39 tokens: from now on they have at most 19" in messages[0]
    assert [step["loss"] for step in steps] == pytest.approx([step["loss"] for step in expected])


def test_a_row_that_never_fits_ends_training_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"row \d: must fit into memory, but its \d tokens"
    ) as error:
        sft_step(tmp_path, most=0)
    assert "\n" not in str(error.value) and not (tmp_path / "steps.jsonl").exists()


def test_noise_of_a_repeated_step_is_that_of_the_first(tmp_path: Path) -> None:
    """One row: the pass that fails draws as many numbers as the next one.

    The very first pass, before the first step, estimates the memory.
    """
    drawn: list[list[float]] = []

    def loss(model: nn.Module, batch: SFTBatch) -> BatchLoss:
        drawn.append(torch.rand(2).tolist())
        if len(drawn) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return cross_entropy(model, batch)

    examples = [row("a", 4), row("b", 4)]
    schedule = Schedule.from_config(SFTConfig(max_steps=1, batch_size=2), learning_rate=1e-3)
    train(tiny_model(), examples, collate_sft, loss, schedule, tmp_path, "test")
    _, *steps = drawn
    assert len(steps) == 3 and steps[1] == steps[0] != steps[2]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_with_its_rows_and_leaves_the_weights(
    what: str, tmp_path: Path
) -> None:
    model = tiny_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def loss(model: nn.Module, batch: SFTBatch) -> BatchLoss:
        total = cross_entropy(model, batch).total
        if what == "loss":
            return BatchLoss(total * torch.nan, {})
        # The square root's slope at 0 is infinite, and 0 times it is none.
        return BatchLoss(total + torch.sqrt(total * 0), {})

    examples = [row(f"user-{index}:1", 4) for index in range(3)]
    schedule = Schedule.from_config(SFTConfig(max_steps=1, batch_size=3), learning_rate=1e-3)
    with pytest.raises(DataError, match=f"step 1: the {what} must be finite, got nan") as error:
        train(model, examples, collate_sft, loss, schedule, tmp_path, "test")
    assert all(f"user-{index}:1" in str(error.value) for index in range(3))
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert not (tmp_path / "steps.jsonl").exists()
