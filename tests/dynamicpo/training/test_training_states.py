"""States of trainings in files: equal after the way there and back, and refused where foreign."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from transformers import Trainer

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.training.checkpoints.random_states import random_states, restore_random_states
from dynamicpo.training.checkpoints.state import (
    OtherTrainingError,
    TrainingState,
    check_fits,
    optimizer_tensors,
    read_state,
    restore_optimizer,
    restore_weights,
    trained_weights,
    write_state,
)
from dynamicpo.training.trainer import LossTrainer

REQUEST = Manifest("sft", {"epochs": 1.0, "seed": 0}, {"preferences": "abc"})


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(3)
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    layers[0].bias.requires_grad_(False)
    return layers


def trained(model: nn.Module, num_steps: int = 3) -> torch.optim.AdamW:
    parameters = [item for item in model.parameters() if item.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    step(model, optimizer, num_steps)
    return optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    for _ in range(num_steps):
        optimizer.zero_grad()
        model(torch.randn(2, 3)).sum().backward()
        optimizer.step()


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    lines = [{"step": number + 1, "loss": 0.1 * number} for number in range(3)]
    return TrainingState(
        step=3,
        num_steps=9,
        ended=False,
        weights=trained_weights(model),
        optimizer=optimizer_tensors(optimizer),
        random=random_states(),
        steps=lines,
        look={"best_step": 2, "best_loss": None, "measures_since_best": 1},
        best=trained_weights(model),
        max_tokens=77,
    )


@pytest.fixture
def folder(model: nn.Module, tmp_path: Path) -> Path:
    made = tmp_path / "checkpoint"
    made.mkdir()
    write_state(made, state_of(model, trained(model)), REQUEST, "mark")
    return made


def test_training_goes_on_from_a_state_with_the_same_bits(tmp_path: Path, model: nn.Module) -> None:
    optimizer = trained(model)
    write_state(tmp_path, state_of(model, optimizer), REQUEST, "mark")
    step(model, optimizer, 4)
    expected = {name: weight.clone() for name, weight in trained_weights(model).items()}
    state = read_state(tmp_path, REQUEST)
    fresh = trained(model, num_steps=0)
    restore_weights(model, state.weights)
    restore_optimizer(fresh, state.optimizer)
    restore_random_states(state.random)
    step(model, fresh, 4)
    for name, weight in trained_weights(model).items():
        assert torch.equal(weight, expected[name])


def test_all_but_tensors_is_as_it_was(folder: Path, model: nn.Module) -> None:
    state = read_state(folder, REQUEST)
    assert (state.step, state.num_steps, state.ended) == (3, 9, False)
    assert state.max_tokens == 77
    assert state.look == {"best_step": 2, "best_loss": None, "measures_since_best": 1}
    # Whole numbers stay whole: the file of metrics has the same bytes.
    assert [repr(line) for line in state.steps] == [
        repr({"step": number + 1, "loss": 0.1 * number}) for number in range(3)
    ]
    assert set(state.weights) == {"0.weight", "1.weight", "1.bias"} == set(state.best)


def test_random_generators_go_on_with_the_same_numbers() -> None:
    # Each has now one half of a pair of normal numbers left.
    random.gauss(0, 1), np.random.standard_normal(), torch.randn(1)
    states = random_states()

    def draws() -> list[float]:
        numbers = [random.gauss(0, 1) for _ in range(3)]
        return [*numbers, *np.random.standard_normal(3).tolist(), *torch.randn(3).tolist()]

    expected = draws()
    restore_random_states(states)
    assert draws() == expected


def test_states_of_other_generators_are_refused() -> None:
    for name, other in (("python", torch.zeros(3)), ("torch", torch.zeros(3)), ("numpy", None)):
        states = random_states()
        states[name] = other
        if other is None:
            del states[name]
        with pytest.raises(DataError, match="must hold the states of random generators"):
            restore_random_states(states)


@pytest.mark.parametrize("name", ["weights", "optimizer", "random", "best"])
def test_a_pickle_is_not_read(folder: Path, name: str, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (tmp_path / "taken-over",))

    torch.save(Attack(), folder / f"{name}.safetensors")
    with pytest.raises(SafetensorError):
        read_state(folder, REQUEST)
    (folder / f"{name}.safetensors").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(SafetensorError):
        read_state(folder, REQUEST)
    assert not (tmp_path / "taken-over").exists()


def test_a_state_of_another_configuration_is_refused(folder: Path) -> None:
    other = Manifest("sft", {"epochs": 2.0, "seed": 0}, {"preferences": "abd"})
    with pytest.raises(OtherTrainingError) as caught:
        read_state(folder, other)
    differences = "epochs (1.0, asked for 2.0), preferences (abc, asked for abd)"
    assert str(caught.value) == (
        f"{folder}: must be a checkpoint of this configuration and data, but it differs in "
        f"{differences}. Remove it, or name another place with --checkpoints."
    )


def test_a_state_of_another_model_is_refused(folder: Path, model: nn.Module) -> None:
    state = read_state(folder, REQUEST)
    check_fits(folder, state, model, num_steps=9)
    larger = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    larger[0].bias.requires_grad_(False)
    with pytest.raises(OtherTrainingError, match=r"the weight 1.bias \(\(1,\), asked for \(2,\)\)"):
        check_fits(folder, state, larger, num_steps=9)
    with pytest.raises(OtherTrainingError, match=r"steps \(9, asked for 10\)"):
        check_fits(folder, state, model, num_steps=10)


@pytest.mark.parametrize(
    "damage",
    [
        {"state.json": b"{}"},
        {"state.json": b"no JSON"},
        {"state.json": b'{"format": 1, "step": "many"}'},
        {"steps.jsonl": b'{"step": 1}\n'},
        {"steps.jsonl": b"no JSON\n"},
    ],
)
def test_other_content_is_a_value_error(folder: Path, damage: dict[str, bytes]) -> None:
    for name, content in damage.items():
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError):
        read_state(folder, REQUEST)


def test_tensors_of_another_optimizer_are_refused(folder: Path, model: nn.Module) -> None:
    tensors = read_state(folder, REQUEST).optimizer
    tensors["0.exp_avg"] = torch.zeros(7)
    with pytest.raises(DataError, match="exp_avg"):
        restore_optimizer(trained(model, 0), tensors)
    save_file({"x.exp_avg": torch.zeros(1)}, folder / "optimizer.safetensors")
    with pytest.raises(DataError, match="optimizer"):
        restore_optimizer(trained(model, 0), read_state(folder, REQUEST).optimizer)


def test_transformers_still_has_the_methods_that_ours_stand_in_for() -> None:
    for name in (
        "_save_checkpoint",
        "_load_from_checkpoint",
        "_load_optimizer_and_scheduler",
        "_load_rng_state",
    ):
        assert callable(getattr(Trainer, name))
        assert getattr(LossTrainer, name) is not getattr(Trainer, name)
