"""Two tables of one's own: interactions (`user_id, item_id, timestamp[, rating]`) and items (`item_id, title`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.reading import Check, Layout, Table, check_rows, present, read_text
from dynamicpo.data.sources.titles import clean_titles, distinct_titles

_SHOWN = 3


@dataclass(frozen=True)
class Raw:
    """Interactions and the catalogue, checked but not filtered.

    Attributes:
        interactions: An ibis table of `user_id`, `item_id` (text), `timestamp` and `rating` (float, null if unknown).
        items: `item_id`, `title`, `category`, one row an item, titles clean and distinct.
        counts: What was changed or dropped on the way.
    """

    interactions: Table
    items: pd.DataFrame
    counts: dict[str, int]


def read_interactions(
    connection: Any, path: Path, needs_rating: bool = False, layout: Layout | None = None
) -> Table:
    """The interactions of a file, with every row checked.

    Args:
        connection: An ibis connection to DuckDB.
        path: The file, or a folder of files of one format.
        needs_rating: Whether each row must have a rating.
        layout: How the file is written, where it has no usual header.

    Raises:
        DataError: Missing columns; ids that are missing; timestamps that are no numbers or negative; bad ratings.
    """
    required, optional = ["user_id", "item_id", "timestamp"], ["rating"]
    text = read_text(
        connection, path, required + optional * needs_rating, optional * (not needs_rating), layout
    )
    numbers = text.mutate(
        when=text.timestamp.try_cast("float64"), score=text.rating.try_cast("float64")
    )
    when, score = numbers.when, numbers.score
    checks = [
        *(_given(numbers, name) for name in ("user_id", "item_id")),
        Check(
            ~((when >= 0) & (when < 2.0**63)),
            "timestamp",
            "every timestamp must be epoch seconds, a finite number >= 0",
            "Convert or remove these rows.",
        ),
    ]
    if needs_rating:
        checks.append(
            Check(
                score.isnull() | score.isnan(),
                "rating",
                "every rating must be a number, as min_rating is set",
                "Give the ratings or set min_rating to 0.",
            )
        )
    check_rows(numbers, path, checks)
    return numbers.select(
        user_id=present(text.user_id), item_id=present(text.item_id), timestamp=when, rating=score
    )


def read_tables(connection: Any, files: dict[str, Path], needs_rating: bool) -> Raw:
    """Interactions and items of the two files, `interactions` and `items`."""
    items, counts = read_items(connection, files["items"])
    return Raw(read_interactions(connection, files["interactions"], needs_rating), items, counts)


def _given(table: Table, name: str) -> Check:
    return Check(
        present(table[name]).isnull(),
        name,
        f"every {name} must be given",
        "Fill in or remove these rows.",
    )


def read_items(connection: Any, path: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """The items of a file: `item_id`, `title`, `category` (""  where there is none), and what was changed.

    Raises:
        DataError: Missing columns; ids or titles that are missing; an item with two titles.
    """
    text = read_text(connection, path, ["item_id", "title"], ["category", "year"])
    untitled = Check(
        text.title.strip().fill_null("") == "",
        "item_id",
        "every item must have a title",
        "Add the titles.",
    )
    check_rows(text, path, [_given(text, "item_id"), untitled])
    columns = {"item_id": present(text.item_id), "title": text.title}
    columns |= {name: text[name].fill_null("") for name in ("category", "year")}
    return tidy_items(
        text.select(**columns).order_by(["item_id", "title", "category", "year"]).to_pandas(), path
    )


def tidy_items(items: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row an item, with clean and distinct titles.

    Args:
        items: `item_id`, `title`, `category` and `year`, all text; identical items may stand there twice.
        path: Where they come from, for messages.

    Raises:
        DataError: An item has two titles, or one of control characters alone.
    """
    items = items.assign(category=clean_titles(items["category"])[0])
    items["title"], counts = clean_titles(items["title"])
    if (blank := items["title"] == "").any():
        some = ", ".join(items.loc[blank, "item_id"].head(_SHOWN))
        raise DataError(
            f"{path}: every item must have a title that shows, {blank.sum()} have none: {some}. Add them."
        )
    several = items.groupby("item_id")["title"].transform("nunique") > 1
    if several.any():
        pairs = "; ".join(
            f"{name}: {title!r}"
            for name, title in items.loc[several, ["item_id", "title"]].head(4).values
        )
        raise DataError(
            f"{path}: every item must have one title, {items.loc[several, 'item_id'].nunique()} items have several "
            f"({pairs}). Keep one row for each item_id."
        )
    single = items.drop_duplicates("item_id").reset_index(drop=True)
    counts["dropped_duplicate_items"] = len(items) - len(single)
    single["title"], counts["titles_made_distinct"] = distinct_titles(single)
    return single[["item_id", "title", "category"]], counts
