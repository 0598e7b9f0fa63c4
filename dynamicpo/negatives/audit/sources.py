"""Rows to audit, from published files, preferences folders or tables, as whole numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dynamicpo.core import random_keys
from dynamicpo.core.choices import SPLITS
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.core.records.rows import CANDIDATES, EXAMPLES, read_items, read_rows
from dynamicpo.data.sources.published import local_files as published_files
from dynamicpo.data.sources.published import read_published
from dynamicpo.negatives.audit.attacker import Lists
from dynamicpo.negatives.catalogue import Catalogue, encode_lists, encode_rows
from dynamicpo.negatives.exclusions import excluded_by, exclusions

_COLUMNS = (*(name for name in EXAMPLES.names if name != "timestamp"), CANDIDATES.name)


class Source(NamedTuple):
    """Rows to audit.

    Attributes:
        where: What to name in messages.
        split: Which of the tables holds them.
        tables: The rows of every split: what users know is taken from all of them.
        items: The items that candidates may come from.
        exclude: What the rows' negatives exclude.
    """

    where: str
    split: str
    tables: Mapping[str, pa.Table]
    items: Sequence[str]
    exclude: str


def catalogue_of(names: Sequence[str]) -> Catalogue:
    """Items that are told apart by their ids alone."""
    ids = np.unique(np.asarray(names, dtype=object).astype(str))
    return Catalogue(
        pa.array(ids, pa.string()), np.arange(len(ids)), np.zeros(len(ids), dtype=np.int64)
    )


def encode(source: Source, catalogue: Catalogue, seed: int, part: slice) -> Lists:
    """Some rows of a source, chosen by key.

    Args:
        source: Where they come from.
        catalogue: All items.
        seed: Seed of the choice and of the redraws.
        part: Which of the rows, in the order of their keys.

    Raises:
        DataError: Lists of several lengths, or without their target.
    """
    table, split = source.tables[source.split].select(list(_COLUMNS)), source.split
    order = random_keys.ranking(seed, f"audit/{split}", table["example_id"].to_pylist())
    table = table.take(pa.array(np.sort(order[part]))).combine_chunks()
    rows = encode_rows(table, split, catalogue)
    lists, owner = encode_lists(table, "candidates", split, catalogue)
    widths = np.bincount(owner, minlength=len(table))
    if widths.min() != widths.max():
        raise DataError(
            f"{source.where}: all rows must have as many candidates, got {widths.min()} to {widths.max()}. "
            "Audit rows of one length at a time."
        )
    lists = lists.reshape(len(table), -1)
    wrong = np.flatnonzero((lists == rows.targets[:, None]).sum(axis=1) != 1)
    if len(wrong):
        raise DataError(
            f"{source.where}: every row must list its target once, {len(wrong)} do not, first row "
            f"{rows.example_ids[wrong[0]]} with target {table['target'][int(wrong[0])].as_py()!r}. Correct the rows."
        )
    everyone = (
        []
        if source.exclude == "window"
        else [encode_rows(t, s, catalogue) for s, t in source.tables.items()]
    )
    excluded, owners, moments = exclusions(source.exclude, [rows, *everyone], catalogue)
    row, item = excluded.pairs(owners[0], moments[0])
    pairs = (
        np.concatenate([row, np.arange(len(rows.targets))]),
        np.concatenate([item, rows.targets]),
    )
    size = len(catalogue.texts)
    keys = random_keys.keys(seed, f"audit/{split}", rows.example_ids)
    return Lists(keys, rows.targets, lists, np.unique(pairs[0] * size + pairs[1]), size)


def read_source(path: Path, split: str) -> Source:
    """Rows of a published file, of a preferences folder, or of one of its splits."""
    if path.is_file():
        return _published(path, split)
    if (path / "manifest.json").is_file():
        return _preferences(path, split)
    if path.is_dir() and (path.parent / "manifest.json").is_file():
        return _preferences(path.parent, path.name)
    raise DataError(
        f"{path}: must be a .json or .jsonl file or a preferences folder, but it is neither. Correct it."
    )


def _preferences(folder: Path, split: str) -> Source:
    exclude = excluded_by(read_manifest(folder).config)
    tables = {split: read_rows(folder, split)}
    if not len(tables[split]):
        raise DataError(
            f"{folder / split}: must hold at least one row, but it is empty. Choose another split."
        )
    if exclude != "window":
        tables |= {name: read_rows(folder, name, EXAMPLES) for name in SPLITS if name != split}
    return Source(
        str(folder / split), split, tables, read_items(folder)["item_id"].tolist(), exclude
    )


def _published(path: Path, split: str) -> Source:
    import ibis

    rows = read_published(ibis.duckdb.connect(), published_files(path))
    rows = rows.assign(example_id=rows.index.astype(str))[list(_COLUMNS)]
    names = {*rows["target"], *rows["history"].explode(), *rows["candidates"].explode()}
    table = pa.Table.from_pandas(
        rows, schema=pa.schema([*(EXAMPLES.field(n) for n in _COLUMNS[:-1]), CANDIDATES])
    )
    return Source(str(path), split, {split: table}, sorted(names), "window")
