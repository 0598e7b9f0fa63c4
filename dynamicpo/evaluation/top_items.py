"""Items that a model ranks first of the whole catalogue, for some users that people look at."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import FloatArray, IntArray
from dynamicpo.core.records.rows import read_columns, write_columns
from dynamicpo.evaluation.results import EvaluatedRows
from dynamicpo.evaluation.rows import EvaluationData

_FILE = "top_items.parquet"  # in a model's folder
_SCHEMA = pa.schema({"example_id": pa.string(), "items": pa.list_(pa.string())})
_NUM_USERS = 10
_NUM_ITEMS = 5


class TopItems(NamedTuple):
    """The first items of some rows.

    Attributes:
        example_ids: The rows.
        items: Item ids of each row, the best first.
    """

    example_ids: list[str]
    items: list[list[str]]


class UserSample:
    """Some users' last rows, chosen by their ids: the same users for all models and runs.

    Attributes:
        data: The rows.
    """

    def __init__(self, data: EvaluationData) -> None:
        """Choose the rows.

        Args:
            data: Rows that rank every item, or proposals.
        """
        rows = data.rows
        numbers = _last_rows(rows.users)
        example_ids = [rows.example_ids[number] for number in numbers]
        users = [rows.users[number] for number in numbers]
        targets = rows.target_index[numbers]
        chosen_rows = EvaluatedRows(rows.split, example_ids, users, targets)
        self._numbers = numbers
        self._all = data
        codes = None if data.codes is None else data.codes[numbers]
        table = data.table.take(numbers)
        self.data = replace(data, table=table, rows=chosen_rows, codes=codes)

    def top_items(self, scores: FloatArray) -> TopItems:
        """The best items of each row among those that it ranks, from scores of all. (N, I)."""
        item_ids = self.data.items["item_id"].tolist()
        items = []
        for row, row_scores in enumerate(scores):
            best = _best_items(row_scores, self._candidates(row))
            items.append([item_ids[code] for code in best])
        return TopItems([*self.data.rows.example_ids], items)

    def _candidates(self, row: int) -> IntArray:
        """Codes of the items that a row ranks, in ascending order."""
        if self.data.codes is not None:
            return np.sort(self.data.codes[row])
        excluded = self._all.excluded
        assert excluded is not None  # of rows that rank every item
        number = int(self._numbers[row])
        rows = slice(number, number + 1)
        target = self.data.rows.target_index[row : row + 1]
        (mask,) = excluded.candidate_mask(rows, target)
        return np.flatnonzero(mask)


def _last_rows(users: Sequence[str]) -> IntArray:
    """The last row of each of some users, who are drawn by their ids."""
    last_rows = {user: row for row, user in enumerate(users)}
    names = sorted(last_rows)
    order = random_keys.random_order(0, "users to look at", names)
    chosen = order[:_NUM_USERS]
    rows = [last_rows[names[index]] for index in chosen]
    return np.array(rows, dtype=np.int64)


def _best_items(scores: FloatArray, candidates: IntArray) -> list[int]:
    """Codes of the candidates with the highest scores; without a score an item is none."""
    candidate_scores = scores[candidates]
    is_scored = candidate_scores > -np.inf  # not of NaN either
    candidates = candidates[is_scored]
    order = np.argsort(-candidate_scores[is_scored], kind="stable")
    best: list[int] = candidates[order[:_NUM_ITEMS]].tolist()
    return best


def write_top_items(folder: Path, top: TopItems) -> None:
    """Write the file of a model's folder."""
    write_columns(folder / _FILE, _SCHEMA, top)


def read_top_items(folder: Path) -> TopItems | None:
    """Read the file of a model's folder; None where every item was not ranked.

    Raises:
        DataError: It can't be read.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    table = read_columns(path, _SCHEMA)
    return TopItems(table["example_id"].to_pylist(), table["items"].to_pylist())
