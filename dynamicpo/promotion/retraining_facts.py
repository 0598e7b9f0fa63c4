"""Facts that a retraining is decided by: the champion, earlier decisions, a listing of the data."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dynamicpo.core.config_retraining import RetrainConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import file_checksum, file_checksums, fingerprint
from dynamicpo.core.storage.addresses import is_remote
from dynamicpo.core.storage.files import remote_versions
from dynamicpo.promotion.champion import read_moves
from dynamicpo.promotion.retraining_history import RetrainingEntry, read_retrainings
from dynamicpo.promotion.versions import read_version


class RetrainingFacts(NamedTuple):
    """The facts that a decision goes by.

    Attributes:
        champion: The champion's version; "" where there is none.
        seen_until: Time of the last row that it may have looked at, epoch seconds.
        history: All decisions, the oldest first.
        data: A name for the content of the data.
        now: This machine's time, epoch seconds.
    """

    champion: str
    seen_until: float
    history: Sequence[RetrainingEntry]
    data: str
    now: float


def retraining_facts(sources: Sequence[str], config: RetrainConfig, now: float) -> RetrainingFacts:
    """Read the facts: the champion and the history of the store, and a listing of the data.

    Args:
        sources: Files, folders or prefixes of the data; empty ones are left out.
        config: The store.
        now: This machine's time, epoch seconds.

    Raises:
        ConfigError: No store is named.
        DataError: Something can't be read.
    """
    if not config.store:
        raise ConfigError("store: must be given: versions and decisions are kept there.")
    champion = current_champion(config.store)
    seen_until = -math.inf
    if champion:
        seen_until = read_version(config.store, champion).card["seen_until"]
    history = read_retrainings(config.store)
    return RetrainingFacts(champion, seen_until, history, data_fingerprint(sources), now)


def current_champion(store: str) -> str:
    """The champion's version; "" where nothing was promoted yet.

    Raises:
        DataError: The store can't be read.
    """
    moves = read_moves(store)
    return moves[-1].version if moves else ""


def data_fingerprint(sources: Sequence[str]) -> str:
    """A name for the content of data: the same address may hold other files tomorrow.

    Raises:
        DataError: Nothing is there.
    """
    contents = {source: _content(source) for source in sources if source}
    return fingerprint(contents) if contents else "none"


def _content(source: str) -> Mapping[str, str]:
    if is_remote(source):
        return remote_versions(source)
    path = Path(source)
    if not path.exists():
        raise DataError(f"{source}: must be a file or folder, but does not exist. Correct it.")
    return file_checksums(path) if path.is_dir() else {"": file_checksum(path)}
