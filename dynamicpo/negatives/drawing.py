"""Candidate lists drawn afresh: the rows of all splits, and a sampler of each split's negatives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import Float32Array, IntArray, KeyArray
from dynamicpo.core.config import NegativesConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.progress import Progress
from dynamicpo.negatives.catalogue import Catalogue, EncodedRows, encode_rows
from dynamicpo.negatives.exclusions import Exclusions, RowExclusions, make_exclusions
from dynamicpo.negatives.row_orders import shuffle_candidates, shuffle_rejected
from dynamicpo.negatives.weighted_sampler import RowBatch, WeightedSampler

_CELLS_AT_ONCE = 1 << 19  # rows times candidates drawn at once, which bounds the memory
_EXCLUSION_NAMES = {
    "window": " and its history",
    "past": " and its user's past",
    "all": " and its user's items",
    "target": "",
}


@dataclass(frozen=True)
class SplitLists:
    """The candidate lists of a split.

    Attributes:
        candidates: Codes, the target among them. Shape (N, A).
        rejected: The same without the target, in another order. Shape (N, A - 1).
        counts: Numbers of negatives by kind, such as `hard_negatives`.
    """

    candidates: IntArray
    rejected: IntArray
    counts: dict[str, int] = field(default_factory=dict)


class Draws(NamedTuple):
    """Negatives of a batch of rows, (N, K), and numbers of them by kind."""

    negatives: IntArray
    counts: dict[str, int]


# Of training rows by their numbers: blocks of the scores of every item, (n, I) each.
ItemScorer = Callable[[IntArray], Iterator[Float32Array]]


class SamplingContext(NamedTuple):
    """All that a strategy may know when it makes its samplers.

    Attributes:
        config: Number of candidates, share of hard ones.
        train: The training rows.
        catalogue: The items.
        excluded: Titles that rows exclude.
        score_items: The model that mines negatives, for the strategy of that name.
    """

    config: NegativesConfig
    train: EncodedRows
    catalogue: Catalogue
    excluded: Exclusions
    score_items: ItemScorer | None

    @property
    def num_negatives(self) -> int:
        """Negatives of a row."""
        return self.config.num_candidates - 1

    def uniform_sampler(self) -> WeightedSampler:
        """Make a sampler to which all items are equally likely."""
        weights = np.ones(len(self.catalogue.item_ids))
        return WeightedSampler(self.catalogue, self.excluded, weights)


RowSampler = Callable[[RowBatch], Draws]
MakeSamplers = Callable[[SamplingContext], Mapping[str, RowSampler]]  # by split


def fill_rows(sampler: WeightedSampler, num_negatives: int) -> RowSampler:
    """Draw all negatives of a row with one sampler."""

    def sample(batch: RowBatch) -> Draws:
        empty = batch.unfilled(num_negatives)
        negatives = sampler.fill(batch, empty)
        no_counts: dict[str, int] = {}
        return Draws(negatives, no_counts)

    return sample


def proposed_first(
    context: SamplingContext, propose: Callable[[RowBatch], IntArray], limit: int, name: str
) -> RowSampler:
    """Take proposed negatives as far as rows allow them, and draw the others uniformly.

    Args:
        context: What a strategy knows.
        propose: Items for each row, the first ones before the others. Shape (N, P).
        limit: Proposed negatives of a row, at most.
        name: Name of their number among the counts.
    """
    sampler = context.uniform_sampler()

    def sample(batch: RowBatch) -> Draws:
        proposals = propose(batch)
        empty = batch.unfilled(context.num_negatives)
        proposed = sampler.accept(batch, empty, proposals, limit=limit)
        num_found = int((proposed >= 0).sum())
        negatives = sampler.fill(batch, proposed)
        return Draws(negatives, {name: num_found})

    return sample


def row_keys(config: NegativesConfig, split: str, example_ids: Sequence[str]) -> KeyArray:
    """Each row's key, on which all that is random about it depends. Shape (N,)."""
    return random_keys.keys(config.seed, f"negatives/{split}", example_ids)


def draw_lists(
    make_samplers: MakeSamplers,
    tables: Mapping[str, pa.Table],
    catalogue: Catalogue,
    config: NegativesConfig,
    score_items: ItemScorer | None = None,
) -> dict[str, SplitLists]:
    """Draw candidates and rejected items.

    Args:
        make_samplers: The strategy.
        tables: The rows of every split, the training split first.
        catalogue: The items.
        config: Number of candidates, exclusions, seed.
        score_items: The model that mines negatives.

    Raises:
        DataError: The catalogue is too small.
    """
    splits = []
    for split, table in tables.items():
        splits.append(encode_rows(table, split, catalogue))
    exclusions = make_exclusions(config.exclude, splits, catalogue)
    excluded = exclusions.excluded
    batches = _make_batches(splits, exclusions, config)
    for rows in splits:
        batch = batches[rows.split]
        _check_catalogue_size(rows, batch, excluded, catalogue, config)
    context = SamplingContext(
        config=config,
        train=splits[0],
        catalogue=catalogue,
        excluded=excluded,
        score_items=score_items,
    )
    return _draw_all(make_samplers(context), batches, config.num_candidates)


def _draw_all(
    samplers: Mapping[str, RowSampler], batches: Mapping[str, RowBatch], num_candidates: int
) -> dict[str, SplitLists]:
    """Draw for one split after the other."""
    num_rows = sum(len(batch.keys) for batch in batches.values())
    rows_at_once = max(1, _CELLS_AT_ONCE // num_candidates)
    lists = {}
    with Progress("negatives", num_rows) as progress:
        for split, batch in batches.items():
            sampler = samplers[split]
            lists[split] = _draw_split(sampler, batch, rows_at_once, progress)
    return lists


def _make_batches(
    splits: Sequence[EncodedRows], exclusions: RowExclusions, config: NegativesConfig
) -> dict[str, RowBatch]:
    """Collect what the draws of each split need to know of its rows."""
    batches = {}
    for index, rows in enumerate(splits):
        batches[rows.split] = RowBatch(
            keys=row_keys(config, rows.split, rows.example_ids),
            targets=rows.targets,
            owners=exclusions.owners[index],
            timestamps=exclusions.timestamps[index],
            numbers=np.arange(len(rows.targets)),
        )
    return batches


def _draw_split(
    sampler: RowSampler, batch: RowBatch, rows_at_once: int, progress: Progress
) -> SplitLists:
    """Draw for all rows of a split, some after the other."""
    parts: list[IntArray] = []
    counts: dict[str, int] = {}
    # A split without rows is drawn for once, too: its arrays need their width.
    num_rows = max(1, len(batch.keys))
    for start in range(0, num_rows, rows_at_once):
        end = start + rows_at_once
        part = batch.take(slice(start, end))
        draws = sampler(part)
        parts.append(draws.negatives)
        _add_counts(counts, draws.counts)
        progress.advance(len(part.keys))
    negatives = np.concatenate(parts)
    targets = batch.targets[:, None]
    candidates = np.concatenate([targets, negatives], axis=1)
    return SplitLists(
        candidates=shuffle_candidates(batch.keys, candidates),
        rejected=shuffle_rejected(batch.keys, negatives),
        counts=counts,
    )


def _add_counts(totals: dict[str, int], counts: Mapping[str, int]) -> None:
    """Add counts to totals, in place."""
    for name, count in counts.items():
        before = totals.get(name, 0)
        totals[name] = before + count


def _check_catalogue_size(
    rows: EncodedRows,
    batch: RowBatch,
    excluded: Exclusions,
    catalogue: Catalogue,
    config: NegativesConfig,
) -> None:
    """Refuse a catalogue that has too few titles for some row."""
    num_negatives = config.num_candidates - 1
    owners = batch.owners
    timestamps = batch.timestamps
    target_titles = catalogue.title_ids[batch.targets]
    num_excluded = excluded.count(owners, timestamps)
    # The target takes a title of its own, unless the row excludes that anyway.
    is_target_extra = ~excluded.contains(owners, timestamps, target_titles)
    num_titles = catalogue.num_titles
    num_free = num_titles - num_excluded - is_target_extra
    has_too_few = num_free < num_negatives
    if not has_too_few.any():
        return
    worst = num_free.argmin()
    least = int(num_free[worst])
    example_id = rows.example_ids[worst]
    remedy = "Give more items"
    if least > 0:
        remedy = f"Lower num_candidates to {least + 1}"
    if config.exclude in ("past", "all"):
        remedy += ", or exclude less ('window')"
    exclusion = _EXCLUSION_NAMES[config.exclude]
    raise DataError(
        f"{rows.split} row {example_id!r}: needs {num_negatives} negatives, but a "
        f"catalogue of {num_titles} titles offers {least} besides its "
        f"target{exclusion}. {remedy}."
    )
