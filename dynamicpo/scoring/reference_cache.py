"""Reference log-probabilities: computed once, kept in a file, never stale.

The file's name is a hash of what determines the numbers (fingerprints of model, data and prompts,
and the token ids themselves); it carries that key and a checksum, which are verified when it is
read. While it is computed, finished shards stand beside it, for a restart after a kill.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypedDict, Unpack

from safetensors import SafetensorError
from torch import Tensor, nn

from dynamicpo.core.errors import DataError
from dynamicpo.core.locks import locked
from dynamicpo.core.records.manifest import canonical
from dynamicpo.core.records.rows import Row
from dynamicpo.core.storage import cached_file, exists, join
from dynamicpo.distributed.collectives import from_main, tensors_from_main
from dynamicpo.distributed.group import is_main
from dynamicpo.scoring.shards import Shards
from dynamicpo.scoring.shared_prefix import score_rows
from dynamicpo.scoring.tensor_files import read_tensors, warn_of_content, write_tensors

log = logging.getLogger(__name__)

# Between two shards, which is what a kill costs.
_SHARD_SECONDS = 60.0


class ScoringSettings(TypedDict, total=False):
    """Settings of `score_rows`."""

    token_budget: int
    backend: str


def reference_logps(
    model: nn.Module,
    rows: Sequence[Row],
    cache: str,
    key: Mapping[str, str],
    **scoring: Unpack[ScoringSettings],
) -> Tensor:
    """Log-probabilities of the frozen reference, from the cache where it holds them.

    Args:
        model: The reference, as it stands before training.
        rows: Rows with equally many answers.
        cache: Folder or prefix of cache files; where it can't be written, nothing is kept.
        key: Fingerprints of what determines the numbers.
        scoring: Settings of `score_rows`.

    Returns:
        Shape (N, A), float32.
    """
    complete_key = full_key(rows, key)
    # A part of the hash is enough for a name, as the file holds the key itself.
    name = hashlib.sha256(complete_key.encode()).hexdigest()[:32]
    uri = join(cache, f"{name}.safetensors")
    place = join(cache, f"{name}.shards")
    shards = Shards(place, complete_key, _SHARD_SECONDS)
    logps = _cached_logps(uri, complete_key, model, rows, shards, scoring)
    if is_main() and _is_kept(uri):
        shards.remove()
    return logps


def _cached_logps(
    uri: str,
    key: str,
    model: nn.Module,
    rows: Sequence[Row],
    shards: Shards,
    scoring: ScoringSettings,
) -> Tensor:
    """The content of the cache's file, which is made where it is not there."""
    with _file_of_main(uri) as path:
        cached = None if path is None else _read(path, key, _logps_shape(rows))
        if from_main(cached is not None):
            log.info("reference log-probabilities: from %s", uri)
            found = {} if cached is None else {"logps": cached}
            return tensors_from_main(found)["logps"]
        logps = score_rows(
            model, rows, label="reference log-probabilities", shards=shards, **scoring
        )
        if path is not None:
            _write(path, key, logps)
        return logps


def _is_kept(uri: str) -> bool:
    try:
        return exists(uri)
    except DataError:
        # Whoever could not write the file has said so.
        return False


@contextmanager
def _file_of_main(uri: str) -> Iterator[Path | None]:
    """The cache's file; None in other processes than the main one, which shares what it reads."""
    if not is_main():
        yield None
        return
    with cached_file(uri) as path, _only_one_computes(path):
        yield path


def _logps_shape(rows: Sequence[Row]) -> tuple[int, int]:
    # Scoring checks the rows. A file of the same rows exists only if they passed.
    num_answers = len(rows[0].answer_ids) if rows else 0
    return len(rows), num_answers


@contextmanager
def _only_one_computes(path: Path) -> Iterator[None]:
    """Let runs of this machine wait for each other; without locks all of them compute it."""
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


def _read(path: Path, key: str, shape: tuple[int, int]) -> Tensor | None:
    if not path.is_file():
        return None
    tensors = read_tensors(path, key)
    if tensors is None:
        return None
    logps = tensors.get("logps")
    if logps is None or logps.shape != shape:
        warn_of_content(path)
        return None
    return logps


def _write(path: Path, key: str, logps: Tensor) -> None:
    try:
        write_tensors(path, key, {"logps": logps})
    except (SafetensorError, OSError) as error:
        log.warning("%s: reference log-probabilities are not kept (%s)", path, error)
