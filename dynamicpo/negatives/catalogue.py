"""Items and rows as integers: an item's code is its row in `items.parquet`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dynamicpo.core.arrays import IntArray
from dynamicpo.core.errors import DataError


@dataclass(frozen=True)
class Catalogue:
    """The items that candidates come from.

    Attributes:
        item_ids: One for each item, in the order of `items.parquet`.
        title_ids: A number for each item's title; items that read the same share it. Shape (I,).
        popularity: Interactions in the training split. Shape (I,).
    """

    item_ids: pa.Array
    title_ids: IntArray
    popularity: IntArray

    @property
    def num_titles(self) -> int:
        """Number of different titles."""
        return int(self.title_ids.max(initial=-1)) + 1


@dataclass(frozen=True)
class EncodedRows:
    """A split's rows in codes; the histories are flat, with the row of each entry.

    Attributes:
        split: The split's name.
        example_ids: Shape (N,).
        users: User ids. Shape (N,).
        positions: The target's position in its user's sequence. Shape (N,).
        targets: Shape (N,).
        history: All items of all histories, row by row.
        history_rows: The row of each of them.
    """

    split: str
    example_ids: list[str]
    users: list[str]
    positions: IntArray
    targets: IntArray
    history: IntArray
    history_rows: IntArray


class EncodedColumn(NamedTuple):
    """The items of a column, its lists flattened.

    Attributes:
        codes: The code of each item.
        rows: The row that each item stands in.
    """

    codes: IntArray
    rows: IntArray


def make_catalogue(items: pd.DataFrame) -> Catalogue:
    """Build the catalogue of an `items.parquet`."""
    titles = items["title"].str.casefold()
    title_ids, _ = pd.factorize(titles)
    return Catalogue(
        item_ids=item_id_array(items),
        title_ids=title_ids.astype(np.int64),
        popularity=items["popularity"].to_numpy(np.int64),
    )


def item_id_array(items: pd.DataFrame) -> pa.Array:
    """The ids of an items table, for `encode_column`."""
    return pa.array(items["item_id"], pa.string())


def encode_rows(table: pa.Table, split: str, catalogue: Catalogue) -> EncodedRows:
    """Encode a split's table.

    Raises:
        DataError: An item is not in the catalogue, or an example id is not `user_id:position`.
    """
    example_ids = table["example_id"].to_pylist()
    history = encode_lists(table, "history", split, catalogue)
    targets = encode_lists(table, "target", split, catalogue)
    return EncodedRows(
        split=split,
        example_ids=example_ids,
        users=table["user_id"].to_pylist(),
        positions=_positions(example_ids, split),
        targets=targets.codes,
        history=history.codes,
        history_rows=history.rows,
    )


def _positions(example_ids: Sequence[str], split: str) -> IntArray:
    """The positions that example ids of the form `user_id:position` end with."""
    parts = pd.Series(example_ids, dtype=str).str.split(":")
    positions = pd.to_numeric(parts.str[-1], errors="coerce")
    is_missing = positions.isna().to_numpy()
    if is_missing.any():
        first_missing = int(is_missing.argmax())
        first = example_ids[first_missing]
        raise DataError(
            f"{split}: every example_id must be user_id:position, got {first!r}. "
            "Prepare the data again."
        )
    return positions.to_numpy(np.int64)


def encode_lists(table: pa.Table, column: str, split: str, catalogue: Catalogue) -> EncodedColumn:
    """Encode a column of items, or of lists of items, of a table with example ids.

    Raises:
        DataError: An item is not in the catalogue.
    """
    values = table[column]
    example_ids = table["example_id"]

    def row_name(row: int) -> str:
        example_id = example_ids[row]
        text = example_id.as_py()
        return f"{split} row {text!r}"

    return encode_column(values, catalogue.item_ids, row_name)


def encode_column(
    column: pa.ChunkedArray, item_ids: pa.Array, row_name: Callable[[int], str]
) -> EncodedColumn:
    """Encode a column of items, or of lists of items.

    Args:
        column: Item ids.
        item_ids: All items, in the order of their codes.
        row_name: The name of a row in messages.

    Raises:
        DataError: An item is not among `item_ids`.
    """
    values = column.combine_chunks()
    if pa.types.is_list(values.type):
        parents = pc.list_parent_indices(values).to_numpy()
        rows = parents.astype(np.int64)
        values = pc.list_flatten(values)
    else:
        num_rows = len(values)
        rows = np.arange(num_rows, dtype=np.int64)
    # A hash lookup in C++, without a Python object for each item.
    codes = pc.index_in(values, value_set=item_ids)
    if codes.null_count:
        is_unknown = pc.is_null(codes)
        first = pc.index(is_unknown, True).as_py()
        item_id = values[first].as_py()
        row = int(rows[first])
        where = row_name(row)
        raise DataError(
            f"{where}: every item must be in items.parquet, got {item_id!r}. "
            "Prepare the data again."
        )
    code_array = np.asarray(codes.to_numpy(), dtype=np.int64)
    return EncodedColumn(code_array, rows)


def decode_lists(codes: IntArray, catalogue: Catalogue) -> pa.Array:
    """Turn an (N, M) array of codes into N lists of M item ids."""
    num_rows, length = codes.shape
    # Offsets are 32-bit because the columns' type is `list`, not `large_list`.
    num_bounds = num_rows + 1
    bounds = np.arange(num_bounds, dtype=np.int32) * length
    flat_codes = codes.ravel()
    item_ids = catalogue.item_ids.take(pa.array(flat_codes))
    return pa.ListArray.from_arrays(pa.array(bounds), item_ids)
