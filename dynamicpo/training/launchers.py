"""Environment that launchers of several processes leave, and what becomes of it here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dynamicpo.core.errors import ConfigError

# Of torchrun and of three launchers of MPI.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# `accelerate launch` hands its own configuration down in these.
_SETTINGS = ("ACCELERATE_", "FSDP_", "DEEPSPEED_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
# A process's place among others: by a LOCAL_RANK alone accelerate looks for the others.
_RANKS = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", *_WORLD_SIZES)
_RANKS_OF_MPI = ("PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "MPI_LOCAL")


def check_one_process(stage: str) -> None:
    """Refuse to train in several processes at once.

    Each would train all rows and write the output, and their gradients would be added up.

    Raises:
        ConfigError: A launcher says that there are several, or something that is no number.
    """
    # One launcher may run within another's pod, so that the first answer need not be the right one.
    for name in _WORLD_SIZES:
        num_processes = _number(name)
        if num_processes > 1:
            raise ConfigError(
                f"{stage}: trains in one process, but the launcher started {num_processes} "
                f"({name}). Start it once, without torchrun, or with --nproc-per-node 1."
            )


def _number(variable: str) -> int:
    """The number in a variable of the environment; 1 where it is empty or not set."""
    value = os.environ.get(variable, "").strip() or "1"
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
    hidden, too, as `check_one_process` has seen that there is one process.
    """
    hidden_starts = (*_SETTINGS, *_RANKS_OF_MPI)
    names = [name for name in os.environ if name in _RANKS or name.startswith(hidden_starts)]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)
