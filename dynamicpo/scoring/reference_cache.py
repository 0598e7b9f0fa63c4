"""Reference log-probabilities: computed once, kept in a file, never stale.

The file's name is a hash of what determines the numbers (fingerprints of model, data and prompts, and the token
ids themselves); it carries that key and a checksum, which are verified when it is read.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dynamicpo.core.locks import locked
from dynamicpo.core.records.manifest import canonical
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.packing import check_rows
from dynamicpo.scoring.shared_prefix import score_rows

log = logging.getLogger(__name__)


def reference_logps(
    model: nn.Module, rows: Sequence[Row], cache: Path, key: Mapping[str, str], **scoring: Any
) -> Tensor:
    """Log-probabilities of the frozen reference, from the cache where it holds them.

    Args:
        model: The reference, as it stands before training.
        rows: Rows with equally many answers.
        cache: Folder of cache files; where it can't be written, nothing is kept.
        key: Fingerprints of what determines the numbers.
        scoring: Settings of `score_rows`.

    Returns:
        Shape (N, A), float32.
    """
    check_rows(rows)
    whole = full_key(rows, key)
    path = cache / f"{hashlib.sha256(whole.encode()).hexdigest()[:32]}.safetensors"
    with ExitStack() as stack:
        with suppress(OSError):  # where there are no locks, runs at the same time all compute it
            cache.mkdir(parents=True, exist_ok=True)
            busy = "reference log-probabilities: another run computes the same, waiting for it"
            stack.enter_context(locked(path.with_suffix(".lock"), busy))
        kept = _read(path, whole, (len(rows), len(rows[0].answer_ids)))
        if kept is not None:
            log.info("reference log-probabilities: from %s", path)
            return kept
        logps = score_rows(model, rows, label="reference log-probabilities", **scoring)
        _write(path, whole, logps)
        return logps


def full_key(rows: Sequence[Row], key: Mapping[str, str]) -> str:
    """The caller's fingerprints and a checksum of the rows' token ids."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(
            json.dumps([list(row.prompt_ids), [list(ids) for ids in row.answer_ids]]).encode()
        )
    return canonical({**key, "rows": digest.hexdigest()})


def facts(key: str, logps: Tensor) -> dict[str, str]:
    """What a file says of itself: its key and the SHA-256 of its numbers, as one entry (several come in any order)."""
    checksum = hashlib.sha256(np.ascontiguousarray(logps.numpy()).tobytes()).hexdigest()
    return {"facts": canonical({"key": key, "checksum": checksum})}


def _read(path: Path, key: str, shape: tuple[int, int]) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            said = file.metadata()
            logps: Tensor = file.get_tensor("logps")
    except (SafetensorError, OSError, ValueError) as error:
        log.warning("%s: can't be read (%s), computed anew", path, error)
        return None
    if said != facts(key, logps) or tuple(logps.shape) != shape:
        log.warning("%s: does not hold what it should, computed anew", path)
        return None
    return logps


def _write(path: Path, key: str, logps: Tensor) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"logps": logps.contiguous()}, str(partial), metadata=facts(key, logps))
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        with suppress(OSError):
            partial.unlink()
        log.warning("%s: reference log-probabilities are not kept (%s)", path, error)
