"""Rows to audit, from published files, preferences folders or tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import IntArray
from dynamicpo.core.choices import SPLITS
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import read_input
from dynamicpo.core.records.rows import CANDIDATES_FIELD, EXAMPLES, read_items, read_rows
from dynamicpo.negatives.audit.candidate_lists import CandidateLists
from dynamicpo.negatives.catalogue import Catalogue, EncodedRows, encode_lists, encode_rows
from dynamicpo.negatives.exclusions import effective_exclusion, make_exclusions

# Published rows have no timestamps.
_EXAMPLE_COLUMNS = [name for name in EXAMPLES.names if name != "timestamp"]
_COLUMNS = [*_EXAMPLE_COLUMNS, CANDIDATES_FIELD.name]


class RowSource(NamedTuple):
    """Rows to audit.

    Attributes:
        where: Their name in messages.
        split: The table that holds them.
        tables: The rows of every split: what users know is taken from all of them.
        item_ids: The items that candidates may come from.
        exclude: The rule by which the rows' negatives exclude items: window, past, all or target.
    """

    where: str
    split: str
    tables: Mapping[str, pa.Table]
    item_ids: Sequence[str]
    exclude: str


def make_id_catalogue(item_ids: Sequence[str]) -> Catalogue:
    """Build a catalogue of items that are told apart by their ids alone, in sorted order."""
    names = np.asarray(item_ids, dtype=object)
    distinct = np.unique(names.astype(str))
    num_items = len(distinct)
    return Catalogue(
        item_ids=pa.array(distinct, pa.string()),
        title_ids=np.arange(num_items),
        popularity=np.zeros(num_items, dtype=np.int64),
    )


def encode_candidates(
    source: RowSource, catalogue: Catalogue, seed: int, part: slice
) -> CandidateLists:
    """Encode some rows of a source, chosen at random by key.

    Args:
        source: The rows.
        catalogue: All items.
        seed: Seed of the choice and of the redraws.
        part: Which of the rows, in the order of their keys.

    Raises:
        DataError: Lists of several lengths, or without their target.
    """
    purpose = f"audit/{source.split}"
    all_rows = source.tables[source.split]
    example_ids = all_rows["example_id"].to_pylist()
    order = random_keys.random_order(seed, purpose, example_ids)
    # In the table's order again: the attacker counts every second row.
    chosen = np.sort(order[part])
    table = all_rows.select(_COLUMNS).take(pa.array(chosen)).combine_chunks()
    rows = encode_rows(table, source.split, catalogue)
    keys = random_keys.keys(seed, purpose, rows.example_ids)
    candidates = _candidate_matrix(table, rows, source, catalogue)
    num_items = len(catalogue.item_ids)
    history_pairs = rows.history_rows * num_items + rows.history
    return CandidateLists(
        keys=keys,
        targets=rows.targets,
        candidates=candidates,
        excluded=_excluded_pairs(rows, source, catalogue),
        num_items=num_items,
        history=np.unique(history_pairs),
    )


def _candidate_matrix(
    table: pa.Table, rows: EncodedRows, source: RowSource, catalogue: Catalogue
) -> IntArray:
    """Encode the candidates of a table, checked. Shape (N, A)."""
    codes, list_rows = encode_lists(table, "candidates", source.split, catalogue)
    lengths = np.bincount(list_rows, minlength=len(table))
    if lengths.min() != lengths.max():
        raise DataError(
            f"{source.where}: all rows must have as many candidates, got {lengths.min()} to "
            f"{lengths.max()}. Audit rows of one length at a time."
        )
    candidates = codes.reshape(len(table), -1)
    targets = rows.targets[:, None]
    times_listed = (candidates == targets).sum(axis=1)
    wrong = np.flatnonzero(times_listed != 1)
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{source.where}: every row must list its target once, {len(wrong)} do not, first row "
            f"{rows.example_ids[first]} with target {table['target'][first].as_py()!r}. "
            "Correct the rows."
        )
    return candidates


def _excluded_pairs(rows: EncodedRows, source: RowSource, catalogue: Catalogue) -> IntArray:
    """List what each row excludes, its target included, as row * number of items + item, sorted."""
    num_rows = len(rows.targets)
    num_items = len(catalogue.item_ids)
    all_rows = [rows]
    # A window is the row's own history; what a user knows takes the user's rows in all splits.
    if source.exclude in ("past", "all"):
        for split, table in source.tables.items():
            all_rows.append(encode_rows(table, split, catalogue))
    excluded, owners, timestamps = make_exclusions(source.exclude, all_rows, catalogue)
    # In this catalogue, items have their codes for title ids.
    row_index, items = excluded.pairs(owners[0], timestamps[0])
    excluded_pairs = row_index * num_items + items
    target_pairs = np.arange(num_rows) * num_items + rows.targets
    pairs = np.concatenate([excluded_pairs, target_pairs])
    return np.unique(pairs)


def read_source(path: Path, split: str) -> RowSource:
    """Read the rows of a published file, of a preferences folder, or of one of its splits.

    Args:
        path: The file or folder.
        split: The split to read of a preferences folder, and the name of a published file's rows.

    Raises:
        DataError: It is none of them, or holds no rows.
    """
    if path.is_file():
        return _read_published_source(path, split)
    if (path / "manifest.json").is_file():
        return _read_preferences(path, split)
    if path.is_dir() and (path.parent / "manifest.json").is_file():
        return _read_preferences(path.parent, path.name)
    raise DataError(
        f"{path}: must be a .json or .jsonl file or a preferences folder, but it is neither. "
        "Correct it."
    )


def _read_preferences(folder: Path, split: str) -> RowSource:
    manifest = read_input(folder)
    exclude = effective_exclusion(manifest.config)
    tables = {split: read_rows(folder, split)}
    if not len(tables[split]):
        raise DataError(
            f"{folder / split}: must hold at least one row, but it is empty. Choose another split."
        )
    if exclude in ("past", "all"):
        for other in SPLITS:
            if other != split:
                tables[other] = read_rows(folder, other, EXAMPLES)
    items = read_items(folder)
    return RowSource(
        where=str(folder / split),
        split=split,
        tables=tables,
        item_ids=items["item_id"].tolist(),
        exclude=exclude,
    )


def _read_published_source(path: Path, split: str) -> RowSource:
    # Imported here: sampling and evaluation use this module, too, and do without ibis and DuckDB,
    # which take half a second to import.
    from dynamicpo.data.sources.engine import open_engine
    from dynamicpo.data.sources.published import published_files, read_published
    from dynamicpo.data.sources.unpacking import DEFAULT_LIMITS, check_unpacked

    files = published_files(path)
    for file in files.values():
        check_unpacked(file, DEFAULT_LIMITS)
    rows = read_published(open_engine(), files)
    rows["example_id"] = rows.index.astype(str)
    example_fields = [EXAMPLES.field(name) for name in _EXAMPLE_COLUMNS]
    schema = pa.schema([*example_fields, CANDIDATES_FIELD])
    table = pa.Table.from_pandas(rows[_COLUMNS], schema=schema)
    item_ids = {
        *rows["target"],
        *rows["history"].explode(),
        *rows["candidates"].explode(),
    }
    return RowSource(
        where=str(path),
        split=split,
        tables={split: table},
        item_ids=sorted(item_ids),
        # Published lists leave out their row's history, whatever else their user knows.
        exclude="window",
    )
