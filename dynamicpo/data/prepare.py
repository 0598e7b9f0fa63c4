"""Data preparation: interactions to examples, each a user's history and the item that came next.

Interactions are ordered by time; those with equal timestamps by a hash of item and timestamp, because real logs hold
many of them (half of MovieLens-100k's) and a fixed order of items could be learnt. An example belongs to the split of
its target; its history may reach into earlier splits.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dynamicpo.core import storage
from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.progress import Progress
from dynamicpo.core.records.manifest import (
    Manifest,
    config_dict,
    file_checksum,
    fingerprint,
    folder_checksum,
)
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.rows import CANDIDATES_FIELD, EXAMPLES, write_items, write_rows
from dynamicpo.data.sequences import examples, filter_interactions, popularity, sequence
from dynamicpo.data.sources import movielens, published, tables
from dynamicpo.data.sources.titles import clean_titles, distinct_titles

log = logging.getLogger(__name__)

_STEPS = 4

Prepared = tuple[pd.DataFrame, dict[str, pa.Table]]


def prepare_data(interactions: str, items: str, output: Path, config: DataConfig) -> Manifest:
    """Turn interactions into examples: `{train,validation,test}/part-*.parquet` and `items.parquet`.

    Args:
        interactions: A file of interactions (local or gs://); for 'movielens' a GroupLens zip or folder, or "" for
            the copy in the recbole wheel; for 'published' a file or folder of rows.
        items: A file of items; "" for the other sources, which bring their own.
        output: The folder to make.
        config: Source, filters and split.

    Raises:
        ConfigError: The inputs do not go with the source.
        DataError: An input can't be used, or the output exists from something else.
    """
    with tempfile.TemporaryDirectory() as folder, _named(Path(folder), interactions, items):
        files = _fetch(interactions, items, Path(folder), config)
        inputs = {role: _checksum(path) for role, path in files.items()}
        manifest = Manifest("prepare_data", config_dict(config), inputs)
        if existing := finished(output, manifest):
            return existing
        with stage_output(output, manifest) as partial, Progress("data", _STEPS, "steps") as step:
            prepare = _prepare_published if config.source == "published" else _prepare_interactions
            connection = ibis.duckdb.connect(temp_directory=str(Path(folder) / "spill"))
            catalogue, splits = prepare(connection, files, config, manifest.counts, step)
            _check_splits(splits, config)
            write_items(partial, catalogue)
            for split, rows in splits.items():
                write_rows(partial, split, rows)
            manifest.counts |= _final_counts(splits, catalogue)
            manifest.extra |= _facts(manifest, splits)
            step.advance()
    log.info(
        "%s: %s", output, ", ".join(f"{name} {count}" for name, count in manifest.counts.items())
    )
    return manifest


def _fetch(interactions: str, items: str, work: Path, config: DataConfig) -> dict[str, Path]:
    """The local files by their role."""
    if bool(items) != (config.source == "table"):
        must = "must name a file of items" if config.source == "table" else "must be empty"
        raise ConfigError(
            f"items: {must} for source {config.source!r}, got {items!r}. Give the right source."
        )
    if not interactions and config.source != "movielens":
        raise ConfigError(
            f"interactions: must name a file for source {config.source!r}, got ''. Give its path."
        )
    place = work / "interactions"
    if config.source == "movielens":
        return movielens.movielens_files(
            storage.fetch(interactions, place) if interactions else None, place
        )
    if config.source == "published":
        return published.published_files(storage.fetch(interactions, place))
    return {
        "interactions": storage.fetch(interactions, place),
        "items": storage.fetch(items, work / "items"),
    }


@contextmanager
def _named(work: Path, interactions: str, items: str) -> Iterator[None]:
    """Name fetched files in messages by where they came from."""
    try:
        yield
    except DataError as error:
        message = str(error)
        for role, uri in (("interactions", interactions), ("items", items)):
            message = message.replace(str(work / role), uri.rpartition("/")[0] or ".")
        raise DataError(message) from error


def _checksum(path: Path) -> str:
    return file_checksum(path) if path.is_file() else folder_checksum(path)


def _prepare_interactions(
    connection: Any,
    files: dict[str, Path],
    config: DataConfig,
    counts: dict[str, Any],
    step: Progress,
) -> Prepared:
    """Examples from interactions, with the catalogue of the items that are left."""
    read = movielens.read_movielens if config.source == "movielens" else tables.read_tables
    raw = read(connection, files, config.min_rating > 0)
    step.advance(note="files read and checked")
    kept = filter_interactions(connection, raw.interactions, raw.items, config, counts)
    step.advance(note="interactions filtered")
    sequences = sequence(connection, kept, config)
    step.advance(note="histories built")
    counts["interactions"] = int(kept.count().execute())
    counts["users"] = int(kept.user_id.nunique().execute())
    counts |= raw.counts
    splits = {
        split: examples(sequences, split, config.min_history).to_pyarrow().cast(EXAMPLES)
        for split in SPLITS
    }
    counts["dropped_short_histories"] = counts["interactions"] - sum(
        len(rows) for rows in splits.values()
    )
    return raw.items.merge(popularity(sequences), on="item_id"), splits


def _prepare_published(
    connection: Any,
    files: dict[str, Path],
    config: DataConfig,
    counts: dict[str, Any],
    step: Progress,
) -> Prepared:
    """Rows as they were published, with their candidate lists; only the filters for history lengths apply."""
    rows = published.read_published(connection, files)
    step.advance(_STEPS - 1, note="files read and checked")
    counts["rows_read"] = len(rows)
    lengths = rows["history"].str.len()
    counts["users"] = rows["user_id"].nunique()
    counts["dropped_short_histories"] = int((lengths < config.min_history).sum())
    counts["histories_cut"] = int((lengths > config.max_history).sum())
    position = rows.groupby("user_id").cumcount()
    rows = rows.assign(
        example_id=rows["user_id"] + ":" + position.astype(str),
        timestamp=position.astype(float),
        history=rows["history"].str[-config.max_history :],
    )
    catalogue = _published_items(rows, counts)
    rows = rows[lengths >= config.min_history]
    schema = EXAMPLES.append(CANDIDATES_FIELD)
    splits = {
        split: pa.Table.from_pandas(
            rows[rows["split"] == split], schema=schema, preserve_index=False
        )
        for split in SPLITS
    }
    return catalogue, {
        split: table.replace_schema_metadata(None) for split, table in splits.items()
    }


def _published_items(rows: pd.DataFrame, counts: dict[str, Any]) -> pd.DataFrame:
    """All titles of the rows; popularity counts the training users who have an item in a history or as a target."""
    names = pd.concat(
        [rows["target"], rows["history"].explode(), rows["candidates"].explode()]
    ).drop_duplicates()
    items = pd.DataFrame({"item_id": names.sort_values(ignore_index=True), "category": ""})
    items["title"], changes = clean_titles(items["item_id"])
    items["title"], changes["titles_made_distinct"] = distinct_titles(items)
    train = rows[rows["split"] == "train"]
    seen = pd.concat(
        [
            train[["user_id", "target"]].rename(columns={"target": "item_id"}),
            train[["user_id", "history"]].explode("history").rename(columns={"history": "item_id"}),
        ]
    ).drop_duplicates()
    counts |= changes
    return items.assign(
        popularity=items["item_id"].map(seen["item_id"].value_counts()).fillna(0).astype(int)
    )


def _check_splits(splits: dict[str, pa.Table], config: DataConfig) -> None:
    if not len(splits["train"]):
        raise DataError(
            f"interactions: must give training examples, but no user has {config.min_history} items before one of the "
            f"training split ({config.split}). Lower min_history or k_core, change split, or give more data."
        )
    for split, rows in splits.items():
        if not len(rows):
            log.warning("%s: no example falls into this split", split)


def _final_counts(splits: dict[str, pa.Table], catalogue: pd.DataFrame) -> dict[str, int]:
    users = pa.concat_tables(rows.select(["user_id"]) for rows in splits.values())["user_id"]
    rows = {f"{split}_rows": len(rows) for split, rows in splits.items()}
    return rows | {"users_with_rows": pc.count_distinct(users).as_py(), "items": len(catalogue)}


def _facts(manifest: Manifest, splits: dict[str, pa.Table]) -> dict[str, Any]:
    """What later stages and readers of a report need to know."""
    config = manifest.config
    facts: dict[str, Any] = {"source": config["source"], "data": fingerprint(manifest.inputs)}
    if config["source"] == "published":
        return facts | {
            "split": "as published; a split without a file is a keyed tenth of the training users",
            "timestamps": "the row's number among its user's",
        }
    dates = {
        split: pc.min_max(rows["timestamp"]).as_py() for split, rows in splits.items() if len(rows)
    }
    rules = {"time": "8:1:1 by time", "leave-one-out": "the last two of every user"}
    return facts | {
        "split": rules[config["split"]],
        "dates": {split: [value["min"], value["max"]] for split, value in dates.items()},
        "repeats": "the first interaction of a user with an item",
        "ties": "equal timestamps in the order of a hash of item and timestamp",
    }
