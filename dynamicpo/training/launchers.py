"""Environment that launchers of several processes leave, and what becomes of it here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate.utils import get_int_from_env

from dynamicpo.core.errors import ConfigError

# Of torchrun and of three launchers of MPI.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# `accelerate launch` hands its own configuration down in these.
_SETTINGS = ("ACCELERATE_", "FSDP_", "DEEPSPEED_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")


def check_one_process(stage: str) -> None:
    """Refuse to train in several processes at once.

    Each would train all rows and write the output, and their gradients would be added up.

    Raises:
        ConfigError: A launcher says that there are several.
    """
    num_processes = get_int_from_env(_WORLD_SIZES, 1)
    if num_processes > 1:
        raise ConfigError(
            f"{stage}: trains in one process, but the launcher started {num_processes} "
            "(WORLD_SIZE). Start it once, without torchrun, or with --nproc-per-node 1."
        )


@contextmanager
def without_launcher_settings() -> Iterator[None]:
    """Hide accelerate's settings in the environment: the configuration alone says how to train.

    Otherwise ACCELERATE_MIXED_PRECISION would change a training in float32, unseen.
    """
    names = [name for name in os.environ if name.startswith(_SETTINGS)]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)
