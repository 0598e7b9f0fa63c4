"""Reference log-probabilities: computed once, kept in a file, never stale.

The file's name is a hash of what determines the numbers (fingerprints of model, data and prompts,
and the token ids themselves); it carries that key and a checksum, which are verified when it is
read.
"""

import hashlib
import json
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dynamicpo.core.locks import locked
from dynamicpo.core.records.manifest import canonical
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.shared_prefix import score_rows

log = logging.getLogger(__name__)


class ScoringSettings(TypedDict, total=False):
    """Settings of `score_rows`."""

    token_budget: int
    backend: str


def reference_logps(
    model: nn.Module,
    rows: Sequence[Row],
    cache: Path,
    key: Mapping[str, str],
    **scoring: Unpack[ScoringSettings],
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
    complete_key = full_key(rows, key)
    # A part of the hash is enough for a name, as the file holds the key itself.
    name = hashlib.sha256(complete_key.encode()).hexdigest()[:32]
    path = cache / f"{name}.safetensors"
    with _only_one_computes(path):
        cached = _read(path, complete_key, _logps_shape(rows))
        if cached is not None:
            log.info("reference log-probabilities: from %s", path)
            return cached
        logps = score_rows(model, rows, label="reference log-probabilities", **scoring)
        _write(path, complete_key, logps)
        return logps


def _logps_shape(rows: Sequence[Row]) -> tuple[int, int]:
    # Scoring checks the rows. A file of the same rows exists only if they passed.
    num_answers = len(rows[0].answer_ids) if rows else 0
    return len(rows), num_answers


@contextmanager
def _only_one_computes(path: Path) -> Iterator[None]:
    """Let runs at the same time wait for each other; without locks all of them compute it."""
    busy = "reference log-probabilities: another run computes the same, waiting for it"
    with ExitStack() as stack:
        # A folder that can't be written, or a file system without locks.
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.with_suffix(".lock"), busy))
        yield


def full_key(rows: Sequence[Row], key: Mapping[str, str]) -> str:
    """Join the caller's fingerprints and a checksum of the rows' token ids."""
    digest = hashlib.sha256()
    for row in rows:
        prompt = list(row.prompt_ids)
        answers = [list(answer) for answer in row.answer_ids]
        token_ids = json.dumps([prompt, answers])
        digest.update(token_ids.encode())
    return canonical({**key, "rows": digest.hexdigest()})


def file_metadata(key: str, logps: Tensor) -> dict[str, str]:
    """Describe a file: its key and the SHA-256 of its numbers.

    Both are one entry, as safetensors writes several in any order, which would change the bytes.
    """
    numbers = np.ascontiguousarray(logps.numpy())
    checksum = hashlib.sha256(numbers.tobytes()).hexdigest()
    description = canonical({"key": key, "checksum": checksum})
    return {"facts": description}


def _read(path: Path, key: str, shape: tuple[int, int]) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata()
            logps: Tensor = file.get_tensor("logps")
    except (SafetensorError, OSError, ValueError) as error:
        log.warning("%s: can't be read (%s), computed anew", path, error)
        return None
    is_intact = metadata == file_metadata(key, logps)
    if not is_intact or logps.shape != shape:
        log.warning("%s: does not hold what it should, computed anew", path)
        return None
    return logps


def _write(path: Path, key: str, logps: Tensor) -> None:
    # Readers see all of a file or none: it gets its name when it is complete. At random: without
    # locks, two containers may write at once, and both are process 1.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        metadata = file_metadata(key, logps)
        # `save_file` would make a file for one user, and shared volumes are for many.
        partial.write_bytes(save({"logps": logps.contiguous()}, metadata))
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        with suppress(OSError):
            partial.unlink()
        log.warning("%s: reference log-probabilities are not kept (%s)", path, error)


def _remove_leftovers(path: Path) -> None:
    # Of processes that were killed while they wrote: one at a time does.
    for partial in path.parent.glob(f".{path.name}.*"):
        partial.unlink(missing_ok=True)
