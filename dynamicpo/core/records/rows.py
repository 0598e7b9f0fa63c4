"""Rows and items as Parquet files, and their schemas."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage.partial_copies import is_incomplete

_ITEM_IDS = pa.list_(pa.string())

EXAMPLES = pa.schema(
    [
        ("example_id", pa.string()),
        ("user_id", pa.string()),
        # Item ids, oldest first.
        ("history", _ITEM_IDS),
        ("target", pa.string()),
        # The row's number among its user's where the data has no times.
        ("timestamp", pa.float64()),
    ]
)
# The candidates hold the target in a random position; `rejected` are the others, in the order in
# which training takes them.
CANDIDATES_FIELD = pa.field("candidates", _ITEM_IDS)
REJECTED_FIELD = pa.field("rejected", _ITEM_IDS)
PREFERENCES = pa.schema([*EXAMPLES, CANDIDATES_FIELD, REJECTED_FIELD])
ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        # Interactions in the training split: later ones would tell of the future.
        ("popularity", pa.int64()),
        ("category", pa.string()),
    ]
)
_ROWS_PER_PART = 100_000


@dataclass(frozen=True)
class Row:
    """Token ids of a prompt and of the answers to it, scored exactly as they are here.

    Attributes:
        prompt_ids: The prompt. At least one token.
        answer_ids: Each answer, with its end-of-sequence token where it has one. At least one
            token each.
    """

    prompt_ids: Sequence[int]
    answer_ids: Sequence[Sequence[int]]


def write_rows(folder: Path, split: str, rows: pa.Table) -> None:
    """Write a split as `part-*.parquet` of at most 100,000 rows each.

    The same rows give the same bytes.
    """
    split_folder = folder / split
    split_folder.mkdir(parents=True)
    # An empty split gets one part, too: it has a schema, and its reader sees that it was written.
    num_parts = max(1, math.ceil(len(rows) / _ROWS_PER_PART))
    for part in range(num_parts):
        # The bytes of a Parquet file depend on the chunks of its table.
        piece = rows.slice(part * _ROWS_PER_PART, _ROWS_PER_PART).combine_chunks()
        path = split_folder / f"part-{part:05d}.parquet"
        pq.write_table(piece, path, compression="zstd")


def read_rows(folder: Path, split: str, schema: pa.Schema = PREFERENCES) -> pa.Table:
    """A split's rows, with at least the columns of `schema`.

    Raises:
        DataError: No such split; or a file that can't be read, or whose columns are others.
    """
    return pa.concat_tables(read_parts(folder, split, schema))


def read_parts(folder: Path, split: str, schema: pa.Schema = PREFERENCES) -> Iterator[pa.Table]:
    """A split's rows, file by file; errors as those of `read_rows`."""
    parts = sorted((folder / split).glob("part-*.parquet"))
    if not parts:
        raise DataError(
            f"{folder / split}: must hold part-*.parquet files, but none is there. "
            "Run the stage before this one."
        )
    for part in parts:
        yield read_columns(part, schema)


def read_columns(path: Path, schema: pa.Schema, nullable: Collection[str] = ()) -> pa.Table:
    """A Parquet file of ours, with at least the columns of `schema`.

    Args:
        path: The file.
        schema: Names and types of the columns.
        nullable: Those in which values may be missing.

    Raises:
        DataError: It can't be read, or a column is missing, has another type or lacks values.
    """
    try:
        # No partitions: a folder above named `user_id=7` is no column. Absolute: a relative path
        # such as `run:1/part.parquet` is taken for an address.
        table = pq.read_table(path.absolute(), partitioning=None)
        # Texts that are no UTF-8 too, which would fail far from here.
        table.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _not_as_written(path, f"it can't be read ({error})") from error
    for field in schema:
        if field.name not in table.column_names:
            # A copy with the columns that are needed, and not all of them.
            if is_incomplete(path):
                continue
            raise _not_as_written(path, f"the column {field.name} is missing")
        column = table[field.name]
        if column.type != field.type:
            raise _not_as_written(path, f"{field.name} is {column.type} and not {field.type}")
        if field.name not in nullable and _has_nulls(column):
            raise _not_as_written(path, f"values of {field.name} are missing")
    return table


def write_columns(path: Path, schema: pa.Schema, columns: Iterable[object]) -> None:
    """Write a Parquet file that `read_columns` reads.

    Args:
        path: The file.
        schema: Names and types of the columns.
        columns: The values of each.
    """
    arrays = []
    for field, values in zip(schema, columns, strict=True):
        arrays.append(pa.array(values, field.type))
    table = pa.Table.from_arrays(arrays, schema=schema)
    pq.write_table(table, path, compression="zstd")


def _has_nulls(column: pa.ChunkedArray) -> bool:
    values = column
    if pa.types.is_list(column.type):
        values = pc.list_flatten(column)
    return bool(column.null_count or values.null_count)


def _not_as_written(path: Path, problem: str) -> DataError:
    reason = " ".join(problem.split())[:300]
    return DataError(
        f"{path}: must be as a stage wrote it, but {reason}. Run the stage before this one again."
    )


def write_items(folder: Path, items: pd.DataFrame) -> None:
    """Write `items.parquet`, sorted by item id."""
    # Without the index, which pandas would add as a column of its own.
    table = pa.Table.from_pandas(items.sort_values("item_id"), schema=ITEMS, preserve_index=False)
    pq.write_table(table, folder / "items.parquet", compression="zstd")


def read_items(folder: Path) -> pd.DataFrame:
    """The items table, with the columns of `ITEMS`, sorted by item id."""
    path = folder / "items.parquet"
    if not path.is_file():
        raise DataError(f"{path}: must be there, but it is missing. Run the stage before this one.")
    table = read_columns(path, ITEMS, nullable=("category",))
    try:
        items: pd.DataFrame = table.to_pandas()
    # Metadata of pandas in the file, which may be damaged too.
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        problem = f"it can't be read ({error})"
        raise _not_as_written(path, problem) from error
    return items
