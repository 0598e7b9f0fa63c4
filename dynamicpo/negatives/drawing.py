"""Candidate lists drawn afresh: the rows of all splits, and a sampler of each split's negatives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import IntArray, KeyArray
from dynamicpo.core.config import NegativesConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.progress import Progress
from dynamicpo.negatives.catalogue import Catalogue, EncodedRows, encode_rows
from dynamicpo.negatives.exclusions import Exclusions, make_exclusions
from dynamicpo.negatives.row_orders import shuffle_candidates, shuffle_rejected
from dynamicpo.negatives.weighted_sampler import RowBatch, WeightedSampler

_CELLS_AT_ONCE = 1 << 19  # rows times candidates drawn at once, which bounds the memory
_EXCLUSION_NAMES = {
    "window": "its history",
    "past": "its user's past",
    "all": "its user's items",
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


class SamplingContext(NamedTuple):
    """All that a strategy may know when it makes its samplers.

    Attributes:
        config: Number of candidates, share of hard ones.
        train: The training rows.
        catalogue: The items.
        excluded: Titles that rows exclude.
    """

    config: NegativesConfig
    train: EncodedRows
    catalogue: Catalogue
    excluded: Exclusions

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
        return Draws(sampler.fill(batch, batch.unfilled(num_negatives)), {})

    return sample


def row_keys(config: NegativesConfig, split: str, example_ids: Sequence[str]) -> KeyArray:
    """Each row's key, on which all that is random about it depends. Shape (N,)."""
    return random_keys.keys(config.seed, f"negatives/{split}", example_ids)


def draw_lists(
    make_samplers: MakeSamplers,
    tables: Mapping[str, pa.Table],
    catalogue: Catalogue,
    config: NegativesConfig,
) -> dict[str, SplitLists]:
    """Draw candidates and rejected items.

    Args:
        make_samplers: The strategy.
        tables: The rows of every split, the training split first.
        catalogue: The items.
        config: Number of candidates, exclusions, seed.

    Raises:
        DataError: The catalogue is too small.
    """
    splits = [encode_rows(table, split, catalogue) for split, table in tables.items()]
    excluded, owners, timestamps = make_exclusions(config.exclude, splits, catalogue)
    batches: dict[str, RowBatch] = {}
    for rows, row_owners, row_timestamps in zip(splits, owners, timestamps, strict=True):
        keys = row_keys(config, rows.split, rows.example_ids)
        batch = RowBatch(keys, rows.targets, row_owners, row_timestamps)
        _check_catalogue_size(rows, batch, excluded, catalogue, config)
        batches[rows.split] = batch
    samplers = make_samplers(SamplingContext(config, splits[0], catalogue, excluded))
    num_rows = sum(len(batch.keys) for batch in batches.values())
    rows_at_once = max(1, _CELLS_AT_ONCE // config.num_candidates)
    with Progress("negatives", num_rows) as progress:
        return {
            split: _draw_split(samplers[split], batch, rows_at_once, progress)
            for split, batch in batches.items()
        }


def _draw_split(
    sampler: RowSampler, batch: RowBatch, rows_at_once: int, progress: Progress
) -> SplitLists:
    """Draw for all rows of a split, some after the other."""
    parts: list[Draws] = []
    # A split without rows is drawn for once, too: its arrays need their width.
    for start in range(0, max(1, len(batch.keys)), rows_at_once):
        part = batch.take(slice(start, start + rows_at_once))
        parts.append(sampler(part))
        progress.advance(len(part.keys))
    negatives = np.concatenate([part.negatives for part in parts])
    candidates = np.concatenate([batch.targets[:, None], negatives], axis=1)
    counts = {name: sum(part.counts[name] for part in parts) for name in parts[0].counts}
    return SplitLists(
        candidates=shuffle_candidates(batch.keys, candidates),
        rejected=shuffle_rejected(batch.keys, negatives),
        counts=counts,
    )


def _check_catalogue_size(
    rows: EncodedRows,
    batch: RowBatch,
    excluded: Exclusions,
    catalogue: Catalogue,
    config: NegativesConfig,
) -> None:
    """Refuse a catalogue that has too few titles for some row."""
    num_negatives = config.num_candidates - 1
    target_titles = catalogue.title_ids[batch.targets]
    num_excluded = excluded.count(batch.owners, batch.timestamps)
    # The target takes a title of its own, unless the row excludes that anyway.
    is_target_extra = ~excluded.contains(batch.owners, batch.timestamps, target_titles)
    num_free = catalogue.num_titles - num_excluded - is_target_extra
    if not len(num_free) or num_free.min() >= num_negatives:
        return
    worst = int(num_free.argmin())
    least = int(num_free[worst])
    remedy = f"Lower num_candidates to {least + 1}" if least > 0 else "Give more items"
    hint = "" if config.exclude == "window" else ", or exclude less ('window')"
    raise DataError(
        f"{rows.split} row {rows.example_ids[worst]!r}: needs {num_negatives} negatives, but a "
        f"catalogue of {catalogue.num_titles} titles offers {least} besides its target and "
        f"{_EXCLUSION_NAMES[config.exclude]}. {remedy}{hint}."
    )
