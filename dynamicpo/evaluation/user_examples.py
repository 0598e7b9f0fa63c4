"""Users to look at: their history, what they took next, and each model's first items."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import EXAMPLES, read_columns, read_items
from dynamicpo.evaluation.saved import SavedResult
from dynamicpo.evaluation.top_items import TopItems
from dynamicpo.reports.pages.user_examples import ShownItems, UserExample

_ROWS_SCHEMA = pa.schema([EXAMPLES.field(name) for name in ("example_id", "history", "target")])
_CHANCE = "random"  # of whose recommendations there is nothing to learn


def user_examples(by_name: Mapping[str, SavedResult], folder: Path) -> list[UserExample]:
    """Collect what the models of a comparison recommend to the same users.

    Args:
        by_name: Models and baselines.
        folder: An evaluation of their rows.

    Raises:
        DataError: Its rows or items can't be read, or do not fit the recommendations.
    """
    tops = {
        name: saved.top_items
        for name, saved in by_name.items()
        if saved.top_items is not None and name != _CHANCE
    }
    if not tops:
        return []
    table = read_columns(folder / "rows.parquet", _ROWS_SCHEMA)
    rows = {row["example_id"]: row for row in table.to_pylist()}
    items = read_items(folder)
    titles = dict(zip(items["item_id"], items["title"], strict=True))
    _check_ids(folder, tops, rows)
    first, *_ = tops.values()
    examples = []
    for number, example_id in enumerate(first.example_ids):
        row = rows[example_id]
        shown = {name: top.items[number] for name, top in tops.items()}
        examples.append(_example(folder, row, shown, titles))
    return examples


def _check_ids(folder: Path, tops: Mapping[str, TopItems], rows: Mapping[str, object]) -> None:
    """Check that all models recommend to the same rows of an evaluation."""
    first, *others = tops.values()
    are_equal = all(other.example_ids == first.example_ids for other in others)
    if not are_equal or not {*first.example_ids} <= {*rows}:
        raise _other_rows(folder)


def _other_rows(folder: Path) -> DataError:
    return DataError(
        f"{folder}: must hold rows, items and first items of one evaluation, but they do not fit "
        "each other. Evaluate again."
    )


# Any: a row as Parquet gives it.
def _example(
    folder: Path,
    row: Mapping[str, Any],
    shown: Mapping[str, list[str]],
    titles: Mapping[str, str],
) -> UserExample:
    history: list[str] = row["history"]
    target: str = row["target"]
    named = {*history, target}
    named.update(*shown.values())
    if not named <= titles.keys():
        raise _other_rows(folder)
    models: dict[str, ShownItems] = {}
    for name, item_ids in shown.items():
        place = item_ids.index(target) + 1 if target in item_ids else None
        models[name] = ShownItems([titles[item] for item in item_ids], place)
    return UserExample([titles[item] for item in history], titles[target], models)
