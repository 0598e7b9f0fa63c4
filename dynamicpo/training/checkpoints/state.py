"""The state of a training between two steps, and its files: JSON and safetensors.

A checkpoint in a shared place is foreign input: nothing of it is unpickled, and what it holds must
fit the training that would go on from it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest, write_json
from dynamicpo.core.records.outputs import difference
from dynamicpo.core.records.shapes import as_shape
from dynamicpo.training.sharding import part_like, whole

_FORMAT = 1
_STATE_FILE = "state.json"
_STEPS_FILE = "steps.jsonl"


class Look(TypedDict):
    """Measures that early stopping has seen so far.

    Attributes:
        best_step: The step of the best measure.
        best_loss: Its loss; None before the first.
        measures_since_best: Measures since then.
    """

    best_step: int
    best_loss: float | None
    measures_since_best: int


@dataclass
class TrainingState:
    """The state of a training.

    Attributes:
        step: Steps done.
        num_steps: Steps of the whole training.
        ended: Whether training is over, and only its result is not written.
        weights: The weights that training changes, by name.
        optimizer: The optimizer's tensors, as `PARAMETER.NAME`.
        random: States of random generators.
        steps: The lines of `steps.jsonl`.
        look: Early stopping's numbers, where there is any.
        best: Its weights.
        max_tokens: Tokens of a micro-batch, where memory has run out with more.
        looks: What the watch for a collapse has seen.
    """

    step: int
    num_steps: int
    ended: bool
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    steps: list[dict[str, float | int]]
    look: Look | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    max_tokens: int | None = None
    looks: dict[str, Tensor] = field(default_factory=dict)


class _Record(TypedDict):
    """The content of `state.json`; `mark` is the attempt's, so that no two are equal."""

    format: int
    mark: str
    stage: str
    config: dict[str, object]
    inputs: dict[str, str]
    step: int
    num_steps: int
    ended: bool
    look: Look | None
    max_tokens: int | None


# The fields of a state that hold tensors; each has a file.
TENSORS = ("weights", "optimizer", "random", "best", "looks")


def write_state(folder: Path, state: TrainingState, request: Manifest, mark: str) -> None:
    """Write a state into an empty folder.

    Raises:
        OSError, SafetensorError: The disk fails or fills up.
    """
    for name in TENSORS:
        tensors = {key: value.contiguous() for key, value in getattr(state, name).items()}
        save_file(tensors, str(_tensor_file(folder, name)))
    lines = [json.dumps(step) + "\n" for step in state.steps]
    (folder / _STEPS_FILE).write_text("".join(lines), encoding="utf-8")
    write_json(folder / _STATE_FILE, _record_of(state, request, mark))


def _record_of(state: TrainingState, request: Manifest, mark: str) -> _Record:
    return _Record(
        format=_FORMAT,
        mark=mark,
        stage=request.stage,
        config=request.config,
        inputs=request.inputs,
        step=state.step,
        num_steps=state.num_steps,
        ended=state.ended,
        look=state.look,
        max_tokens=state.max_tokens,
    )


def read_state(folder: Path, request: Manifest) -> TrainingState:
    """Read a state of this very training.

    Raises:
        DataError: It is of another training.
        ValueError, SafetensorError, OSError: Its files can't be read.
    """
    path = folder / _STATE_FILE
    record = as_shape(path, json.loads(path.read_bytes()), _Record)
    if record["format"] != _FORMAT:
        raise _of_another(folder, f"format ({record['format']}, asked for {_FORMAT})")
    theirs = Manifest(record["stage"], record["config"], record["inputs"])
    if theirs.cause != request.cause:
        raise _of_another(folder, difference(theirs, request))
    tensors = {name: load_file(str(_tensor_file(folder, name))) for name in TENSORS}
    steps = _read_steps(folder / _STEPS_FILE)
    if len(steps) != record["step"]:
        raise ValueError(f"{folder}: {len(steps)} lines of metrics for {record['step']} steps")
    return TrainingState(
        record["step"],
        record["num_steps"],
        record["ended"],
        steps=steps,
        look=record["look"],
        max_tokens=record["max_tokens"],
        **tensors,
    )


def _read_steps(path: Path) -> list[dict[str, float | int]]:
    text = path.read_text(encoding="utf-8")
    steps = []
    for line in text.splitlines():
        values = json.loads(line)
        steps.append(as_shape(path, values, dict[str, float | int]))
    return steps


def _tensor_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


class OtherTrainingError(DataError):
    """A checkpoint of another training, where one of this training should be."""


def _of_another(folder: Path, what: str) -> OtherTrainingError:
    return OtherTrainingError(
        f"{folder}: must be a checkpoint of this configuration and data, but it differs in {what}. "
        "Remove it, or name another place with --checkpoints."
    )


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes; all others come with the model that it starts from."""
    return {name: whole(parameter.detach()) for name, parameter in _in_training(model)}


def _in_training(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


@torch.no_grad()
def restore_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights back into their model."""
    for name, parameter in _in_training(model):
        parameter.copy_(part_like(weights[name], parameter.data))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimizer's state, as `PARAMETER.NAME`."""
    tensors = {}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"{number}.{name}"] = whole(value)
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors back into an optimizer of the same parameters.

    Raises:
        DataError: They are of others.
    """
    # Rates and the like come from the configuration, not from the checkpoint.
    groups = optimizer.state_dict()["param_groups"]
    try:
        state = _by_parameter(tensors, optimizer)
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        _check_shapes(optimizer)
    except (ValueError, KeyError, RuntimeError) as error:
        raise DataError(
            f"checkpoint: the optimizer's tensors must be of this model, but {error}. "
            "Remove the checkpoint."
        ) from error


def _by_parameter(
    tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    parameters = [item for group in optimizer.param_groups for item in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    # In one order in all processes, which put parts together.
    for key, tensor in sorted(tensors.items()):
        text, _, name = key.partition(".")
        number = int(text)
        values = state.setdefault(number, {})
        # Parameters of others are refused when it is loaded.
        is_known = number < len(parameters)
        values[name] = part_like(tensor, parameters[number].data) if is_known else tensor
    return state


def _check_shapes(optimizer: torch.optim.Optimizer) -> None:
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            # The number of steps is a scalar.
            if value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} has the shape {value.shape} for {parameter.shape}")


def check_fits(folder: Path, state: TrainingState, model: nn.Module, num_steps: int) -> None:
    """Refuse a state of another model, or of another number of steps.

    Args:
        folder: Its folder, for messages.
        state: The state.
        model: The model in training.
        num_steps: Steps of the whole training.

    Raises:
        OtherTrainingError: It is one.
    """
    expected = _shapes(_in_training(model))
    found = _shapes(state.weights.items())
    differing = expected.items() ^ found.items()
    if differing:
        name, _ = min(differing)
        shapes = f"{found.get(name)}, asked for {expected.get(name)}"
        raise _of_another(folder, f"the weight {name} ({shapes})")
    if state.num_steps != num_steps:
        steps = f"steps ({state.num_steps}, asked for {num_steps})"
        raise _of_another(folder, steps)


def _shapes(weights: Iterable[tuple[str, Tensor]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights}
