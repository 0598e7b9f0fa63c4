"""Published negatives: the candidate lists that the rows came with."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from dynamicpo.core.arrays import BoolArray
from dynamicpo.core.config import NegativesConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.negatives.catalogue import Catalogue, EncodedRows, encode_lists, encode_rows
from dynamicpo.negatives.drawing import ItemScorer, SplitLists, row_keys
from dynamicpo.negatives.row_orders import shuffle_rejected


def published_lists(
    tables: Mapping[str, pa.Table],
    catalogue: Catalogue,
    config: NegativesConfig,
    _score_items: ItemScorer | None = None,
) -> dict[str, SplitLists]:
    """Keep the rows' own candidates, and shuffle the rejected items among them.

    Raises:
        ConfigError: The rows came without candidates.
        DataError: Lists that can't be used.
    """
    return {
        split: _lists_of_split(table, split, catalogue, config) for split, table in tables.items()
    }


def _lists_of_split(
    table: pa.Table, split: str, catalogue: Catalogue, config: NegativesConfig
) -> SplitLists:
    if "candidates" not in table.column_names:
        raise ConfigError(
            "strategy: 'published' needs rows with candidate lists (source 'published'), but these "
            "have none. Choose uniform, popularity, popularity-matched or hard."
        )
    length = config.num_candidates
    rows = encode_rows(table, split, catalogue)
    codes, list_rows = encode_lists(table, "candidates", split, catalogue)
    lengths = np.bincount(list_rows, minlength=len(table))
    _require(rows, lengths == length, f"must have num_candidates ({length}) candidates")
    candidates = codes.reshape(len(table), length)
    title_ids = catalogue.title_ids[candidates]
    steps = np.diff(np.sort(title_ids, axis=1), axis=1)
    all_differ = np.asarray(steps.all(axis=1))
    _require(rows, all_differ, "must have candidates that differ")
    is_target = candidates == rows.targets[:, None]
    has_target = is_target.any(axis=1)
    _require(rows, has_target, "must have its target among the candidates")
    negatives = candidates[~is_target]
    negatives = negatives.reshape(len(table), length - 1)
    keys = row_keys(config, split, rows.example_ids)
    rejected = shuffle_rejected(keys, negatives)
    return SplitLists(candidates, rejected)


def _require(rows: EncodedRows, holds: BoolArray, requirement: str) -> None:
    """Refuse rows for which a requirement does not hold."""
    if holds.all():
        return
    first_broken = holds.argmin()
    first = rows.example_ids[first_broken]
    num_broken = len(holds) - holds.sum()
    raise DataError(
        f"{rows.split} row {first!r}: {requirement}; {num_broken} rows do not. Set num_candidates "
        "to the lists' length, correct the rows, or draw fresh negatives (strategy uniform)."
    )
