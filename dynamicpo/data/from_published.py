"""Examples from published rows, which come with their histories, candidates and splits."""

from pathlib import Path

import ibis
import pandas as pd
import pyarrow as pa

from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import DataConfig
from dynamicpo.core.progress import Progress
from dynamicpo.core.records.rows import CANDIDATES_FIELD, EXAMPLES
from dynamicpo.data.prepared import PREPARATION_STEPS, PreparedData
from dynamicpo.data.sources.published import read_published
from dynamicpo.data.sources.titles import clean_titles, distinct_titles
from dynamicpo.data.sources.user_ids import UserIds


def examples_from_published(
    connection: ibis.BaseBackend,
    files: dict[str, Path],
    config: DataConfig,
    users: UserIds,
    progress: Progress,
) -> PreparedData:
    """Make examples of published rows, with their candidate lists.

    Only the filters for history lengths apply.

    Args:
        connection: An ibis connection to DuckDB.
        files: The file of each split.
        config: Lengths of histories.
        users: Changes of user ids.
        progress: Advanced when the files are read: nothing else takes time.

    Raises:
        DataError: Files that can't be used.
    """
    published, num_forgotten = users.of_frame(read_published(connection, files))
    progress.advance(PREPARATION_STEPS, note="files read and checked")
    lengths = published["history"].str.len()
    is_short = lengths < config.min_history
    is_long = lengths > config.max_history
    # Published rows have no times; a row's number among its user's stands for both of these.
    position = published.groupby("user_id").cumcount()
    example_ids = published["user_id"] + ":" + position.astype(str)
    rows = published.assign(
        example_id=example_ids,
        timestamp=position.astype(float),
        # The latest items are the last ones.
        history=published["history"].str[-config.max_history :],
    )
    catalogue, title_counts = _make_catalogue(rows)
    counts = {
        "rows_read": len(published),
        "users": published["user_id"].nunique(),
        "dropped_short_histories": int(is_short.sum()),
        "histories_cut": int(is_long.sum()),
        **title_counts,
    }
    if users.forgotten:
        counts["forgotten_users"] = num_forgotten
    return PreparedData(
        catalogue=catalogue,
        splits=_rows_by_split(rows[~is_short]),
        counts=counts,
    )


def _rows_by_split(rows: pd.DataFrame) -> dict[str, pa.Table]:
    schema = EXAMPLES.append(CANDIDATES_FIELD)
    splits = {}
    for split in SPLITS:
        in_split = rows["split"] == split
        table = pa.Table.from_pandas(
            rows[in_split],
            schema=schema,
            preserve_index=False,
        )
        # pandas' metadata differ between its versions; the same rows shall give the same bytes.
        splits[split] = table.replace_schema_metadata(None)
    return splits


def _make_catalogue(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Make a catalogue of all titles in the rows, and count those changed."""
    columns = [
        rows["target"],
        rows["history"].explode(),
        rows["candidates"].explode(),
    ]
    distinct = pd.concat(columns).drop_duplicates()
    item_ids = distinct.sort_values(ignore_index=True)
    items = pd.DataFrame({"item_id": item_ids, "category": ""})
    # The published ids are titles, which must be cleaned to be shown; the ids stay as they are.
    items["title"], counts = clean_titles(item_ids)
    items["title"], counts["titles_made_distinct"] = distinct_titles(items)
    # Training alone: counts of held-out rows would tell of their targets.
    in_training = rows["split"] == "train"
    popularity = item_ids.map(_num_users(rows[in_training]))
    items["popularity"] = popularity.fillna(0).astype(int)
    return items, counts


def _num_users(train: pd.DataFrame) -> "pd.Series[int]":
    """Count for each item the users who have it in a history or as a target.

    Users, not rows: histories of one user overlap, so that rows would count an item repeatedly.
    """
    users = train[["user_id"]]
    targets = users.assign(item_id=train["target"])
    histories = users.assign(item_id=train["history"])
    pairs = [targets, histories.explode("item_id")]
    distinct = pd.concat(pairs).drop_duplicates()
    return distinct["item_id"].value_counts()
