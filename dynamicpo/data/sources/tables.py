"""A user's own two tables: interactions and items.

Interactions have the columns `user_id, item_id, timestamp[, rating]`, items `item_id, title`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import ibis
import ibis.expr.types as ir
import pandas as pd

from dynamicpo.core.errors import DataError
from dynamicpo.core.messages import quoted, shown
from dynamicpo.data.sources.delimited import DelimitedLayout
from dynamicpo.data.sources.ids import clean_ids, id_checks
from dynamicpo.data.sources.options import ReadingOptions
from dynamicpo.data.sources.reading import is_blank, read_text
from dynamicpo.data.sources.row_checks import RowCheck, run_row_checks
from dynamicpo.data.sources.timestamps import check_order, with_seconds
from dynamicpo.data.sources.titles import clean_titles, distinct_titles
from dynamicpo.data.sources.value_text import BYTES, COARSE, NESTED

_SHOWN_ITEMS = 3
_SHOWN_TITLES = 4
_SHOWN_EVENTS = 10
_MAX_SECONDS = 2.0**63  # later ones do not fit into the integers that ties are broken by
# Markers that only programs write: "None" and "Null" are titles of songs.
_NO_TITLES = ("nan", "NaN", "<NA>", "#N/A", "\\N", "(null)")


class Interactions(NamedTuple):
    """Interactions, checked row by row.

    Attributes:
        table: `user_id`, `item_id` (text), `timestamp` and `rating` (float, null if unknown).
        counts: How many values were changed, by how.
        notes: What was read in another way than it is written, as sentences.
    """

    table: ir.Table
    counts: dict[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ImportedTables:
    """Interactions and items, checked but not filtered.

    Attributes:
        interactions: `user_id`, `item_id` (text), `timestamp` and `rating` (float, null if
            unknown).
        items: `item_id`, `title`, `category`, one row an item, titles clean and distinct.
        counts: What was changed or dropped on the way.
        notes: What was read in another way than it is written, as sentences.
    """

    interactions: ir.Table
    items: pd.DataFrame
    counts: dict[str, int]
    notes: tuple[str, ...] = ()


def read_tables(
    connection: ibis.BaseBackend, files: dict[str, Path], options: ReadingOptions
) -> ImportedTables:
    """Read the interactions and items of the two files, `interactions` and `items`."""
    items = read_item_table(connection, files["items"], options)
    interactions = read_interactions(connection, files["interactions"], options)
    return ImportedTables(
        interactions=interactions.table,
        items=items.items,
        counts=items.counts | interactions.counts,
        notes=items.notes + interactions.notes,
    )


def read_interactions(
    connection: ibis.BaseBackend,
    path: Path,
    options: ReadingOptions,
    layout: DelimitedLayout | None = None,
) -> Interactions:
    """Read the interactions of a file, with every row checked.

    Args:
        connection: An ibis connection to DuckDB.
        path: The file, a folder of files of one format, or a glob.
        options: Names of columns, the form of times, and whether ratings must be there.
        layout: The file's layout, where it has no usual header.

    Raises:
        DataError: Missing columns or ids; ids that are not written exactly; timestamps that are no
            numbers, negative or all the same; bad ratings.
    """
    required = ["user_id", "item_id", "timestamp"]
    optional = ["rating"]
    if options.needs_rating:
        required, optional = required + optional, []
    if options.keep_events:
        required = [*required, "event"]
    text = read_text(connection, path, required, optional, layout, options.columns)
    times = with_seconds(connection.con, text.rows.get_name(), text.files, options.time_format)
    timed = replace(text, rows=connection.table(times.table))
    ids = clean_ids(timed, ["user_id", "item_id"], options.missing)
    kept, num_forgotten = options.users.kept(connection, ids.table)
    timed_rows, num_early = _without_early_times(kept, options)
    numbers = timed_rows.mutate(stars=timed_rows.rating.try_cast("float64"))
    checks = [
        *id_checks(numbers, "user_id"),
        *id_checks(numbers, "item_id"),
        _must_be_seconds(numbers),
        _must_be_exact(numbers),
    ]
    if options.needs_rating:
        checks.append(_must_be_rating(numbers))
    run_row_checks(numbers, text.files, checks)
    counts = dict(ids.counts)
    if times.converted:
        counts["timestamps_converted"] = times.converted
    if options.users.forgotten:
        counts["forgotten_users"] = num_forgotten
    early_note = ""
    if num_early:
        counts["dropped_early_times"] = num_early
        early_note = f"timestamp: {num_early} rows of times before 1970 are left out"
    if options.keep_events:
        before = numbers.count().execute()
        numbers = numbers.filter(numbers.event.strip().isin(options.keep_events))
        counts["dropped_events"] = int(before - numbers.count().execute())
        if counts["dropped_events"] == before:
            raise _no_events(path, kept, options)
    table = numbers.select(
        user_id=numbers.user_id,
        item_id=numbers.item_id,
        timestamp=numbers.seconds,
        rating=numbers.stars,
    )
    ties_note = check_order(table, path)
    notes = (*text.notes, *ids.notes, times.note, ties_note, early_note)
    return Interactions(table, counts, tuple(note for note in notes if note))


def _without_early_times(table: ir.Table, options: ReadingOptions) -> tuple[ir.Table, int]:
    """Leave out times before 1970 where a data set is known for them; returns their number, too."""
    if not options.drops_early_times:
        return table, 0
    is_early = (table.seconds < 0).fill_null(False)
    num_early = table.filter(is_early).count().execute()
    return table.filter(~is_early), int(num_early)


def _no_events(path: Path, table: ir.Table, options: ReadingOptions) -> DataError:
    found = table.select("event").distinct().order_by("event").limit(_SHOWN_EVENTS).to_pyarrow()
    names = ", ".join(quoted(event) for event in found["event"].to_pylist())
    return DataError(
        f"{path}: some events must be of {', '.join(options.keep_events)}, but there are only "
        f"{names}. Correct keep_events."
    )


def _must_be_seconds(table: ir.Table) -> RowCheck:
    is_valid = (table.seconds >= 0) & (table.seconds < _MAX_SECONDS)
    return RowCheck(
        fails=~is_valid,
        shown_column="timestamp",
        must="every timestamp must be epoch seconds, a finite number >= 0",
        remedy="Convert or remove these rows, or say with --time-format how times are written.",
    )


def _must_be_exact(table: ir.Table) -> RowCheck:
    return RowCheck(
        fails=(table.timestamp_flaw == COARSE).fill_null(False),
        shown_column="timestamp",
        must="every timestamp must be exact, not a 32-bit float, which steps by a minute or more",
        remedy="Export the column as integers or 64-bit floats from where it is exact.",
    )


def _must_be_rating(table: ir.Table) -> RowCheck:
    return RowCheck(
        fails=table.stars.isnull() | table.stars.isnan(),
        shown_column="rating",
        must="every rating must be a number, as min_rating is set",
        remedy="Give the ratings or set min_rating to 0.",
    )


class Items(NamedTuple):
    """Items, one row each.

    Attributes:
        items: `item_id`, `title`, `category` ("" where there is none).
        counts: What was changed.
        notes: What was read in another way than it is written, as sentences.
    """

    items: pd.DataFrame
    counts: dict[str, int]
    notes: tuple[str, ...]


def read_item_table(
    connection: ibis.BaseBackend,
    path: Path,
    options: ReadingOptions,
    layout: DelimitedLayout | None = None,
) -> Items:
    """Read the items of a file, with every row checked.

    Args:
        connection: An ibis connection to DuckDB.
        path: The file, a folder of files of one format, or a glob.
        options: Names of columns, and markers of missing values.
        layout: The file's layout, where it has no usual header.

    Raises:
        DataError: Missing columns; ids or titles that are missing; an item with two titles.
    """
    required, optional = ["item_id", "title"], ["category", "year"]
    text = read_text(connection, path, required, optional, layout, options.columns)
    ids = clean_ids(text, ["item_id"], options.missing)
    table, num_unnamed = _without_unnamed(ids.table, options)
    run_row_checks(
        table, text.files, [*id_checks(table, "item_id"), *_title_checks(table, options)]
    )
    items = table.select(
        item_id=table.item_id,
        title=table.title,
        category=table.category.fill_null(""),
        year=table.year.fill_null(""),
    )
    # Where plays are the items' table, too, each item stands there many times.
    distinct = items.distinct()
    # In a fixed order, so that the order of the file's rows decides nothing.
    ordered = distinct.order_by(["item_id", "title", "category", "year"])
    clean, counts = clean_items(ordered.to_pandas(), path)
    counts["dropped_duplicate_items"] = int(items.count().execute()) - len(clean)
    notes = (*text.notes, *ids.notes)
    if num_unnamed:
        counts["dropped_unnamed_items"] = num_unnamed
        notes = (*notes, f"items: {num_unnamed} without an id or a title are left out")
    return Items(clean, ids.counts | counts, notes)


def _without_unnamed(table: ir.Table, options: ReadingOptions) -> tuple[ir.Table, int]:
    """Leave out items without an id or a title where a data set is known for them.

    Returns:
        The others, and the number of those left out.
    """
    if not options.drops_unnamed_items:
        return table, 0
    is_unnamed = table.item_id.isnull() | (is_blank(table.title) & table.title_flaw.isnull())
    num_unnamed = int(table.filter(is_unnamed).count().execute())
    return table.filter(~is_unnamed), num_unnamed


def _title_checks(table: ir.Table, options: ReadingOptions) -> list[RowCheck]:
    # ibis has no empty list of values; no title of visible text is empty.
    markers = ["", *(marker for marker in _NO_TITLES if marker in options.missing)]
    return [
        RowCheck(
            fails=is_blank(table.title) & table.title_flaw.isnull(),
            shown_column="item_id",
            must="every item must have a title",
            remedy="Add the titles.",
        ),
        RowCheck(
            fails=~is_blank(table.title) & table.title.strip().isin(markers).fill_null(False),
            shown_column="title",
            must="every title must be one, not a mark that it is missing",
            remedy="Add the titles, or list what is missing instead with --missing-values.",
        ),
        RowCheck(
            fails=table.title_flaw.isin([NESTED, BYTES]).fill_null(False),
            shown_column="item_id",
            must="every title must be text, not a list, an object or bytes that are no UTF-8",
            remedy="Write titles as text.",
        ),
    ]


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
        first_items = invisible.head(_SHOWN_ITEMS)
        names = ", ".join(shown(name) for name in first_items)
        raise DataError(
            f"{path}: every item must have a title that shows, {len(invisible)} have none: "
            f"{names}. Add them."
        )
    by_item = items.groupby("item_id")
    num_titles = by_item["title"].transform("nunique")
    is_ambiguous = num_titles > 1
    ambiguous = items[is_ambiguous]
    if len(ambiguous):
        num_items = ambiguous["item_id"].nunique()
        first = ambiguous.head(_SHOWN_TITLES)
        rows = first.itertuples()
        pairs = [f"{shown(row.item_id)}: {quoted(row.title)}" for row in rows]
        listed = "; ".join(pairs)
        raise DataError(
            f"{path}: every item must have one title, {num_items} items have several "
            f"({listed}). Keep one row for each item_id."
        )
