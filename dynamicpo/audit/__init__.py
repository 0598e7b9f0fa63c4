"""Do the candidate lists alone give the answer away?

A history-blind attacker learns from the training rows' lists and picks an item from each list of the test
rows. Popularity alone lifts it above 1 / A, so it is measured against itself, trained and tested anew on
lists that are drawn uniformly, by row, for the same rows: a leak is a hit ratio above the 95 % interval of those.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dynamicpo import keyed
from dynamicpo.audit.attacker import Floats, Integers, Lists, attack, redraw
from dynamicpo.errors import ConfigError, DataError
from dynamicpo.importers.published import local_files as published_files
from dynamicpo.importers.published import read_published
from dynamicpo.records import EXAMPLES, SPLITS, read_items, read_manifest, read_rows

log = logging.getLogger(__name__)

MIN_REDRAWS = 20
_COLUMNS = ("example_id", "user_id", "history", "target", "candidates")


@dataclass(frozen=True)
class _Source:
    """What was read: rows with `_COLUMNS`, all rows of their users (for what they know), and the catalogue."""

    path: Path
    split: str
    rows: pd.DataFrame
    known: pd.DataFrame
    items: list[str]
    exclude: str


def audit_candidates(
    train: Path | str, test: Path | str, *, redraws: int = 20, rows: int = 10_000, seed: int = 0
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
        raise ConfigError(f"redraws: must be >= {MIN_REDRAWS} for a 95 % interval, got {redraws}. Raise it.")
    sources = _read(Path(train), "train"), _read(Path(test), "test")
    items = pd.Index(sorted({*sources[0].items, *sources[1].items}))
    known, attacked = (_encode(source, items, rows, seed) for source in sources)
    measured = attack(known, attacked)
    null = [attack(redraw(known, number), redraw(attacked, number)) for number in range(redraws)]
    chance, low, high = _interval(np.array(null))
    log.info("candidate lists: a history-blind attacker hits %.3f, on redrawn lists %.3f", measured, chance)
    return {"hit_ratio_at_1": measured, "chance": chance, "low": low, "high": high, "leak": measured > high}


def _interval(null: Floats) -> tuple[float, float, float]:
    """Mean of the redraws, and where one more redraw falls in 95 of 100 cases.

    Student's quantile by its expansion in 1 / df: z + (z^3 + z) / (4 df), off by 0.002 at 39 degrees of freedom.
    """
    z, df, mean = 1.959964, len(null) - 1, float(null.mean())
    half = (z + (z**3 + z) / (4 * df)) * float(null.std(ddof=1)) * float(np.sqrt(1 + 1 / len(null)))
    return mean, max(mean - half, 0.0), min(mean + half, 1.0)


def _encode(source: _Source, items: "pd.Index[str]", limit: int, seed: int) -> Lists:
    names = source.rows["example_id"].tolist()
    chosen = np.sort(keyed.ranking(seed, f"audit/{source.split}", names)[: limit or len(names)])
    rows = source.rows.iloc[chosen].reset_index(drop=True)
    widths = rows["candidates"].map(len)
    if widths.nunique() != 1:
        raise DataError(
            f"{source.path}: all rows must have as many candidates, got {widths.min()} to {widths.max()}. "
            "Audit rows of one length at a time."
        )
    lists = _numbers(items, chain.from_iterable(rows["candidates"])).reshape(len(rows), -1)
    target = _numbers(items, rows["target"])
    wrong = np.flatnonzero((lists == target[:, None]).sum(axis=1) != 1)
    if len(wrong):
        raise DataError(
            f"{source.path}: every row must list its target once, {len(wrong)} do not, first row "
            f"{rows['example_id'][wrong[0]]} with target {rows['target'][wrong[0]]!r}. Correct the rows."
        )
    keys = keyed.keys(seed, f"audit/{source.split}", rows["example_id"].tolist())
    return Lists(keys, target, lists, _excluded(rows, source, items), len(items))


def _excluded(rows: pd.DataFrame, source: _Source, items: "pd.Index[str]") -> Integers:
    """The (row, item) pairs that the rows' own protocol excludes from the negatives: window, past or all."""
    number = np.arange(len(rows), dtype=np.int64)
    lengths = rows["history"].map(len).to_numpy(dtype=np.int64)
    pairs = [
        np.repeat(number, lengths) * len(items) + _numbers(items, chain.from_iterable(rows["history"])),
        number * len(items) + _numbers(items, rows["target"]),
    ]
    if source.exclude != "window":
        own = pd.DataFrame({"row": number, "user_id": rows["user_id"], "moment": _moments(rows)})
        joined = own.merge(_first_seen(source.known), on="user_id")
        if source.exclude == "past":
            joined = joined[joined["seen"] < joined["moment"]]
        pairs.append(joined["row"].to_numpy(dtype=np.int64) * len(items) + _numbers(items, joined["item"]))
    return np.unique(np.concatenate(pairs))


def _moments(rows: pd.DataFrame) -> "pd.Series[int]":
    """Twice the target's position in its user's sequence: the history was known one moment before."""
    return 2 * rows["example_id"].str.rpartition(":")[2].astype("int64")


def _first_seen(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns `user_id`, `item`, `seen`: the moment from which each user knows an item."""
    known = rows[["user_id", "history", "target"]].assign(seen=_moments(rows))
    history = known.assign(item=known["history"], seen=known["seen"] - 1).explode("item")
    both = pd.concat([history, known.assign(item=known["target"])])
    return both.groupby(["user_id", "item"], as_index=False).agg(seen=("seen", "min"))


def _numbers(items: "pd.Index[str]", names: Iterable[str]) -> Integers:
    return np.asarray(items.get_indexer(pd.Index(list(names), dtype=object)), dtype=np.int64)


def _read(path: Path, split: str) -> _Source:
    if path.is_file():
        return _published(path, split)
    if (path / "manifest.json").is_file():
        return _preferences(path, split)
    if path.is_dir() and (path.parent / "manifest.json").is_file():
        return _preferences(path.parent, path.name)
    raise DataError(f"{path}: must be a .json or .jsonl file or a preferences folder, but it is neither. Correct it.")


def _preferences(folder: Path, split: str) -> _Source:
    exclude = str(read_manifest(folder).config.get("exclude", "window"))
    rows = read_rows(folder, split).select(list(_COLUMNS)).to_pandas()
    if rows.empty:
        raise DataError(f"{folder / split}: must hold at least one row, but it is empty. Choose another split.")
    known = rows
    if exclude != "window":
        known = pd.concat([read_rows(folder, name, EXAMPLES).to_pandas() for name in SPLITS])
    return _Source(folder / split, split, rows, known, read_items(folder)["item_id"].tolist(), exclude)


def _published(path: Path, split: str) -> _Source:
    import ibis

    rows = read_published(ibis.duckdb.connect(), published_files(path))
    rows = rows.assign(example_id=rows.index.astype(str))
    items = {*rows["target"], *chain.from_iterable(rows["history"]), *chain.from_iterable(rows["candidates"])}
    return _Source(path, split, rows, rows, sorted(items), "window")
