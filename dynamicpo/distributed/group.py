"""The group of processes that do one stage's work together; a process alone is a group of one.

Nothing heavy is imported before there are several.
"""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from dynamicpo.core.errors import ConfigError, DynamicPOError, ToldError
from dynamicpo.core.messages import reason_of
from dynamicpo.distributed.launchers import (
    Launched,
    check_one_process,
    launched_by_torchrun,
    see_one_gpu,
)

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_ALONE = Launched(rank=0, world_size=1, local_rank=0, local_world_size=1)
# One may score all rows, or upload a checkpoint, while the others wait.
_TIMEOUT = timedelta(hours=6)
_FAILURE = "dynamicpo/failure"
# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1


class _Membership:
    """The place of this process in its group. There is one of it, as torch has one group."""

    place = _ALONE


def rank() -> int:
    """This process's number, from 0."""
    return _Membership.place.rank


def world_size() -> int:
    """The number of processes; 1 where this one is alone."""
    return _Membership.place.world_size


def is_main() -> bool:
    """Tell whether this process is the one that writes outputs and speaks to the user."""
    return rank() == 0


def check_joined(stage: str) -> None:
    """Refuse to do a stage's work in several processes that know nothing of each other.

    Raises:
        ConfigError: A launcher has started several.
    """
    if world_size() == 1:
        check_one_process(stage)


@contextmanager
def joined_group() -> Iterator[None]:
    """Join the other processes of torchrun, if there are any, for the time of the block.

    An error is raised as it is in the process that meets it first, which may be all others' too.

    Raises:
        ToldError: Another process has failed first.
        ConfigError: The launcher's environment can't be used.
    """
    launched = launched_by_torchrun()
    if launched is None or world_size() > 1:
        yield
        return
    _end_with_launcher()
    see_one_gpu(launched.local_rank)
    store = _meet(launched)
    _Membership.place = launched
    # Of things that all of them would say.
    if not is_main():
        logging.getLogger("dynamicpo").setLevel(logging.ERROR)
    try:
        yield
        _leave()
    except Exception as error:
        code = error.exit_code if isinstance(error, DynamicPOError) else 1
        mine = f"{rank()} {code}"
        first = _first_failure(store, mine)
        if first != mine:
            # The process that knows may be gone: it may have failed of the same.
            code = _code_of(first or mine)
            raise ToldError("another process has failed, and said why", code) from None
        raise
    finally:
        _Membership.place = _ALONE


def _meet(launched: Launched) -> "Store":
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    if "OMP_NUM_THREADS" not in os.environ:
        num_cores = os.cpu_count() or 1
        torch.set_num_threads(max(1, num_cores // launched.local_world_size))
    # CPU tensors are reduced too: numbers of rows, random states.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store: Store = next(iter(rendezvous("env://")))[0]
        store.set_timeout(_TIMEOUT)
        dist.init_process_group(
            backend,
            store=store,
            rank=launched.rank,
            world_size=launched.world_size,
            timeout=_TIMEOUT,
        )
        _check_size(launched)
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(
            f"MASTER_ADDR, MASTER_PORT: must lead to the other {launched.world_size - 1} "
            f"processes, but {reason_of(error)}. Start them all with torchrun."
        ) from error
    return store


def _check_size(launched: Launched) -> None:
    """Count the processes: a launcher that starts fewer is told apart by nothing else."""
    import torch
    import torch.distributed as dist

    counted = torch.ones(())
    dist.all_reduce(counted)
    if int(counted) != launched.world_size:
        raise ValueError(f"{int(counted)} of {launched.world_size} processes answered")


def _leave() -> None:
    import torch.distributed as dist

    # Not before all are done: the first process may hold the place where they meet.
    dist.barrier()
    dist.destroy_process_group()


def _first_failure(store: "Store", mine: str) -> str:
    """Rank and exit code of the process that has failed first; empty where nobody can tell."""
    try:
        return bytes(store.compare_set(_FAILURE, "", mine)).decode()
    # The process that knows is gone.
    except RuntimeError:
        return ""


def _code_of(failure: str) -> int:
    _, code = failure.split(" ")
    return int(code)


def _end_with_launcher() -> None:
    """Have the system end this process when its launcher is killed, which then can't."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
