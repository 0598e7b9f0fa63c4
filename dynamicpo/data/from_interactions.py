"""Examples from interactions: filtered, ordered by time, and split."""

from pathlib import Path

import ibis
import ibis.expr.types as ir
import pandas as pd
import pyarrow as pa

from dynamicpo.core.choices import DATASETS, SPLITS
from dynamicpo.core.config import DataConfig
from dynamicpo.core.progress import Progress
from dynamicpo.core.records.rows import EXAMPLES
from dynamicpo.data.filters import count_rows, filter_interactions
from dynamicpo.data.prepared import PreparedData
from dynamicpo.data.quality.report import checked_events
from dynamicpo.data.sequences import build_sequences, select_examples, training_popularity
from dynamicpo.data.sources.datasets import read_dataset
from dynamicpo.data.sources.movielens import read_movielens
from dynamicpo.data.sources.options import ReadingOptions
from dynamicpo.data.sources.tables import ImportedTables, read_tables
from dynamicpo.data.sources.user_ids import UserIds


def examples_from_interactions(
    connection: ibis.BaseBackend,
    files: dict[str, Path],
    config: DataConfig,
    users: UserIds,
    progress: Progress,
) -> PreparedData:
    """Make examples of interactions, and the catalogue of the items that are left.

    Args:
        connection: An ibis connection to DuckDB.
        files: The files of the source, by their role or name.
        config: Source, filters and split.
        users: Changes of user ids.
        progress: Advanced by each step.

    Raises:
        DataError: Files that can't be used, or no interaction passes the filters.
    """
    options = ReadingOptions.of(config, users)
    imported = _read(connection, files, config.source, options)
    events = checked_events(imported.interactions, config)
    progress.advance(note="files read and checked")
    filtered = filter_interactions(
        connection,
        imported.interactions,
        imported.items["item_id"],
        config,
    )
    progress.advance(note="interactions filtered")
    sequences = build_sequences(connection, filtered.table, config)
    progress.advance(note="histories built")
    splits = _examples_by_split(sequences, config.min_history)
    num_examples = sum(len(rows) for rows in splits.values())
    num_interactions = count_rows(filtered.table)
    num_users = filtered.table.user_id.nunique().execute()
    counts = {
        **filtered.counts,
        "interactions": num_interactions,
        "users": int(num_users),
        **imported.counts,
        "dropped_short_histories": num_interactions - num_examples,
    }
    # An inner join: items that the filters dropped leave the catalogue, too.
    popularity = training_popularity(sequences)
    catalogue: pd.DataFrame = imported.items.merge(popularity, on="item_id")
    return PreparedData(
        catalogue=catalogue,
        splits=splits,
        counts=counts,
        notes=imported.notes,
        events=events,
    )


def _read(
    connection: ibis.BaseBackend, files: dict[str, Path], source: str, options: ReadingOptions
) -> ImportedTables:
    if source in DATASETS:
        return read_dataset(source, connection, files, options)
    readers = {"movielens": read_movielens, "table": read_tables}
    return readers[source](connection, files, options)


def _examples_by_split(sequences: ir.Table, min_history: int) -> dict[str, pa.Table]:
    splits = {}
    for split in SPLITS:
        selected = select_examples(sequences, split, min_history)
        splits[split] = selected.to_pyarrow().cast(EXAMPLES)
    return splits
