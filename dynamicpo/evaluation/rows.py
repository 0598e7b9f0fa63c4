"""The rows of an evaluation: what each ranks, and what baselines and metrics need besides."""

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import pandas as pd
import pyarrow as pa

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import BoolArray, FloatArray, IntArray
from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest, canonical, fingerprint
from dynamicpo.core.records.rows import read_items, read_rows
from dynamicpo.core.row_numbers import numbered_blocks, rows_taken
from dynamicpo.evaluation.rankings import Ranking, rank_all, rank_listed
from dynamicpo.evaluation.results import EvaluatedRows
from dynamicpo.negatives.catalogue import (
    Catalogue,
    EncodedRows,
    encode_column,
    encode_rows,
    item_id_array,
    make_catalogue,
)
from dynamicpo.negatives.exclusions import effective_exclusion, make_exclusions

# What rows rank: their own lists, every item, or what a candidate generator proposes.
LISTED = "listed"
CATALOGUE = "catalogue"
PROPOSED = "proposed"
_COLUMNS = ("example_id", "user_id", "history", "target", "candidates")
_CANDIDATE_NAMES = {"uniform": "clean", "popularity": "clean, by popularity"}


class EvaluationProtocol(TypedDict):
    """Settings and rows that must be equal for numbers to be comparable.

    Attributes:
        candidates: A name for how the candidates came about.
        split: The split of the rows.
        score: How an item is scored.
        strategy: How listed candidates were drawn.
        exclude: What candidates exclude.
        repeats: Which of a user's interactions with one item count, where it is known.
        num_candidates: Candidates of a row; of the catalogue all, excluded ones too.
        num_rows: Number of rows.
        rows: A fingerprint of the rows with their candidates.
        catalogue: The protocol by which every item is ranked, where that is done beside lists.
        proposed: That by which a generator's proposals are, in place of every item.
    """

    candidates: str
    split: str
    score: str
    strategy: NotRequired[str]
    exclude: str
    repeats: NotRequired[str]
    num_candidates: int
    num_rows: int
    rows: str
    catalogue: NotRequired["EvaluationProtocol"]
    proposed: NotRequired["EvaluationProtocol"]


class SplitTables(Mapping[str, pa.Table]):
    """The rows of a preferences folder by split, each split read once, when it is first used."""

    def __init__(self, preferences: Path) -> None:
        """Read nothing yet."""
        self.folder = preferences
        self._tables: dict[str, pa.Table] = {}

    def __getitem__(self, split: str) -> pa.Table:
        """A split's rows."""
        tables = self._tables
        if split not in tables:
            table = read_rows(self.folder, split)
            tables[split] = table
        return tables[split]

    def __iter__(self) -> Iterator[str]:
        """The names of all splits."""
        return iter(SPLITS)

    def __len__(self) -> int:
        """The number of splits."""
        return len(SPLITS)


class ExcludedTitles(NamedTuple):
    """Titles that rows do not rank.

    Attributes:
        bounds: Index of each row's first title, and the end. Shape (N + 1,).
        title_ids: Row by row.
        item_titles: The title of each item. Shape (I,).
    """

    bounds: IntArray
    title_ids: IntArray
    item_titles: IntArray

    def candidate_mask(self, rows: slice, targets: IntArray) -> BoolArray:
        """Mark the items that some rows rank: their targets and all but the excluded. (n, I)."""
        end = rows.stop + 1  # a row's titles end where those of the next begin
        bounds = self.bounds[rows.start : end]
        num_rows = len(targets)
        row_numbers = np.arange(num_rows)
        counts = np.diff(bounds)
        title_rows = np.repeat(row_numbers, counts)
        title_ids = self.title_ids[bounds[0] : bounds[-1]]
        item_titles = self.item_titles
        num_titles = int(item_titles.max()) + 1
        is_excluded = np.zeros((num_rows, num_titles), dtype=bool)
        is_excluded[title_rows, title_ids] = True
        mask = ~is_excluded[:, item_titles]
        mask[row_numbers, targets] = True
        return mask


@dataclass(frozen=True)
class EvaluationData:
    """The rows to evaluate.

    Attributes:
        table: Their columns; without candidates where every item is ranked.
        rows: Their keys and targets.
        items: The items table.
        kind: What they rank: LISTED, CATALOGUE or PROPOSED.
        codes: The code of each candidate, (N, A); None where every item is ranked.
        excluded: Where every item is ranked, those that are not; None for listed candidates.
        protocol: What must be equal for numbers to be comparable.
    """

    table: pa.Table
    rows: EvaluatedRows
    items: pd.DataFrame
    kind: str
    codes: IntArray | None
    excluded: ExcludedTitles | None
    protocol: EvaluationProtocol

    @property
    def has_repeats(self) -> bool:
        """True where a target may stand in its own history, so that nothing seen is excluded."""
        return self.protocol["exclude"] == "target"

    def block_rankings(
        self, score_blocks: Iterable[FloatArray], left_out: Container[int] = ()
    ) -> Iterator[tuple[slice, Ranking]]:
        """Rank by scores of every item, in blocks of rows that follow each other, (n, I) each.

        Args:
            score_blocks: Of all rows but some.
            left_out: The numbers of those.
        """
        rows = self.rows
        # Between equals an item is drawn by the row's key, whatever the blocks.
        keys = random_keys.keys(0, f"equals/{rows.split}", rows.example_ids)
        for block, scores in numbered_blocks(score_blocks, left_out):
            targets = rows.target_index[block]
            if self.excluded is not None:
                mask = self.excluded.candidate_mask(block, targets)
                yield block, rank_all(scores, targets, mask, keys[block])
            elif self.codes is not None:
                codes = self.codes[block]
                listed_scores = np.take_along_axis(scores, codes, axis=1)
                yield block, rank_listed(listed_scores, targets, codes)


def read_data(tables: SplitTables, source: Manifest, config: EvaluationConfig) -> EvaluationData:
    """Read the rows of the configuration: all of the split, or some chosen by key.

    Args:
        tables: The rows of all splits.
        source: The manifest of their preferences folder.
        config: Split, candidates, number of rows.

    Raises:
        DataError: No rows, or rows without their target among their candidates.
    """
    folder = tables.folder
    table = _choose_rows(tables, config)
    items = read_items(folder)
    if config.candidates == "catalogue":
        table = table.drop_columns(["candidates"])
        return _catalogue_data(table, items, tables, source, config)
    split_folder = folder / config.split
    return _listed_data(table, items, split_folder, source, config)


def read_catalogue_data(
    tables: SplitTables, source: Manifest, config: EvaluationConfig
) -> EvaluationData | None:
    """Read the same rows to rank every item beside the listed ones; None where that is not asked.

    Raises:
        ConfigError: More rows than there are.
        DataError: No rows.
    """
    if config.candidates != "listed,catalogue":
        return None
    return read_all_items(tables, source, config)


def read_all_items(
    tables: SplitTables, source: Manifest, config: EvaluationConfig
) -> EvaluationData:
    """Read the same rows to rank every item.

    Raises:
        ConfigError: More rows than there are.
        DataError: No rows.
    """
    # Generated answers name listed candidates.
    return read_data(tables, source, replace(config, candidates="catalogue", generate=False))


def _choose_rows(tables: SplitTables, config: EvaluationConfig) -> pa.Table:
    split = config.split
    table = tables[split]
    num_rows = len(table)
    if not num_rows:
        raise DataError(
            f"{tables.folder / split}: must hold at least one row, got none. "
            "Evaluate another split."
        )
    example_ids = table["example_id"].to_pylist()
    order = random_keys.random_order(config.seed, f"evaluation/{split}", example_ids)
    num_chosen = rows_taken(config.rows, num_rows, f"evaluation, {split} split")
    # Sorted, so that the rows stay in the order of the split.
    chosen = np.sort(order[:num_chosen])
    table = table.select(list(_COLUMNS))
    return table.take(pa.array(chosen)).combine_chunks()


def _listed_data(
    table: pa.Table, items: pd.DataFrame, where: Path, source: Manifest, config: EvaluationConfig
) -> EvaluationData:
    """Rows that rank the candidates they list."""
    example_ids: list[str] = table["example_id"].to_pylist()
    candidates: list[list[str]] = table["candidates"].to_pylist()
    targets: list[str] = table["target"].to_pylist()
    rows = EvaluatedRows(
        split=config.split,
        example_ids=example_ids,
        users=table["user_id"].to_pylist(),
        target_index=_target_positions(example_ids, targets, candidates, where),
    )
    num_rows = len(table)
    encoded = encode_column(
        table["candidates"],
        item_id_array(items),
        lambda row: f"{where}: row {example_ids[row]}",
    )
    codes = encoded.codes.reshape(num_rows, -1)
    _, num_candidates = codes.shape
    sampled = source.extra.get("protocol", {})
    strategy = sampled.get("strategy", "unknown")
    if config.split != "train":
        # The training rows may have negatives that would leak in others.
        strategy = sampled.get("held_out_strategy", strategy)
    exclude = sampled.get("exclude", "unknown")
    protocol: EvaluationProtocol = {
        "candidates": _CANDIDATE_NAMES.get(strategy, strategy),
        "split": config.split,
        "score": config.score,
        "strategy": strategy,
        "exclude": exclude,
        "num_candidates": num_candidates,
        "num_rows": num_rows,
        "rows": _rows_fingerprint(table, canonical(candidates)),
    }
    _state_repeats(protocol, source)
    return EvaluationData(table, rows, items, LISTED, codes, None, protocol)


def _state_repeats(protocol: EvaluationProtocol, source: Manifest) -> None:
    """Add to a protocol which repeats the data keep, where it is known."""
    sampled = source.extra.get("protocol", {})
    if "repeats" in sampled:
        protocol["repeats"] = sampled["repeats"]


def _target_positions(
    example_ids: list[str], targets: list[str], candidates: list[list[str]], where: Path
) -> IntArray:
    """The index of each row's target in its list, which must hold it once. Shape (N,)."""
    length = len(candidates[0])
    positions = []
    for example_id, target, row in zip(example_ids, targets, candidates, strict=True):
        num_candidates = len(row)
        num_targets = row.count(target)
        if num_candidates != length or num_targets != 1:
            raise DataError(
                f"{where}: row {example_id} must list its target {target!r} once among {length} "
                f"candidates, got {num_targets} times among {num_candidates}. "
                "Sample negatives again."
            )
        position = row.index(target)
        positions.append(position)
    return np.array(positions, dtype=np.int64)


def _catalogue_data(
    table: pa.Table,
    items: pd.DataFrame,
    tables: SplitTables,
    source: Manifest,
    config: EvaluationConfig,
) -> EvaluationData:
    """Rows that rank every item but what the sampling of negatives excludes."""
    catalogue = make_catalogue(items)
    encoded = encode_rows(table, config.split, catalogue)
    exclude = effective_exclusion(source.config)
    splits = [encoded]
    if exclude in ("past", "all"):
        # A user's other items are in rows of any split.
        for split, split_table in tables.items():
            splits.append(encode_rows(split_table, split, catalogue))
    pairs = _excluded_pairs(exclude, splits, catalogue)
    item_ids = items["item_id"].tolist()
    pairs_digest = hashlib.sha256(pairs.tobytes()).hexdigest()
    candidates_text = pairs_digest + canonical(item_ids)
    protocol: EvaluationProtocol = {
        "candidates": "full-catalogue",
        "split": config.split,
        "score": config.score,
        "exclude": exclude,
        "num_candidates": len(items),
        "num_rows": len(table),
        "rows": _rows_fingerprint(table, candidates_text),
    }
    _state_repeats(protocol, source)
    rows = EvaluatedRows(
        split=config.split,
        example_ids=encoded.example_ids,
        users=encoded.users,
        target_index=encoded.targets,
    )
    excluded = _excluded_titles(pairs, len(table), catalogue)
    return EvaluationData(table, rows, items, CATALOGUE, None, excluded, protocol)


def _excluded_pairs(exclude: str, splits: Sequence[EncodedRows], catalogue: Catalogue) -> IntArray:
    """Sorted numbers row * num_titles + title id of all that the first split's rows exclude."""
    exclusions, owners, timestamps = make_exclusions(exclude, splits, catalogue)
    num_titles = catalogue.num_titles
    row_index, title_ids = exclusions.pairs(owners[0], timestamps[0])
    pairs = row_index * num_titles + title_ids
    # The target's own title too, so that nothing else that reads as the target is ranked.
    targets = splits[0].targets
    rows = np.arange(len(targets))
    target_titles = catalogue.title_ids[targets]
    target_pairs = rows * num_titles + target_titles
    all_pairs = np.concatenate([pairs, target_pairs])
    return np.unique(all_pairs)


def _excluded_titles(pairs: IntArray, num_rows: int, catalogue: Catalogue) -> ExcludedTitles:
    """Split sorted numbers row * num_titles + title id into rows."""
    row_index, title_ids = np.divmod(pairs, catalogue.num_titles)
    rows = np.arange(num_rows + 1)
    bounds = np.searchsorted(row_index, rows)
    return ExcludedTitles(bounds, title_ids, catalogue.title_ids)


def _rows_fingerprint(table: pa.Table, candidates_text: str) -> str:
    """A name for the rows, from their ids, histories and targets and a text of the candidates."""
    texts = []
    for column in ("example_id", "history", "target"):
        values = table[column].to_pylist()
        texts.append(canonical(values))
    texts.append(candidates_text)
    return fingerprint(texts)
