"""References of drift: what a model was trained on, and the held-out rows that it was gated on.

A published version holds both as files, without a user's id; a preferences folder has them as
splits.
"""

import json
from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dynamicpo.core.config import DriftConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.records.manifest import read_manifest, write_json
from dynamicpo.core.records.rows import read_columns, read_items, read_rows
from dynamicpo.evaluation.result_files import read_result
from dynamicpo.monitoring.columns import (
    SIGNALS,
    ReferenceItems,
    reference_items,
    row_columns,
    training_columns,
)
from dynamicpo.monitoring.signals import ListedScores, signals_of
from dynamicpo.monitoring.windows import Window, read_window

REFERENCE_FOLDER = "reference"  # of a published version
_TRAINING = "training.parquet"
_HELD_OUT = "held_out.parquet"
_REFERENCE_ITEMS = "items.parquet"
_DESCRIPTION = "description.json"
_TRAINING_SCHEMA = pa.schema(
    {
        "user": pa.string(),
        # At a user's first row only.
        "user_activity": pa.float64(),
        "popularity_bucket": pa.string(),
        "category": pa.string(),
    }
)
_ROWS_SCHEMA = pa.schema(
    {"user": pa.string(), "history_length": pa.float64(), "unseen_share": pa.float64()}
)
_SIGNALS_SCHEMA = pa.schema(dict.fromkeys(SIGNALS, pa.float64()))
_ITEMS_SCHEMA = pa.schema({"item_id": pa.string(), "popularity": pa.int64(), "trained": pa.bool_()})


class DriftReference(NamedTuple):
    """The two references of a check.

    Attributes:
        training: Columns of rows that the model was trained on.
        held_out: Columns of rows that it was gated on, with its signals where they are known; None
            where there are no such rows.
        items: The reference's view of items.
        lists: How candidates were drawn, without which signals can't be compared.
    """

    training: pd.DataFrame
    held_out: pd.DataFrame | None
    items: ReferenceItems
    lists: JsonObject


def list_protocol(preferences: Path) -> JsonObject:
    """The protocol by which candidates of held-out rows were drawn."""
    protocol = read_manifest(preferences).extra.get("protocol")
    # Rows of other tools have none.
    if not isinstance(protocol, dict):
        protocol = {}
    strategy = protocol.get("strategy")
    return {
        "num_candidates": protocol.get("num_candidates"),
        "strategy": protocol.get("held_out_strategy", strategy),
    }


def reference_of_rows(folder: Path, held_out: Window | None, config: DriftConfig) -> DriftReference:
    """The references of a preferences folder, without a model's signals.

    Args:
        folder: The folder.
        held_out: Rows that the model was not trained on.
        config: Rows of the training window, seed.

    Raises:
        DataError: It can't be read.
    """
    training = read_window(folder, "train", config)
    trained = _trained_items(folder)
    items = reference_items(training.items, trained, training)
    rows = None
    if held_out is not None:
        rows = row_columns(held_out, trained)
    columns = training_columns(training, items)
    lists = list_protocol(folder)
    return DriftReference(columns, rows, items, lists)


def write_reference(preferences: Path, evaluation: Path, name: str, folder: Path) -> None:
    """Write what later windows are compared with.

    Args:
        preferences: The rows that the model was trained on.
        evaluation: The rows that it was gated on, and its scores of them.
        name: The model's name in the evaluation.
        folder: The version's folder.

    Raises:
        DataError: Something can't be read.
    """
    config = DriftConfig()
    held_out = _evaluated_window(evaluation)
    reference = reference_of_rows(preferences, held_out, config)
    assert reference.held_out is not None
    rows = reference.held_out
    fields = [*_ROWS_SCHEMA]
    signals = _evaluated_signals(evaluation, name)
    if signals is not None:
        rows = rows.join(signals)
        fields += _SIGNALS_SCHEMA
    target = folder / REFERENCE_FOLDER
    target.mkdir()
    _write(target / _TRAINING, reference.training, _TRAINING_SCHEMA)
    _write(target / _HELD_OUT, rows, pa.schema(fields))
    items = reference.items
    _write(target / _REFERENCE_ITEMS, _items_frame(items), _ITEMS_SCHEMA)
    categories = sorted(items.categories)
    description = {"lists": reference.lists, "categories": categories}
    write_json(target / _DESCRIPTION, description)


def read_reference(version: Path) -> DriftReference:
    """Read the references of a published version.

    Raises:
        DataError: They are missing or damaged.
    """
    folder = version / REFERENCE_FOLDER
    try:
        text = (folder / _DESCRIPTION).read_text(encoding="utf-8")
        description = json.loads(text)
        lists = dict(description["lists"])
        categories = [str(name) for name in description["categories"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: must hold the windows that drift is measured against, but {error!r}. "
            "Publish the version again."
        ) from error
    training = read_columns(folder / _TRAINING, _TRAINING_SCHEMA, nullable=["user_activity"])
    held_out = read_columns(folder / _HELD_OUT, _ROWS_SCHEMA)
    names = read_columns(folder / _REFERENCE_ITEMS, _ITEMS_SCHEMA).to_pandas()
    item_ids = names["item_id"]
    trained = set(item_ids[names["trained"]])
    counts = names["popularity"].tolist()
    popularity = dict(zip(item_ids, counts, strict=True))
    items = ReferenceItems(trained, popularity, categories)
    return DriftReference(training.to_pandas(), held_out.to_pandas(), items, lists)


def _items_frame(items: ReferenceItems) -> pd.DataFrame:
    names = sorted({*items.popularity, *items.trained})
    return pd.DataFrame(
        {
            "item_id": names,
            "popularity": [items.popularity.get(name, 0) for name in names],
            "trained": [name in items.trained for name in names],
        }
    )


def _trained_items(folder: Path) -> Set[str]:
    """All items of the training rows, not only of those in the window."""
    rows = read_rows(folder, "train")
    histories = rows["history"].combine_chunks()
    return {
        *rows["target"].to_pylist(),
        *histories.flatten().to_pylist(),
    }


def _evaluated_window(evaluation: Path) -> Window:
    """The rows of an evaluation; their users' activity is that of the data, and not looked at."""
    rows = pq.read_table(evaluation / "rows.parquet")
    nothing = np.zeros(len(rows))
    return Window(
        rows,
        user_activity=pd.Series(nothing),
        items=read_items(evaluation),
    )


def _evaluated_signals(evaluation: Path, name: str) -> pd.DataFrame | None:
    """A model's signals by its evaluation; None where its scores are others than drift's."""
    manifest = read_manifest(evaluation)
    protocol = manifest.extra["protocol"]
    result = read_result(evaluation / name, protocol["split"])
    num_rows, num_scores = result.scores.shape
    # Ranked among all items there are no negatives that a fresh window has as well.
    is_listed = (result.num_candidates == num_scores).all()
    score = protocol.get("score", "sum")
    if score != "sum" or not is_listed:
        return None
    scores = result.scores
    rows = np.arange(num_rows)
    targets = result.rows.target_index
    is_target = np.zeros(scores.shape, dtype=bool)
    is_target[rows, targets] = True
    negatives = scores[~is_target]
    listed = ListedScores(
        target=scores[is_target],
        negatives=negatives.reshape(num_rows, -1),
    )
    return signals_of(listed)


def _write(path: Path, frame: pd.DataFrame, schema: pa.Schema) -> None:
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    # Without what pandas adds: the bytes name the version.
    plain = table.replace_schema_metadata(None)
    pq.write_table(plain, path, compression="zstd")
