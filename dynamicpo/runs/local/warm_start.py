"""The start of local tasks without their imports: one process does these for all of a run.

Alone a task that trains or scores imports for ten seconds on two processors, and a run of ten such
tasks for a minute and a half.
"""

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from dynamicpo.runs.local import warm_client

_SERVER = "dynamicpo.runs.local.warm_server"
# A driver that was asked for its GPUs before a fork does not work after it.
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
# A socket's, of 107 with what is added to it.
_MAX_PATH_BYTES = 100


@contextlib.contextmanager
def warm_python(scratch: Path, environment: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Keep an interpreter warm, from which `python3` starts tasks.

    Args:
        scratch: A folder for that `python3`, and for its socket.
        environment: The tasks' variables. A task with others starts a Python of its own.

    Yields:
        The variables with that `python3` in their PATH; as they are where there can be none.
    """
    path = scratch / "python.socket"
    if not _is_possible(path):
        yield environment
        return
    folder = _write_python(scratch, path)
    others = environment.get("PATH", os.defpath)
    variables = {**environment, "PATH": os.pathsep.join([folder, others])}
    with subprocess.Popen(
        [sys.executable, "-m", _SERVER, str(path)],
        stdin=subprocess.PIPE,
        # What goes wrong in it, a task that starts without it tells.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # As kfp has its tasks: its package then imports what they need alone.
        env={**variables, "_KFP_RUNTIME": "true"},
        start_new_session=True,
    ) as server:
        try:
            yield variables
        finally:
            server.kill()


def _is_possible(path: Path) -> bool:
    """Tell whether an interpreter can be kept warm here, with a socket of that path."""
    has_gpu = any(Path(device).exists() for device in _GPU_DEVICES)
    is_usable = len(os.fsencode(path)) <= _MAX_PATH_BYTES and os.pathsep not in str(path)
    return sys.platform == "linux" and not has_gpu and is_usable


def _write_python(scratch: Path, path: Path) -> str:
    folder = scratch / "bin"
    folder.mkdir()
    words = [sys.executable, "-I", "-S", warm_client.__file__, sys.executable, str(path)]
    python = folder / "python3"
    python.write_bytes(os.fsencode(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n'))
    python.chmod(0o700)
    return str(folder)
