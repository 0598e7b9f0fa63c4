"""Do the candidate lists alone give the answer away?

A history-blind attacker learns from the training rows' lists and picks an item from each list of the test
rows. Popularity alone lifts it above 1 / A, so it is measured against itself, trained and tested anew on
lists that are drawn uniformly, by row, for the same rows: a leak is a hit ratio above the 95 % interval of those.

Negative sampling and evaluation audit some thousand rows of every run, so there a false alarm in forty clean runs
would be too many: they refuse lists above the 99.9 % interval, whose spread is at least that of coin tosses. So few
rows never raise an alarm by chance.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dynamicpo.core.errors import CheckFailedError, ConfigError, DataError
from dynamicpo.metrics.intervals import student_t
from dynamicpo.negatives.audit.attacker import Lists, attack, redraw
from dynamicpo.negatives.audit.sources import Source, catalogue_of, encode, read_source

log = logging.getLogger(__name__)

MIN_REDRAWS = 20
STAGE_ROWS = 4000  # of each kind, which takes about 2 s
_USUAL, _STRICT = 1.959964, 3.290527  # normal quantiles of 95 % and 99.9 %, two-sided


@dataclass(frozen=True)
class Audit:
    """What the attacker reaches on lists as they are and on lists drawn anew.

    Attributes:
        hit_ratio_at_1: The attacker's, on the lists as they are.
        chance: Its mean on lists drawn anew.
        low: Where one more redraw falls in 95 of 100 cases.
        high: Its other end.
        limit: What a stage refuses to be above.
        rows: Rows attacked.
    """

    hit_ratio_at_1: float
    chance: float
    low: float
    high: float
    limit: float
    rows: int


def audit_candidates(
    train: Path | str,
    test: Path | str,
    *,
    redraws: int = MIN_REDRAWS,
    rows: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Attack the test rows' candidate lists with what the training rows' lists teach.

    Args:
        train: Published rows (.json or .jsonl), a preferences folder (its training split), or a split's folder.
        test: The same; of a preferences folder its test split.
        redraws: How many times the lists are redrawn for the null, >= 20.
        rows: At most this many rows of each are used, chosen by key (0: all).
        seed: Seed of the redraws and of the choice of rows.

    Returns:
        `hit_ratio_at_1` of the attacker; `chance`, `low` and `high`: mean and 95 % interval of the same
        attacker on redrawn lists; `leak`: whether the first is above `high`.

    Raises:
        ConfigError: Too few redraws.
        DataError: Rows that can't be read or used.
    """
    if redraws < MIN_REDRAWS:
        raise ConfigError(
            f"redraws: must be >= {MIN_REDRAWS} for a 95 % interval, got {redraws}. Raise it."
        )
    sources = read_source(Path(train), "train"), read_source(Path(test), "test")
    catalogue = catalogue_of([name for source in sources for name in source.items])
    known, attacked = (encode(source, catalogue, seed, slice(rows or None)) for source in sources)
    found = _audit(known, attacked, redraws)
    names = ("hit_ratio_at_1", "chance", "low", "high")
    return {name: getattr(found, name) for name in names} | {
        "leak": found.hit_ratio_at_1 > found.high
    }


def audit_split(
    tables: Mapping[str, pa.Table], split: str, items: pd.DataFrame, exclude: str, seed: int = 0
) -> dict[str, Any]:
    """Attack a split's lists with what the training split's teach; some rows of each, so that it takes seconds.

    Args:
        tables: The rows of every split, those of `split` and of training with candidates.
        split: The split to attack; the training split with its own other half.
        items: The items table.
        exclude: What the rows' negatives exclude.
        seed: Seed of the redraws and of the choice of rows.

    Returns:
        The fields of `Audit`, and `leak`: whether the hit ratio is above the limit. Or `skipped`, with the reason.
    """
    needed = {split: 1, "train": 2 if split == "train" else 1}
    lacking = [name for name, number in needed.items() if len(tables[name]) < number]
    if lacking:
        return {"skipped": f"too few rows in the {lacking[0]} split"}
    names = items["item_id"].tolist()
    catalogue, half = catalogue_of(names), min(STAGE_ROWS, len(tables["train"]) // 2)
    parts = [slice(half), slice(half, 2 * half)] if split == "train" else [slice(STAGE_ROWS)] * 2
    known, attacked = (
        encode(Source(f"{name} split", name, tables, names, exclude), catalogue, seed, part)
        for name, part in zip(("train", split), parts, strict=True)
    )
    try:
        found = _audit(known, attacked, MIN_REDRAWS)
    except DataError as error:  # a catalogue hardly larger than its lists
        return {"skipped": str(error)}
    return asdict(found) | {"leak": found.hit_ratio_at_1 > found.limit}


def check_audit(found: Mapping[str, Any], where: str, allow: bool) -> list[str]:
    """Refuse lists that leak, unless that is allowed.

    Args:
        found: From `audit_split`.
        where: What was audited.
        allow: Whether a leak becomes a red line.

    Returns:
        Red lines for every report: one, or none.

    Raises:
        CheckFailedError: A leak that is not allowed.
    """
    if "skipped" in found:
        log.warning("%s: candidate lists not audited: %s", where, found["skipped"])
        return []
    reached = (
        f"a lookup that ignores the history reaches HitRatio@1 {found['hit_ratio_at_1']:.3f} on "
        f"{found['rows']} rows, against {found['chance']:.3f} [{found['low']:.3f}, {found['high']:.3f}] on lists drawn "
        "anew"
    )
    if found["leak"] and not allow:
        raise CheckFailedError(
            f"{where}: candidate lists must not give the answer away, but {reached}. Draw fresh negatives (strategy "
            "uniform), or accept it with --allow-leak (allow_leak: true), which marks every report."
        )
    log.log(
        logging.WARNING if found["hit_ratio_at_1"] > found["high"] else logging.INFO,
        "%s: %s",
        where,
        reached,
    )
    return (
        [f"LEAK: the candidate lists of the {where} give the answer away: {reached}."]
        if found["leak"]
        else []
    )


def _audit(known: Lists, attacked: Lists, redraws: int) -> Audit:
    measured, rows = attack(known, attacked), len(attacked.target)
    null = np.array(
        [attack(redraw(known, number), redraw(attacked, number)) for number in range(redraws)]
    )
    chance, spread = float(null.mean()), float(null.std(ddof=1))
    low, high = _bounds(chance, spread, _USUAL, redraws)
    guessed = (rows * chance + 1) / (rows + 2)
    coins = math.sqrt(guessed * (1 - guessed) / rows)
    _, limit = _bounds(chance, max(spread, coins), _STRICT, redraws)
    return Audit(measured, chance, low, high, limit, rows)


def _bounds(mean: float, spread: float, z: float, redraws: int) -> tuple[float, float]:
    """Where one more redraw falls, as often as the normal quantile z says."""
    half = student_t(z, redraws - 1) * spread * math.sqrt(1 + 1 / redraws)
    return max(mean - half, 0.0), min(mean + half, 1.0)
