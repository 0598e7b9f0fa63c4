"""Windows of rows that are compared."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from dynamicpo.core import random_keys
from dynamicpo.core.config import DriftConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import read_items, read_rows
from dynamicpo.core.row_numbers import rows_taken

_DAY_SECONDS = 86400


class Window(NamedTuple):
    """Rows chosen at random from a split of a preferences folder.

    Attributes:
        rows: The rows chosen.
        user_activity: The rows in the split of each row's user, for each day on which there are
            any.
        items: The items of the folder.
    """

    rows: pa.Table
    user_activity: "pd.Series[float]"
    items: pd.DataFrame


def read_window(folder: Path, split: str, config: DriftConfig) -> Window:
    """Read a window of a preferences folder.

    Raises:
        DataError: The split is empty.
    """
    rows = read_rows(folder, split)
    if not len(rows):
        raise DataError(
            f"{folder / split}: a window must hold at least one row, got none. "
            "Choose another split."
        )
    # Before rows are chosen: a sample would make every user look less active.
    activity = _user_activity(rows)
    order = random_keys.random_order(
        config.seed,
        purpose=f"drift/{split}",
        ids=rows["example_id"].to_pylist(),
    )
    num_chosen = rows_taken(config.rows, len(order), f"drift, {split} split")
    chosen = np.sort(order[:num_chosen])
    return Window(
        rows=rows.take(pa.array(chosen)),
        user_activity=activity.iloc[chosen].reset_index(drop=True),
        items=read_items(folder),
    )


def read_held_out(folder: Path, config: DriftConfig) -> Window | None:
    """The rows that a model was not trained on; None where a data set has no such split."""
    split = config.held_out
    # A data set of two windows has no validation rows.
    if not (folder / split).is_dir() or not len(read_rows(folder, split)):
        return None
    return read_window(folder, split, config)


def _user_activity(rows: pa.Table) -> "pd.Series[float]":
    table: pd.DataFrame = rows.select(["user_id", "timestamp"]).to_pandas()
    table["day"] = table["timestamp"] // _DAY_SECONDS
    days = table.groupby("user_id")["day"]
    # A user without any timestamp has 0 days.
    num_days = days.nunique().clip(lower=1)
    rows_a_day = days.size() / num_days
    user_ids = table["user_id"]
    return user_ids.map(rows_a_day).astype(float)
