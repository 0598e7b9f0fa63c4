"""The published S-DPO and DynamicPO rows: `historyList`, `itemList`, `trueSelection`, where titles are the ids."""

import re
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pandas as pd

from dynamicpo.core import random_keys
from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.reading import Check, Table, as_text, check_rows, open_table, readable

_COLUMNS = ("historyList", "itemList", "trueSelection")
_SUFFIXES = (".json", ".jsonl")
_NAMES = {
    "train": re.compile(r"(?<![a-z])train(ing)?(?![a-z])", re.I),
    "validation": re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])", re.I),
    "test": re.compile(r"(?<![a-z])test(ing)?(?![a-z])", re.I),
}
_HELD_OUT_SHARE = 0.1


def published_files(path: Path) -> dict[str, Path]:
    """The file of each split: by the names in a folder; one file alone counts as the training split.

    Raises:
        DataError: A folder without a training file, or with two files for one split.
    """
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise DataError(
                f"{path}: must be a {' or '.join(_SUFFIXES)} file, got {path.suffix!r}. Convert it."
            )
        return {"train": path}
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        for split, pattern in _NAMES.items():
            if file.suffix in _SUFFIXES and pattern.search(file.stem):
                if split in files:
                    raise DataError(
                        f"{path}: must hold one {split} file, got {files[split].name}, {file.name}. Remove one."
                    )
                files[split] = file
    if "train" not in files:
        raise DataError(
            f"{path}: must hold a .json or .jsonl file with 'train' in its name, got none. Rename it."
        )
    return {split: files[split] for split in _NAMES if split in files}


def read_published(connection: Any, files: dict[str, Path]) -> pd.DataFrame:
    """All rows: `split`, `user_id`, `history`, `candidates`, `target`, in the order of the files.

    A row without `user_id` is a user of its own. Where a split has no file, a keyed tenth of the training
    users goes there.

    Raises:
        DataError: Missing columns, or rows with missing values.
    """
    frames = [_read(connection, split, path) for split, path in files.items()]
    rows = pd.concat(frames, ignore_index=True)
    for split in ("validation", "test"):
        if split not in files:
            rows.loc[
                rows["user_id"].isin(_held_out(rows, split)) & (rows["split"] == "train"), "split"
            ] = split
    return rows


def _read(connection: Any, split: str, path: Path) -> pd.DataFrame:
    with readable(path):
        raw = open_table(connection, path, _COLUMNS)
        columns = {
            "user_id": as_text(raw, "user_id"),
            "history": _titles(raw.historyList),
            "candidates": _titles(raw.itemList),
            "target": raw.trueSelection.unwrap_as("string"),
        }
        table = connection.create_table(
            f"published_{split}", raw.select(row=ibis.row_number() + 1, **columns)
        )
    _check(table, path)
    rows: pd.DataFrame = table.order_by("row").to_pandas()
    own = f"{split}-" + rows["row"].astype(str)
    return rows.assign(
        split=split, user_id=rows["user_id"].where(rows["user_id"].notna(), own)
    ).drop(columns="row")


def _titles(column: Any) -> Any:
    """The titles of a JSON list, or of a text with "::" between them."""
    return column.try_cast("array<string>").fill_null(column.unwrap_as("string").split("::"))


def _check(table: Table, path: Path) -> None:
    if not table.count().execute():
        raise DataError(
            f"{path}: must hold at least one row, but it is empty. Check how it was exported."
        )
    blank = table.target.strip().fill_null("") == ""
    lists = [
        Check(
            table[name].isnull()
            | (table[name].length() == 0)
            | table[name].map(_is_blank).contains(True),
            name,
            f"every {column} must be a list of titles",
            "Fill in or remove these rows.",
        )
        for name, column in (("history", "historyList"), ("candidates", "itemList"))
    ]
    check_rows(
        table,
        path,
        [
            *lists,
            Check(blank, "target", "every trueSelection must be a title", "Remove these rows."),
        ],
    )


def _is_blank(title: Any) -> Any:
    return title.strip().fill_null("") == ""


def _held_out(rows: pd.DataFrame, split: str) -> Any:
    users = np.sort(rows.loc[rows["split"] == "train", "user_id"].unique())
    count = max(1, round(len(users) * _HELD_OUT_SHARE))
    return users[random_keys.random_order(0, f"published/{split}", users.tolist())[:count]]
