"""Negative sampling: examples to preference rows.

Every draw is a hash of (seed, split, example id, draw number), so that a row's candidates depend on the row alone:
not on the order of rows, the other rows or the number of workers, and not on the target's id, which would give the
answer away (as the published lists do).

Neighbours of the target give it away, too. So 'hard' negatives are for training rows; held-out rows get the uniform
ones that they would get anyway, and the audit of every held-out split must find that a lookup gains nothing from them.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dynamicpo.core import random_keys
from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import NegativesConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.progress import Progress
from dynamicpo.core.records.manifest import Manifest, config_dict, read_manifest
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.rows import EXAMPLES, read_items, read_rows, write_items, write_rows
from dynamicpo.negatives.audit.audit import audit_split, check_audit
from dynamicpo.negatives.catalogue import (
    Catalogue,
    Codes,
    Rows,
    decode,
    encode_lists,
    encode_rows,
    make_catalogue,
)
from dynamicpo.negatives.draws import Batch, candidate_order, rejected_order
from dynamicpo.negatives.exclusions import Exclusions, excluded_by, exclusions
from dynamicpo.negatives.strata import STRATUM
from dynamicpo.negatives.strategies import drawers

log = logging.getLogger(__name__)

_CELLS_AT_ONCE = 1 << 19
Lists = dict[str, tuple[Codes, Codes]]
_HELD_OUT = ("validation", "test")
_WORDS = {"window": "its history", "past": "its user's past", "all": "its user's items"}


def sample_negatives(examples: Path, output: Path, config: NegativesConfig) -> Manifest:
    """Give each example its candidates and its rejected items.

    Args:
        examples: The output of data preparation.
        output: The folder to make: as `examples`, with the columns `candidates` and `rejected`.
        config: Strategy, number, exclusions and seed.

    Raises:
        CheckFailedError: Candidate lists of held-out rows give the answer away, and that is not allowed.
        ConfigError: The strategy needs what the examples do not have.
        DataError: The catalogue is too small, or published lists that can't be used.
    """
    source = read_manifest(examples, "prepare_data")
    manifest = Manifest("sample_negatives", config_dict(config), {"examples": source.fingerprint})
    if existing := finished(output, manifest):
        return existing
    with stage_output(output, manifest) as partial:
        items = read_items(examples)
        catalogue = make_catalogue(items)
        tables = {split: read_rows(examples, split, EXAMPLES) for split in SPLITS}
        draw = _published if config.strategy == "published" else _drawn
        for split, (candidates, rejected) in draw(
            tables, catalogue, config, manifest.counts
        ).items():
            table = tables[split].select(EXAMPLES.names)
            tables[split] = table.append_column("candidates", decode(candidates, catalogue))
            rows = tables[split].append_column("rejected", decode(rejected, catalogue))
            write_rows(partial, split, rows)
            manifest.counts[f"{split}_rows"] = len(table)
        write_items(partial, items)
        manifest.counts["items"] = len(items)
        manifest.extra = (
            source.extra | {"protocol": _protocol(config)} | _audited(tables, items, config)
        )
        manifest.counts |= _audit_counts(manifest.extra["audit"])
    log.info(
        "%s: %s", output, ", ".join(f"{name} {count}" for name, count in manifest.counts.items())
    )
    return manifest


def _audited(
    tables: dict[str, pa.Table], items: pd.DataFrame, config: NegativesConfig
) -> dict[str, Any]:
    """What a lookup that ignores the history gains from held-out lists; red lines where it may gain something."""
    exclude = excluded_by(config_dict(config))
    splits = [split for split in _HELD_OUT if len(tables[split])]
    found = {split: audit_split(tables, split, items, exclude, config.seed) for split in splits}
    warnings = [
        line
        for split in found
        for line in check_audit(found[split], f"{split} split", config.allow_leak)
    ]
    return {"audit": found} | ({"warnings": warnings} if warnings else {})


def _audit_counts(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    names = ("hit_ratio_at_1", "chance")
    return {
        f"{split}_audit_{name}": audit[name]
        for split, audit in found.items()
        for name in names
        if name in audit
    }


def _protocol(config: NegativesConfig) -> dict[str, Any]:
    """What makes numbers comparable: said in every report."""
    protocol = {
        name: getattr(config, name) for name in ("strategy", "exclude", "num_candidates", "seed")
    }
    more: dict[str, dict[str, Any]] = {
        "hard": {"hard_share": config.hard_share, "held_out_strategy": "uniform"},
        "popularity-matched": {"stratum": STRATUM * config.num_candidates},
        "published": {"exclude": "as published"},
    }
    return protocol | more.get(config.strategy, {})


def _keys(config: NegativesConfig, split: str, example_ids: Sequence[str]) -> NDArray[np.uint64]:
    return random_keys.keys(config.seed, f"negatives/{split}", example_ids)


def _drawn(
    tables: dict[str, pa.Table],
    catalogue: Catalogue,
    config: NegativesConfig,
    counts: dict[str, Any],
) -> Lists:
    """Fresh candidates and rejected items, by split."""
    splits = [encode_rows(table, split, catalogue) for split, table in tables.items()]
    excluded, owners, moments = exclusions(config.exclude, splits, catalogue)
    batches = {
        rows.split: Batch(_keys(config, rows.split, rows.example_ids), rows.targets, owner, moment)
        for rows, owner, moment in zip(splits, owners, moments, strict=True)
    }
    for rows in splits:
        _check_room(rows, batches[rows.split], excluded, catalogue, config)
    draws = drawers(config, splits[0], catalogue, excluded)
    if config.strategy == "hard":
        log.warning(
            "negatives: hard ones for training rows, uniform ones for validation and test (they would leak)"
        )
    lists: Lists = {}
    rows_at_once = max(1, _CELLS_AT_ONCE // config.num_candidates)
    with Progress("negatives", sum(len(batch.keys) for batch in batches.values())) as progress:
        for split, batch in batches.items():
            pieces = []
            for start in range(0, max(1, len(batch.keys)), rows_at_once):
                part = batch.take(slice(start, start + rows_at_once))
                pieces.append(draws[split](part))
                progress.advance(len(part.keys))
            lists[split] = _arranged(batch, np.concatenate([negatives for negatives, _ in pieces]))
            for name in pieces[0][1]:
                counts[f"{split}_{name}"] = sum(counted[name] for _, counted in pieces)
    return lists


def _arranged(batch: Batch, negatives: Codes) -> tuple[Codes, Codes]:
    """Candidates with the target at a random place, and the negatives in a random order of their own."""
    candidates = np.concatenate([batch.targets[:, None], negatives], axis=1)
    return candidate_order(batch.keys, candidates), rejected_order(batch.keys, negatives)


def _check_room(
    rows: Rows, batch: Batch, excluded: Exclusions, catalogue: Catalogue, config: NegativesConfig
) -> None:
    """Refuse a catalogue with too few titles for some row."""
    targets_free = ~excluded.contain(batch.owners, batch.moments, catalogue.texts[batch.targets])
    room = catalogue.num_texts - excluded.count(batch.owners, batch.moments) - targets_free
    if len(room) and room.min() < config.num_candidates - 1:
        worst = int(room.argmin())
        remedy = (
            f"Lower num_candidates to {room.min() + 1}" if room.min() > 0 else "Give more items"
        )
        hint = "" if config.exclude == "window" else ", or exclude less ('window')"
        raise DataError(
            f"{rows.split} row {rows.example_ids[worst]!r}: needs {config.num_candidates - 1} negatives, but a "
            f"catalogue of {catalogue.num_texts} titles offers {room.min()} besides its target and "
            f"{_WORDS[config.exclude]}. {remedy}{hint}."
        )


def _published(
    tables: dict[str, pa.Table],
    catalogue: Catalogue,
    config: NegativesConfig,
    counts: dict[str, Any],
) -> Lists:
    """The candidates that the rows came with, and the rejected items in a random order."""
    lists: Lists = {}
    for split, table in tables.items():
        if "candidates" not in table.column_names:
            raise ConfigError(
                "strategy: 'published' needs rows with candidate lists (source 'published'), but these have none. "
                "Choose uniform, popularity, popularity-matched or hard."
            )
        rows = encode_rows(table, split, catalogue)
        codes, owners = encode_lists(table, "candidates", split, catalogue)
        lengths = np.bincount(owners, minlength=len(table))
        _refuse(
            rows,
            lengths != config.num_candidates,
            f"must have num_candidates ({config.num_candidates}) candidates",
        )
        candidates = codes.reshape(len(table), config.num_candidates)
        texts = catalogue.texts[candidates]
        _refuse(
            rows,
            (np.diff(np.sort(texts, axis=1), axis=1) == 0).any(axis=1),
            "must have candidates that differ",
        )
        is_target = candidates == rows.targets[:, None]
        _refuse(rows, ~is_target.any(axis=1), "must have its target among the candidates")
        negatives = candidates[~is_target].reshape(len(table), config.num_candidates - 1)
        keys = _keys(config, split, rows.example_ids)
        lists[split] = candidates, rejected_order(keys, negatives)
    return lists


def _refuse(rows: Rows, broken: NDArray[np.bool_], must: str) -> None:
    if broken.any():
        raise DataError(
            f"{rows.split} row {rows.example_ids[int(broken.argmax())]!r}: {must}; {broken.sum()} rows do not. "
            "Set num_candidates to the lists' length, correct the rows, or draw fresh negatives (strategy uniform)."
        )
