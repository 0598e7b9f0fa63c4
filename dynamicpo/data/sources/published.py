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
from dynamicpo.data.sources.joined_titles import whole_titles
from dynamicpo.data.sources.json_objects import insert_objects, object_names, pointer
from dynamicpo.data.sources.parts import find_parts, format_of, no_rows
from dynamicpo.data.sources.reading import check_required, is_blank
from dynamicpo.data.sources.row_checks import RowCheck, run_row_checks
from dynamicpo.data.sources.text_values import null_if_missing
from dynamicpo.data.sources.value_text import of_json

_COLUMNS = ("historyList", "itemList", "trueSelection")
_SUFFIXES = (".json", ".jsonl")
# Whole words only: "latest.json" and "contest.json" are no test files.
_SPLIT_PATTERNS = {
    "train": re.compile(r"(?<![a-z])train(ing)?(?![a-z])", re.I),
    "validation": re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])", re.I),
    "test": re.compile(r"(?<![a-z])test(ing)?(?![a-z])", re.I),
}
_HELD_OUT_SHARE = 0.1
# To load a pickle is to run what it says, so it is never loaded.
_PICKLES = (".pkl", ".pickle", ".df", ".p")
_PICKLE_ADVICE = (
    "A pickle runs code when it is loaded, so it is not read. Convert it where that may happen: "
    "pandas.read_pickle(FILE).to_json('train.jsonl', orient='records', lines=True)."
)


def published_files(path: Path) -> dict[str, Path]:
    """Find the file of each split by the names in a folder; one file alone is the training split.

    Raises:
        DataError: A folder without a training file, or with two files for one split.
    """
    if path.is_file():
        _check_suffix(path)
        return {"train": path}
    row_files = [file for file in sorted(path.iterdir()) if format_of(file) in _SUFFIXES]
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
        _check_no_pickles(path)
        raise DataError(
            f"{path}: must hold a .json or .jsonl file with 'train' in its name, got none. "
            "Rename it."
        )
    return files


def _check_no_pickles(folder: Path) -> None:
    pickles = [file for file in sorted(folder.iterdir()) if format_of(file) in _PICKLES]
    if pickles:
        raise DataError(
            f"{pickles[0]}: must be a .json or .jsonl file, got {pickles[0].suffix!r}. "
            f"{_PICKLE_ADVICE}"
        )


def _check_no_numbers(path: Path, names: list[str]) -> None:
    """Refuse LLaRA's frames, which hold numbers of items and no candidate lists."""
    if {"seq", "next"} <= {*names}:
        raise DataError(
            f"{path}: must have the columns {', '.join(_COLUMNS)}, but has seq and next, as the "
            "frames of LLaRA have. Write the titles of seq as historyList, that of next as "
            "trueSelection, and it among others as itemList; id2name.txt beside the frames has the "
            "titles."
        )


def _check_suffix(path: Path) -> None:
    if format_of(path) not in _SUFFIXES:
        known = " or ".join(_SUFFIXES)
        advice = _PICKLE_ADVICE if format_of(path) in _PICKLES else "Convert it."
        raise DataError(f"{path}: must be a {known} file, got {path.suffix!r}. {advice}")


def read_published(connection: ibis.BaseBackend, files: dict[str, Path]) -> pd.DataFrame:
    """Read all rows: `split`, `user_id`, `history`, `candidates`, `target`, in the files' order.

    A row without `user_id` counts as a user with this one row. Where a split has no file, a tenth
    of the training users goes there, chosen by key.

    Raises:
        DataError: Missing columns, or rows with missing values.
    """
    frames = [_read_split(connection, split, path) for split, path in files.items()]
    rows = pd.concat(frames, ignore_index=True)
    rows = whole_titles(rows, next(iter(files.values())))
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
    raw = _read_objects(connection, split, path)
    num_rows = raw.count().execute()
    if not num_rows:
        raise no_rows(path)
    history = raw.json["historyList"]
    candidates = raw.json["itemList"]
    target = raw.json["trueSelection"]
    numbered = raw.select(
        part=0,
        row=raw.row,
        user_id=raw.user_id,
        user_id_flaw=raw.user_id_flaw,
        nested=raw.nested_history | raw.nested_candidates,
        history=_split_titles(history),
        candidates=_split_titles(candidates),
        target=target.unwrap_as("string"),
    )
    table = connection.create_table(f"published_{split}", numbered)
    _check_rows(table, path)
    ordered = table.order_by("row")
    rows: pd.DataFrame = ordered.to_pandas()
    # With the split's name, as the rows of each file are numbered from 1.
    row_names = f"{split}-" + rows["row"].astype(str)
    rows["user_id"] = rows["user_id"].fillna(row_names)
    rows["split"] = split
    return rows.drop(columns=["part", "row", "user_id_flaw", "nested"])


def _read_objects(connection: ibis.BaseBackend, split: str, path: Path) -> ir.Table:
    """Read a file's objects: `row`, `json`, `user_id` (text)."""
    (part,) = find_parts(path)
    name = f"published_objects_{split}"
    engine = connection.con
    names = object_names(engine, part)
    _check_no_numbers(path, names)
    check_required(part, names, _COLUMNS)
    user_id = of_json("json", pointer("user_id"))
    columns = ["row", "json", user_id.text, user_id.flaw, *(_is_nested(name) for name in _COLUMNS)]
    engine.execute(
        f"CREATE TABLE {name} (row BIGINT, json JSON, user_id VARCHAR, user_id_flaw VARCHAR, "
        "nested_history BOOLEAN, nested_candidates BOOLEAN, nested_target BOOLEAN)"
    )
    insert_objects(
        engine,
        part,
        lambda relation: engine.execute(
            f"INSERT INTO {name} SELECT {', '.join(columns)} FROM {relation}"
        ),
    )
    return connection.table(name)


def _is_nested(name: str) -> str:
    """True where one of a list's entries is a list or an object, as SQL."""
    kinds = f"json_type(json, '$.{name}[*]')"
    return f"list_has_any(coalesce({kinds}, []), ['OBJECT', 'ARRAY'])"


def _split_titles(column: ir.JSONValue) -> ir.ArrayValue:
    """The titles of a JSON list, or of a text with "::" between them."""
    titles = column.try_cast("array<string>")
    return titles.fill_null(column.unwrap_as("string").split("::"))


def _check_rows(table: ir.Table, path: Path) -> None:
    target_is_title = RowCheck(
        fails=is_blank(table.target),
        shown_column="target",
        must="every trueSelection must be a title",
        remedy="Remove these rows.",
    )
    user = table.user_id
    user_is_text = RowCheck(
        # A row without a user is one of its own; a text that says so would be one user of many.
        fails=table.user_id_flaw.notnull() | (user.notnull() & null_if_missing(user).isnull()),
        shown_column="user_id",
        must="every user_id must be text or a whole number, or be left out",
        remedy="Leave out what is missing.",
    )
    entries_are_text = RowCheck(
        fails=table.nested,
        shown_column="row",
        must="every title in a list must be text",
        remedy="Write titles, not lists or objects.",
    )
    checks = [
        user_is_text,
        entries_are_text,
        _must_be_titles(table, "history", "historyList"),
        _must_be_titles(table, "candidates", "itemList"),
        target_is_title,
    ]
    run_row_checks(table, [path], checks)


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
