"""A user's own two tables: interactions and items.

Interactions have the columns `user_id, item_id, timestamp[, rating]`, items `item_id, title`.
"""

from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pandas as pd

from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.reading import DelimitedLayout, is_blank, null_if_missing, read_text
from dynamicpo.data.sources.row_checks import RowCheck, run_row_checks
from dynamicpo.data.sources.titles import clean_titles, distinct_titles

_SHOWN_ITEMS = 3
_SHOWN_TITLES = 4
_MAX_SECONDS = 2.0**63  # later ones do not fit into the integers that ties are broken by


@dataclass(frozen=True)
class ImportedTables:
    """Interactions and items, checked but not filtered.

    Attributes:
        interactions: `user_id`, `item_id` (text), `timestamp` and `rating` (float, null if
            unknown).
        items: `item_id`, `title`, `category`, one row an item, titles clean and distinct.
        counts: What was changed or dropped on the way.
    """

    interactions: ir.Table
    items: pd.DataFrame
    counts: dict[str, int]


def read_tables(
    connection: ibis.BaseBackend, files: dict[str, Path], needs_rating: bool
) -> ImportedTables:
    """Read the interactions and items of the two files, `interactions` and `items`."""
    items, counts = read_item_table(connection, files["items"])
    interactions_path = files["interactions"]
    interactions = read_interactions(connection, interactions_path, needs_rating)
    return ImportedTables(interactions, items, counts)


def read_interactions(
    connection: ibis.BaseBackend,
    path: Path,
    needs_rating: bool = False,
    layout: DelimitedLayout | None = None,
) -> ir.Table:
    """Read the interactions of a file, with every row checked.

    Args:
        connection: An ibis connection to DuckDB.
        path: The file, or a folder of files of one format.
        needs_rating: Whether each row must have a rating.
        layout: The file's layout, where it has no usual header.

    Raises:
        DataError: Missing columns or ids; timestamps that are no numbers or negative; bad ratings.
    """
    required = ["user_id", "item_id", "timestamp"]
    optional = ["rating"]
    if needs_rating:
        required, optional = required + optional, []
    text = read_text(connection, path, required, optional, layout)
    numbers = text.mutate(
        seconds=text.timestamp.try_cast("float64"), stars=text.rating.try_cast("float64")
    )
    checks = [
        _must_be_given(numbers, "user_id"),
        _must_be_given(numbers, "item_id"),
        _must_be_seconds(numbers),
    ]
    if needs_rating:
        checks.append(_must_be_rating(numbers))
    run_row_checks(numbers, path, checks)
    return numbers.select(
        user_id=null_if_missing(numbers.user_id),
        item_id=null_if_missing(numbers.item_id),
        timestamp=numbers.seconds,
        rating=numbers.stars,
    )


def _must_be_given(table: ir.Table, name: str) -> RowCheck:
    return RowCheck(
        fails=null_if_missing(table[name]).isnull(),
        shown_column=name,
        must=f"every {name} must be given",
        remedy="Fill in or remove these rows.",
    )


def _must_be_seconds(table: ir.Table) -> RowCheck:
    is_valid = (table.seconds >= 0) & (table.seconds < _MAX_SECONDS)
    return RowCheck(
        fails=~is_valid,
        shown_column="timestamp",
        must="every timestamp must be epoch seconds, a finite number >= 0",
        remedy="Convert or remove these rows.",
    )


def _must_be_rating(table: ir.Table) -> RowCheck:
    return RowCheck(
        fails=table.stars.isnull() | table.stars.isnan(),
        shown_column="rating",
        must="every rating must be a number, as min_rating is set",
        remedy="Give the ratings or set min_rating to 0.",
    )


def read_item_table(
    connection: ibis.BaseBackend, path: Path
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Read the items of a file, with every row checked.

    Returns:
        `item_id`, `title`, `category` ("" where there is none), and what was changed.

    Raises:
        DataError: Missing columns; ids or titles that are missing; an item with two titles.
    """
    text = read_text(connection, path, ["item_id", "title"], ["category", "year"])
    must_have_title = RowCheck(
        fails=is_blank(text.title),
        shown_column="item_id",
        must="every item must have a title",
        remedy="Add the titles.",
    )
    run_row_checks(text, path, [_must_be_given(text, "item_id"), must_have_title])
    items = text.select(
        item_id=null_if_missing(text.item_id),
        title=text.title,
        category=text.category.fill_null(""),
        year=text.year.fill_null(""),
    )
    # In a fixed order, so that the order of the file's rows decides nothing.
    ordered = items.order_by(["item_id", "title", "category", "year"])
    return clean_items(ordered.to_pandas(), path)


def clean_items(items: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """Clean the titles of items and make them distinct, one row an item.

    Args:
        items: `item_id`, `title`, `category` and `year`, all text; rows may be repeated.
        path: Where they come from, for messages.

    Returns:
        `item_id`, `title`, `category`, and what was changed.

    Raises:
        DataError: An item has two titles, or one of control characters alone.
    """
    categories, _ = clean_titles(items["category"])
    titles, counts = clean_titles(items["title"])
    clean = items.assign(category=categories, title=titles)
    _check_titles(clean, path)
    single = clean.drop_duplicates("item_id", ignore_index=True)
    counts["dropped_duplicate_items"] = len(items) - len(single)
    # Last, when each item is there once: its own copy would take the title away from it.
    single["title"], counts["titles_made_distinct"] = distinct_titles(single)
    return single[["item_id", "title", "category"]], counts


def _check_titles(items: pd.DataFrame, path: Path) -> None:
    """Refuse items without a title that shows, or with several."""
    invisible = items.loc[items["title"] == "", "item_id"]
    if len(invisible):
        names = ", ".join(invisible.head(_SHOWN_ITEMS))
        raise DataError(
            f"{path}: every item must have a title that shows, {len(invisible)} have none: "
            f"{names}. Add them."
        )
    by_item = items.groupby("item_id")
    num_titles = by_item["title"].transform("nunique")
    ambiguous = items[num_titles > 1]
    if len(ambiguous):
        num_items = ambiguous["item_id"].nunique()
        shown = ambiguous.head(_SHOWN_TITLES)
        pairs = [f"{row.item_id}: {row.title!r}" for row in shown.itertuples()]
        raise DataError(
            f"{path}: every item must have one title, {num_items} items have several "
            f"({'; '.join(pairs)}). Keep one row for each item_id."
        )
