"""Drift against the right reference: a folder, or a published version such as the champion."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamicpo.core.config import DriftConfig
from dynamicpo.core.errors import CheckFailedError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.monitoring.drift import monitor_drift
from dynamicpo.monitoring.rollback import ChampionPair, VersionCopy
from dynamicpo.promotion.champion import (
    Reason,
    champions,
    named_version,
    read_moves,
    roll_back_champion,
)
from dynamicpo.promotion.versions import fetch_version, is_published, read_version

log = logging.getLogger(__name__)

_WHO = "monitor-drift"


def monitor_window(
    reference: Path | None,
    current: Path,
    output: Path,
    config: DriftConfig,
    model: Path | None = None,
) -> Manifest:
    """Compare rows with a reference, or with a published version, or with their training rows.

    Args:
        reference: As of `monitor_drift`. None: the version of the store that the settings name;
            where they name no store the current folder's own training rows.
        current: Preferences folder of now.
        output: Folder to make, as of `monitor_drift`.
        config: As of `monitor_drift`.
        model: Model folder whose signals are compared, in place of a version's.

    Against the champion, the one before it is compared with it on the same rows; with
    `auto_rollback` it is the champion again where it is clearly better.

    Returns:
        As `monitor_drift`.

    Raises:
        DataError: There is no such version or no champion, or input can't be used.
    """
    if reference is not None or not config.store:
        return monitor_drift(reference or current, current, output, config, model)
    name = named_version(config.store, config.version)
    with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
        version = _copied(config.store, name, Path(scratch) / "version")
        pair = _champion_pair(version, Path(scratch), config.store)
        manifest = monitor_drift(version.folder, current, output, config, model, pair)
    if config.auto_rollback:
        _roll_back(config.store, name, manifest.extra.get("rollback"))
    return manifest


def _champion_pair(version: VersionCopy, scratch: Path, store: str) -> ChampionPair | None:
    """The champion with the one before it; None of a version that is not the champion."""
    line = champions(read_moves(store))
    if not line or line[-1] != version.name:
        return None
    if len(line) < 2 or not is_published(store, line[-2]):
        return ChampionPair(version, None)
    return ChampionPair(version, _copied(store, line[-2], scratch / "previous"))


def _copied(store: str, name: str, folder: Path) -> VersionCopy:
    fetch_version(store, name, folder)
    card = read_version(store, name).card
    return VersionCopy(name, folder, card["seen_until"])


# Any: JSON, whose shape `RollbackCheck.to_json` says.
def _roll_back(store: str, champion: str, check: Mapping[str, Any] | None) -> None:
    """Move the pointer back where that is recommended, once however often it is tried."""
    if check is None or not check["recommends"]:
        return
    reason = Reason(who=_WHO, why=check["reason"], numbers=check)
    try:
        roll_back_champion(store, reason, expected=champion)
    except CheckFailedError as error:
        # Somebody else has decided meanwhile; a check of drift fails for no such thing.
        log.warning("not rolled back: %s", error)
