"""The rows of an evaluation: what each ranks, and what baselines and metrics need besides."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dynamicpo.core import random_keys
from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import Manifest, canonical, fingerprint
from dynamicpo.core.records.rows import EXAMPLES, read_items, read_rows
from dynamicpo.evaluation.baselines.simple import item_codes
from dynamicpo.evaluation.rankings import Codes, Ranking, Scores, joined, rank_all, rank_listed
from dynamicpo.evaluation.results import Rows
from dynamicpo.negatives.catalogue import encode_rows, make_catalogue
from dynamicpo.negatives.exclusions import effective_exclusion, make_exclusions

_COLUMNS = ("example_id", "user_id", "history", "target", "candidates")
_NAMES = {"uniform": "clean", "popularity": "clean, by popularity"}


class Barred(NamedTuple):
    """Titles that rows do not rank.

    Attributes:
        first: Each row's first place among them, and the end. Shape (N + 1,).
        titles: Row by row, as numbers.
        texts: The title of each item, likewise. Shape (I,).
    """

    first: Codes
    titles: Codes
    texts: Codes

    def allowed(self, here: slice, targets: Codes) -> NDArray[np.bool_]:
        """Which items some rows rank: their targets and all but the barred. Shape (n, I)."""
        starts = self.first[here.start : here.stop + 1]
        row = np.repeat(np.arange(len(targets)), np.diff(starts))
        barred = np.zeros((len(targets), int(self.texts.max()) + 1), dtype=bool)
        barred[row, self.titles[starts[0] : starts[-1]]] = True
        mask = ~barred[:, self.texts]
        mask[np.arange(len(targets)), targets] = True
        return mask


@dataclass(frozen=True)
class Data:
    """The rows to evaluate.

    Attributes:
        table: Their columns; without candidates where every item is ranked.
        rows: Their keys and targets.
        items: The items table.
        codes: Each candidate's place in it, (N, A); None where every item is ranked.
        barred: What is not ranked, where every item is but that.
        protocol: What must be equal for numbers to be comparable.
    """

    table: pa.Table
    rows: Rows
    items: pd.DataFrame
    codes: Codes | None
    barred: Barred | None
    protocol: dict[str, Any]

    def ranking(self, blocks: Iterable[Scores]) -> Ranking:
        """The ranking by scores of every item, in blocks of rows that follow each other, (n, I)."""
        parts, start = [], 0
        keys = random_keys.keys(0, f"equals/{self.rows.split}", self.rows.example_ids)
        for scores in blocks:
            here = slice(start, start := start + len(scores))
            targets = self.rows.target_index[here]
            if self.barred is not None:
                parts.append(
                    rank_all(scores, targets, self.barred.allowed(here, targets), keys[here])
                )
            elif self.codes is not None:
                parts.append(
                    rank_listed(
                        np.take_along_axis(scores, self.codes[here], 1), targets, self.codes[here]
                    )
                )
        return joined(parts)


def read_data(preferences: Path, source: Manifest, config: EvaluationConfig) -> Data:
    """The rows of the configuration: all of the split, or some chosen by key.

    Raises:
        ConfigError: More rows than there are.
        DataError: No rows, or rows without their target among their candidates.
    """
    table, items, where = (
        read_rows(preferences, config.split),
        read_items(preferences),
        preferences / config.split,
    )
    order = random_keys.random_order(
        config.seed, f"evaluation/{config.split}", table["example_id"].to_pylist()
    )
    if not len(order):
        raise DataError(f"{where}: must hold at least one row, got none. Evaluate another split.")
    if config.rows > len(order):
        raise ConfigError(
            f"rows: must be <= {len(order)}, the rows of the {config.split} split, got {config.rows}."
        )
    table = (
        table.select(list(_COLUMNS))
        .take(pa.array(np.sort(order[: config.rows or len(order)])))
        .combine_chunks()
    )
    if config.candidates == "catalogue":
        return _everything(table.drop_columns(["candidates"]), items, preferences, source, config)
    return _listed(table, items, where, source, config)


def _listed(
    table: pa.Table, items: pd.DataFrame, where: Path, source: Manifest, config: EvaluationConfig
) -> Data:
    listed: list[list[str]] = table["candidates"].to_pylist()
    names, targets = table["example_id"].to_pylist(), table["target"].to_pylist()
    for name, target, candidates in zip(names, targets, listed, strict=True):
        if len(candidates) != len(listed[0]) or candidates.count(target) != 1:
            raise DataError(
                f"{where}: row {name} must list its target {target!r} once among {len(listed[0])} candidates, got "
                f"{candidates.count(target)} times among {len(candidates)}. Sample negatives again."
            )
    places = [candidates.index(target) for candidates, target in zip(listed, targets, strict=True)]
    rows = Rows(config.split, names, table["user_id"].to_pylist(), np.array(places, dtype=np.int64))
    codes = item_codes(table["candidates"], pd.Index(items["item_id"]))[0].reshape(len(listed), -1)
    sampled = source.extra.get("protocol", {})
    strategy = sampled.get("strategy", "unknown")
    if config.split != "train":
        strategy = sampled.get("held_out_strategy", strategy)
    facts = {
        "strategy": strategy,
        "exclude": sampled.get("exclude", "unknown"),
        "num_candidates": codes.shape[1],
    }
    name = _NAMES.get(strategy, strategy)
    return Data(
        table, rows, items, codes, None, _protocol(name, table, facts, config, canonical(listed))
    )


def _everything(
    table: pa.Table,
    items: pd.DataFrame,
    preferences: Path,
    source: Manifest,
    config: EvaluationConfig,
) -> Data:
    """Every item but what the sampling of negatives excludes: the history, the user's past, or all the user's items."""
    catalogue, exclude = make_catalogue(items), effective_exclusion(source.config)
    everyone = []
    if exclude != "window":
        everyone = [
            encode_rows(read_rows(preferences, split, EXAMPLES), split, catalogue)
            for split in SPLITS
        ]
    chosen = encode_rows(table, config.split, catalogue)
    known, owners, moments = make_exclusions(exclude, [chosen, *everyone], catalogue)
    row, text = known.pairs(owners[0], moments[0])
    number = np.arange(len(chosen.targets))
    own = catalogue.title_ids[chosen.targets]  # so that nothing else that reads as the target is ranked
    pairs = np.unique(
        np.concatenate([row, number]) * catalogue.num_titles + np.concatenate([text, own])
    )
    row, text = np.divmod(pairs, catalogue.num_titles)
    barred = Barred(np.searchsorted(row, np.arange(len(number) + 1)), text, catalogue.title_ids)
    rows = Rows(config.split, chosen.example_ids, chosen.users, chosen.targets)
    facts = {"exclude": exclude, "num_candidates": len(items)}
    digest = hashlib.sha256(pairs.tobytes()).hexdigest() + canonical(items["item_id"].tolist())
    return Data(
        table, rows, items, None, barred, _protocol("full-catalogue", table, facts, config, digest)
    )


def _protocol(
    name: str, table: pa.Table, facts: dict[str, Any], config: EvaluationConfig, candidates: str
) -> dict[str, Any]:
    columns = [
        canonical(table[column].to_pylist()) for column in ("example_id", "history", "target")
    ]
    return {
        "candidates": name,
        "split": config.split,
        "score": config.score,
        **facts,
        "num_rows": len(table),
        "rows": fingerprint([*columns, candidates]),
    }
