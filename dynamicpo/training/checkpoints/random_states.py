"""States of the random generators that a training may draw from, as tensors."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from dynamicpo.core.errors import DataError

_PYTHON_VERSION = 3  # of the state's format, since Python 2.3


def random_states() -> dict[str, Tensor]:
    """The states of torch's, NumPy's and Python's generators, those of GPUs where there are any."""
    _, python_numbers, python_gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    twister = numpy_state["state"]
    key = twister["key"].astype(np.int64)
    # Half of a pair of normal numbers, which waits for its turn, or nothing.
    numpy_gauss = numpy_state["gauss"] if numpy_state["has_gauss"] else None
    states = torch_random_states()
    states["python"] = torch.tensor(python_numbers)
    states["python_gauss"] = _optional(python_gauss)
    states["numpy"] = torch.from_numpy(key)
    states["numpy_position"] = torch.tensor(twister["pos"])
    states["numpy_gauss"] = _optional(numpy_gauss)
    return states


def torch_random_states() -> dict[str, Tensor]:
    """The states of torch's generators alone."""
    states = {"torch": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Tensor]) -> None:
    """Put all generators back into states that `random_states` returned.

    Raises:
        DataError: They are others.
    """
    with _states_expected():
        _restore(states)
        _restore_torch(states)


def restore_torch_random_states(states: dict[str, Tensor]) -> None:
    """Put torch's generators alone back into states that `torch_random_states` returned.

    Raises:
        DataError: They are others.
    """
    with _states_expected():
        _restore_torch(states)


@contextmanager
def _states_expected() -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"checkpoint: must hold the states of random generators, but {error}. "
            "Remove the checkpoint."
        ) from error


def _restore(states: dict[str, Tensor]) -> None:
    numbers = states["python"].tolist()
    python_gauss = _number(states["python_gauss"])
    random.setstate((_PYTHON_VERSION, tuple(numbers), python_gauss))
    key = states["numpy"].numpy()
    position = int(states["numpy_position"])
    numpy_gauss = _number(states["numpy_gauss"])
    has_gauss = int(numpy_gauss is not None)
    twister = ("MT19937", key.astype(np.uint32), position, has_gauss, numpy_gauss or 0.0)
    np.random.set_state(twister)


def _restore_torch(states: dict[str, Tensor]) -> None:
    torch.random.set_rng_state(states["torch"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def _number(tensor: Tensor) -> float | None:
    """The number of a tensor that `_optional` made."""
    numbers: list[float] = tensor.tolist()
    return numbers[0] if numbers else None


def _optional(value: float | None) -> Tensor:
    """A tensor of one number or of none."""
    numbers = [] if value is None else [value]
    return torch.tensor(numbers, dtype=torch.float64)
