"""Data preparation: interactions to examples, each a user's history and the item that came next.

Interactions are ordered by time; those with equal timestamps by a hash of item and timestamp,
because real logs hold many of them (half of MovieLens-100k's) and a fixed order of items could be
learnt. An example belongs to the split of its target; its history may reach into earlier splits.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from dynamicpo.core import storage
from dynamicpo.core.choices import DATASETS
from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.messages import hidden_values, limited
from dynamicpo.core.progress import Progress
from dynamicpo.core.records.manifest import (
    Manifest,
    config_dict,
    file_checksum,
    fingerprint,
    folder_checksum,
)
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.partial_folders import check_apart
from dynamicpo.core.records.rows import write_items, write_rows
from dynamicpo.data.from_interactions import examples_from_interactions
from dynamicpo.data.from_published import examples_from_published
from dynamicpo.data.prepared import PREPARATION_STEPS, PreparedData
from dynamicpo.data.quality.report import checked_titles, write_quality
from dynamicpo.data.quality.title_tokens import check_tokenizer
from dynamicpo.data.sources.datasets import dataset_files
from dynamicpo.data.sources.engine import open_engine
from dynamicpo.data.sources.movielens import movielens_files
from dynamicpo.data.sources.parts import find_parts, is_glob
from dynamicpo.data.sources.published import published_files
from dynamicpo.data.sources.unpacking import UnpackingLimits, check_unpacked
from dynamicpo.data.sources.user_ids import UserIds, forget_label, hash_key, read_forgotten
from dynamicpo.models.backbones import backbone_checksum

log = logging.getLogger(__name__)

_SPLIT_RULES = {
    "time": "8:1:1 by time",
    "leave-one-out": "the last two of every user",
    "dates": "at given dates",
}
_REPEATS = {
    "first": "the first interaction of a user with an item",
    "last": "the last interaction of a user with an item",
    "all": "all interactions of a user with an item, so that histories may hold the target",
}
_DATES = ("data_from", "train_until", "validation_until", "data_until")


def prepare_data(interactions: str, items: str, output: Path, config: DataConfig) -> Manifest:
    """Turn interactions into examples: `{train,validation,test}/part-*.parquet`, `items.parquet`.

    The quality of what was read stands in `report.html` and `quality.json`. Where it is beyond a
    limit, nothing is written.

    Args:
        interactions: A file of interactions (local or in an object store); for 'movielens' a
            GroupLens zip or folder, or "" for the copy in the recbole wheel; for 'published' a file
            or folder of rows; for a data set as it was published its file or its folder.
        items: A file of items; "" for the other sources, which bring their items, and for a data
            set whose files stand in one folder.
        output: The folder to make.
        config: Source, filters and split.

    Raises:
        ConfigError: The inputs do not go with the source.
        DataError: An input can't be used, or the output exists from something else.
    """
    _check_inputs(interactions, items, config)
    _check_windows(config)
    check_apart(output, interactions, items)
    if config.tokenizer:
        check_tokenizer(config.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with _without_ids(config), _original_names(work, interactions, items):
            files = _local_files(interactions, items, work, config)
            manifest = Manifest(
                stage="prepare_data",
                config=config_dict(config),
                inputs={role: _checksum(path) for role, path in files.items()},
            )
            users = _user_ids(config, work)
            manifest.inputs |= _user_inputs(config, users)
            if config.tokenizer and (checksum := backbone_checksum(config.tokenizer)):
                manifest.inputs["tokenizer"] = checksum
            if existing := finished(output, manifest):
                return existing
            with stage_output(output, manifest) as partial:
                _write_examples(partial, files, work, config, users, manifest)
    counts = [f"{name} {count}" for name, count in manifest.counts.items()]
    log.info("%s: %s", output, ", ".join(counts))
    return manifest


def _check_inputs(interactions: str, items: str, config: DataConfig) -> None:
    needs_items = config.source == "table"
    # Of a data set as it was published both files may stand in one folder.
    if config.source not in DATASETS and bool(items) != needs_items:
        must = "must name a file of items" if needs_items else "must be empty"
        raise ConfigError(
            f"items: {must} for source {config.source!r}, got {items!r}. Give the right source."
        )
    if not interactions and config.source != "movielens":
        raise ConfigError(
            f"interactions: must name a file for source {config.source!r}, got ''. Give its path."
        )


def _check_windows(config: DataConfig) -> None:
    if config.source == "published" and config.split == "dates":
        raise ConfigError(
            "split: 'dates' must go with interactions, but published rows have no times and come "
            "with their splits. Leave it out."
        )


def _local_files(interactions: str, items: str, work: Path, config: DataConfig) -> dict[str, Path]:
    """Fetch the inputs; returns local files by their role or name."""
    download_folder = work / "interactions"
    items_folder = work / "items"
    if not interactions:
        # Only MovieLens may come without: it is in the recbole wheel.
        return movielens_files(None, download_folder)
    local = _fetch(interactions, download_folder)
    limits = UnpackingLimits(config.max_unpacked_gb, config.max_unpacked_ratio)
    if config.source == "movielens":
        return movielens_files(local, download_folder, limits)
    if config.source == "published":
        files = published_files(local)
    elif config.source in DATASETS:
        local_items = _fetch(items, items_folder) if items else None
        files = dataset_files(config.source, local, local_items)
    else:
        local_items = _fetch(items, items_folder)
        files = {"interactions": local, "items": local_items}
    for path in files.values():
        check_unpacked(path, limits)
    return files


def _fetch(uri: str, folder: Path) -> Path:
    # A glob of local files stays one: readers find what it matches.
    return Path(uri) if is_glob(uri) else storage.fetch(uri, folder)


@contextmanager
def _original_names(work: Path, interactions: str, items: str) -> Iterator[None]:
    """Name fetched files in messages by where they came from."""
    try:
        yield
    except DataError as error:
        # The temporary folder says nothing to a user, and is gone when the message is read.
        message = str(error)
        uris = {"interactions": interactions, "items": items}
        for role, uri in uris.items():
            download_folder = str(work / role)
            folder, _, _ = uri.rpartition("/")
            message = message.replace(download_folder, folder or ".")
        raise DataError(message) from error


@contextmanager
def _without_ids(config: DataConfig) -> Iterator[None]:
    """Keep values of files, which may be ids, out of messages and tracebacks where ids are hashed.

    Before an id is hashed it may be anywhere: in another column, in a header, in a broken line.
    """
    if not config.hash_users:
        yield
        return
    with hidden_values():
        try:
            yield
        except DataError as error:
            # A traceback would show what DuckDB said of the row.
            raise DataError(str(error)) from None
        except duckdb.Error as error:
            raise DataError(
                "interactions: must be readable by DuckDB, but it failed "
                f"({type(error).__name__}); its message may hold user ids. Look at the files."
            ) from None


def _user_ids(config: DataConfig, work: Path) -> UserIds:
    """Read the key of the hashes and the users to forget."""
    forgotten: frozenset[str] = frozenset()
    if config.forget:
        path = storage.fetch(config.forget, work / "forget")
        forgotten = read_forgotten(path)
    return UserIds(hash_key(config.hash_key_file) if config.hash_users else None, forgotten)


def _user_inputs(config: DataConfig, users: UserIds) -> dict[str, str]:
    """Name what changes user ids, without a word about the key or the users."""
    inputs = {}
    if users.key is not None:
        inputs["user_hash_key"] = users.key_label
    if config.forget:
        # Not a checksum, of which a few ids could be guessed.
        inputs["forget"] = forget_label(config.forget, len(users.forgotten))
    return inputs


def _checksum(path: Path) -> str:
    if is_glob(str(path)):
        parts = [part.path for part in find_parts(path)]
        return fingerprint({str(part): file_checksum(part) for part in parts})
    return file_checksum(path) if path.is_file() else folder_checksum(path)


def _write_examples(
    output: Path,
    files: dict[str, Path],
    work: Path,
    config: DataConfig,
    users: UserIds,
    manifest: Manifest,
) -> None:
    """Write items and examples, and fill in the manifest's counts and metadata."""
    is_published = config.source == "published"
    make_examples = examples_from_published if is_published else examples_from_interactions
    # DuckDB moves to disk what does not fit into memory, by default into the current folder.
    connection = open_engine(spill=work / "spill")
    with Progress("data", PREPARATION_STEPS + 1, "steps") as progress:
        prepared = make_examples(connection, files, config, users, progress)
        splits = prepared.splits
        _check_splits(prepared, config)
        titles = checked_titles(prepared.catalogue["title"].tolist(), config)
        write_items(output, prepared.catalogue)
        for split, rows in splits.items():
            write_rows(output, split, rows)
        manifest.counts |= prepared.counts
        manifest.counts |= _final_counts(prepared)
        write_quality(output, prepared.events, titles, {**prepared.counts}, config)
        manifest.extra |= _metadata(manifest.inputs, splits, config)
        if prepared.notes:
            manifest.extra["conversions"] = [limited(note) for note in prepared.notes]
        for note in prepared.notes:
            log.warning("%s", note)
        progress.advance()


def _check_splits(prepared: PreparedData, config: DataConfig) -> None:
    splits = prepared.splits
    is_untrained = not prepared.catalogue["popularity"].sum()
    if is_untrained and config.split == "time" and prepared.events is not None:
        raise DataError(
            "interactions: the first 80 % must have times before the others, but one time holds "
            "them all, so that none is left for training. Set split to leave-one-out or dates, or "
            "give the column that holds the times: --columns timestamp=NAME."
        )
    if not len(splits["train"]):
        raise DataError(
            f"interactions: must give training examples, but no user has {config.min_history} "
            f"items before one of the training split ({config.split}). "
            "Lower min_history or k_core, change split, or give more data."
        )
    for split, rows in splits.items():
        if not len(rows):
            log.warning("%s: no example falls into this split", split)


def _final_counts(prepared: PreparedData) -> dict[str, int]:
    counts = {}
    users = []
    for split, rows in prepared.splits.items():
        counts[f"{split}_rows"] = len(rows)
        user_column = rows["user_id"]
        users += user_column.chunks
    all_users = pa.chunked_array(users)
    num_users = pc.count_distinct(all_users)
    counts["users_with_rows"] = num_users.as_py()
    counts["items"] = len(prepared.catalogue)
    return counts


def _metadata(
    inputs: Mapping[str, str], splits: Mapping[str, pa.Table], config: DataConfig
) -> JsonObject:
    """Describe the data for later stages and readers of a report."""
    metadata: JsonObject = {"source": config.source, "data": fingerprint(inputs)}
    if config.source == "published":
        return metadata | {
            "split": "as published; a split without a file is a keyed tenth of the training users",
            "timestamps": "the row's number among its user's",
        }
    if config.split == "dates":
        metadata["windows"] = {name: getattr(config, name) for name in _DATES}
    return metadata | {
        "split": _SPLIT_RULES[config.split],
        "dates": {split: _date_range(rows) for split, rows in splits.items() if len(rows)},
        "repeats": _REPEATS[config.repeats],
        "ties": "equal timestamps in the order of a hash of item and timestamp",
    }


def _date_range(rows: pa.Table) -> list[float]:
    bounds = pc.min_max(rows["timestamp"]).as_py()
    return [bounds["min"], bounds["max"]]
