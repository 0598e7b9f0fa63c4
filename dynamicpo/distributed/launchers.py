"""Environment that launchers of several processes leave, and what becomes of it here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from dynamicpo.core.errors import ConfigError

# Of torchrun and of three launchers of MPI.
_WORLD_SIZE = "WORLD_SIZE"
_WORLD_SIZES_OF_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_WORLD_SIZES = (_WORLD_SIZE, *_WORLD_SIZES_OF_MPI)
# Where the processes of torchrun meet.
_MEETING_PLACE = ("MASTER_ADDR", "MASTER_PORT")
# `accelerate launch` hands its own configuration down in these.
_SETTINGS = ("ACCELERATE_", "FSDP_", "DEEPSPEED_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
# A process's place among others: by a LOCAL_RANK alone accelerate looks for the others.
_RANKS = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", *_WORLD_SIZES)
_RANKS_OF_MPI = ("PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "MPI_LOCAL")
_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


class Launched(NamedTuple):
    """This process's place among those that torchrun has started.

    Attributes:
        rank: Its number among all, from 0.
        world_size: Number of all.
        local_rank: Its number among those of this machine.
        local_world_size: Number of those.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def launched_by_torchrun() -> Launched | None:
    """The place of this process; None where it is alone, or another launcher started it.

    Raises:
        ConfigError: The environment says something that can't be.
    """
    world_size = _number(_WORLD_SIZE, 1)
    if world_size <= 1 or not all(os.environ.get(name) for name in ("RANK", *_MEETING_PLACE)):
        return None
    local_world_size = _number("LOCAL_WORLD_SIZE", 1)
    return Launched(
        _rank("RANK", world_size),
        world_size,
        _rank("LOCAL_RANK", local_world_size),
        local_world_size,
    )


def check_one_process(stage: str) -> None:
    """Refuse to do a stage's work in several processes that have not joined.

    Each would train all rows and write the output.

    Raises:
        ConfigError: A launcher says that there are several, or something that is no number.
    """
    # One launcher may run within another's pod, so that the first answer need not be the right one.
    for name in _WORLD_SIZES:
        num_processes = _number(name, 1)
        if num_processes > 1:
            raise ConfigError(
                f"{stage}: works in one process, but the launcher started {num_processes} "
                f"({name}). Start `python -m dynamicpo {stage}` with torchrun, or set "
                "num_processes."
            )


def see_one_gpu(local_rank: int) -> None:
    """Show this process one GPU of the machine: its own. Before torch looks for GPUs."""
    visible = os.environ.get(_VISIBLE_GPUS)
    if visible is None:
        os.environ[_VISIBLE_GPUS] = str(local_rank)
        return
    gpus = visible.split(",")
    # torchrun may have chosen one already.
    if len(gpus) > 1 and local_rank < len(gpus):
        os.environ[_VISIBLE_GPUS] = gpus[local_rank]


def _rank(variable: str, world_size: int) -> int:
    rank = _number(variable, 0)
    if not 0 <= rank < world_size:
        raise ConfigError(
            f"{variable}: must be at least 0 and below {world_size}, the number of processes, "
            f"got {rank}. Correct it in the environment, or remove it there."
        )
    return rank


def _number(variable: str, default: int) -> int:
    """The number in a variable of the environment; the default where it is empty or not set."""
    value = os.environ.get(variable, "").strip() or str(default)
    try:
        return int(value)
    except ValueError as error:
        raise ConfigError(
            f"{variable}: must be a number of processes, got {value!r}. Correct it in the "
            "environment, or remove it there."
        ) from error


@contextmanager
def without_launcher_settings() -> Iterator[None]:
    """Hide accelerate's settings in the environment: the configuration alone says how to train.

    Otherwise ACCELERATE_MIXED_PRECISION would change a training in float32, unseen. Ranks are
    hidden, too: rows are shared out and gradients added up by us (`training/gradients.py`).
    """
    hidden_starts = (*_SETTINGS, *_RANKS_OF_MPI)
    names = [name for name in os.environ if name in _RANKS or name.startswith(hidden_starts)]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)
