"""Files of tensors that say what they are of: checked when they are read, whole or not there.

A file in a shared place is foreign input: nothing of it is unpickled.
"""

import hashlib
import logging
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dynamicpo.core.records.manifest import canonical

log = logging.getLogger(__name__)


def file_metadata(key: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Describe a file: its key and the SHA-256 of its numbers.

    Both are one entry, as safetensors writes several in any order, which would change the bytes.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        dense = tensors[name].contiguous()
        content = dense.view(torch.uint8).numpy()
        digest.update(content.tobytes())
    checksum = digest.hexdigest()
    description = canonical({"key": key, "checksum": checksum})
    return {"facts": description}


def read_tensors(path: Path, key: str) -> dict[str, Tensor] | None:
    """The tensors of a file; None, with a warning, of one that is damaged or has another key."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata()
            tensors = {}
            for name in file.keys():  # noqa: SIM118
                tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        log.warning("%s: can't be read (%s), computed anew", path, error)
        return None
    # Numbers without a dimension are none of ours, and have no bytes to look at.
    are_arrays = all(tensor.dim() for tensor in tensors.values())
    if not are_arrays or metadata != file_metadata(key, tensors):
        warn_of_content(path)
        return None
    return tensors


def warn_of_content(path: Path) -> None:
    """Say that a file is of no use."""
    log.warning("%s: does not hold what it should, computed anew", path)


def write_tensors(path: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Write a file into a folder, which is made.

    Raises:
        OSError, SafetensorError: It can't be written; then nothing is left of it.
    """
    # Readers see all of a file or none: it gets its name when it is complete. At random: without
    # locks, two containers may write at once, and both are process 1.
    mark = secrets.token_hex(4)
    partial = path.with_name(f".{path.name}.{mark}")
    dense = {name: tensor.contiguous() for name, tensor in tensors.items()}
    # `save_file` would make a file for one user, and shared volumes are for many.
    metadata = file_metadata(key, dense)
    content = save(dense, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _remove_leftovers(path)
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            # After a power failure the file must not be there without its content.
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def _remove_leftovers(path: Path) -> None:
    # Of processes that were killed while they wrote: one at a time does.
    for partial in path.parent.glob(f".{path.name}.*"):
        partial.unlink(missing_ok=True)
