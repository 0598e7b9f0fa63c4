"""The published S-DPO and DynamicPO rows: `historyList`, `itemList`, `trueSelection`.

Their item ids are titles.
"""

import re
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pandas as pd

from dynamicpo.core import random_keys
from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.duckdb_errors import explain_read_errors
from dynamicpo.data.sources.reading import as_text, check_not_empty, is_blank, open_table
from dynamicpo.data.sources.row_checks import RowCheck, run_row_checks

_COLUMNS = ("historyList", "itemList", "trueSelection")
_SUFFIXES = (".json", ".jsonl")
# Whole words only: "latest.json" and "contest.json" are no test files.
_SPLIT_PATTERNS = {
    "train": re.compile(r"(?<![a-z])train(ing)?(?![a-z])", re.I),
    "validation": re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])", re.I),
    "test": re.compile(r"(?<![a-z])test(ing)?(?![a-z])", re.I),
}
_HELD_OUT_SHARE = 0.1


def published_files(path: Path) -> dict[str, Path]:
    """Find the file of each split by the names in a folder; one file alone is the training split.

    Raises:
        DataError: A folder without a training file, or with two files for one split.
    """
    if path.is_file():
        _check_suffix(path)
        return {"train": path}
    row_files = [file for file in sorted(path.iterdir()) if file.suffix in _SUFFIXES]
    files = {}
    for split, pattern in _SPLIT_PATTERNS.items():
        matching = [file for file in row_files if pattern.search(file.stem)]
        if len(matching) > 1:
            first, second = matching[:2]
            raise DataError(
                f"{path}: must hold one {split} file, got {first.name}, {second.name}. Remove one."
            )
        if matching:
            files[split] = matching[0]
    if "train" not in files:
        raise DataError(
            f"{path}: must hold a .json or .jsonl file with 'train' in its name, got none. "
            "Rename it."
        )
    return files


def _check_suffix(path: Path) -> None:
    if path.suffix not in _SUFFIXES:
        known = " or ".join(_SUFFIXES)
        raise DataError(f"{path}: must be a {known} file, got {path.suffix!r}. Convert it.")


def read_published(connection: ibis.BaseBackend, files: dict[str, Path]) -> pd.DataFrame:
    """Read all rows: `split`, `user_id`, `history`, `candidates`, `target`, in the files' order.

    A row without `user_id` counts as a user with this one row. Where a split has no file, a tenth
    of the training users goes there, chosen by key.

    Raises:
        DataError: Missing columns, or rows with missing values.
    """
    frames = [_read_split(connection, split, path) for split, path in files.items()]
    rows = pd.concat(frames, ignore_index=True)
    for split in ("validation", "test"):
        if split in files:
            continue
        # The second time, the users of the first are not in the training split any more.
        in_training = rows["split"] == "train"
        users = _choose_users(rows.loc[in_training, "user_id"], split)
        is_chosen = rows["user_id"].isin(users)
        rows.loc[in_training & is_chosen, "split"] = split
    return rows


def _read_split(connection: ibis.BaseBackend, split: str, path: Path) -> pd.DataFrame:
    with explain_read_errors(path):
        raw = open_table(connection, path, _COLUMNS)
        numbered = raw.select(
            row=ibis.row_number() + 1,
            user_id=as_text(raw, "user_id"),
            history=_split_titles(raw.historyList),
            candidates=_split_titles(raw.itemList),
            target=raw.trueSelection.unwrap_as("string"),
        )
        # Here, within the block, DuckDB reads the file and finds what is wrong with it.
        table = connection.create_table(f"published_{split}", numbered)
    _check_rows(table, path)
    rows: pd.DataFrame = table.order_by("row").to_pandas()
    # With the split's name, as the rows of each file are numbered from 1.
    row_names = f"{split}-" + rows["row"].astype(str)
    rows["user_id"] = rows["user_id"].fillna(row_names)
    rows["split"] = split
    return rows.drop(columns="row")


def _split_titles(column: ir.JSONValue) -> ir.ArrayValue:
    """The titles of a JSON list, or of a text with "::" between them."""
    titles = column.try_cast("array<string>")
    return titles.fill_null(column.unwrap_as("string").split("::"))


def _check_rows(table: ir.Table, path: Path) -> None:
    check_not_empty(table, path)
    target_is_title = RowCheck(
        fails=is_blank(table.target),
        shown_column="target",
        must="every trueSelection must be a title",
        remedy="Remove these rows.",
    )
    checks = [
        _must_be_titles(table, "history", "historyList"),
        _must_be_titles(table, "candidates", "itemList"),
        target_is_title,
    ]
    run_row_checks(table, path, checks)


def _must_be_titles(table: ir.Table, name: str, published_name: str) -> RowCheck:
    titles = table[name]
    is_empty = titles.isnull() | (titles.length() == 0)
    return RowCheck(
        fails=is_empty | titles.map(is_blank).contains(True),
        shown_column=name,
        must=f"every {published_name} must be a list of titles",
        remedy="Fill in or remove these rows.",
    )


def _choose_users(user_ids: "pd.Series[str]", split: str) -> list[str]:
    """Choose a tenth of the users by key: the same ones in every run and for any seed."""
    users = sorted(user_ids.unique())
    num_chosen = max(1, round(len(users) * _HELD_OUT_SHARE))
    order = random_keys.random_order(
        seed=0,
        purpose=f"published/{split}",
        ids=users,
    )
    return [users[index] for index in order[:num_chosen]]
