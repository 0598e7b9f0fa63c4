"""Items and rows as whole numbers: an item's code is its place in `items.parquet`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dynamicpo.core.errors import DataError

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Catalogue:
    """The items that candidates come from.

    Attributes:
        item_ids: One each, in the order of `items.parquet`.
        texts: A number for each item's title; items that read the same share it. Shape (I,).
        popularity: Interactions in the training split. Shape (I,).
    """

    item_ids: pa.Array
    texts: Codes
    popularity: Codes

    @property
    def num_texts(self) -> int:
        """How many different titles there are."""
        return int(self.texts.max(initial=-1)) + 1


@dataclass(frozen=True)
class Rows:
    """A split's rows in codes; lists are flat, with the row of each entry.

    Attributes:
        split: The split's name.
        example_ids: Shape (N,).
        users: Shape (N,), a Python list of user ids.
        positions: The target's place in its user's sequence. Shape (N,).
        targets: Shape (N,).
        history: All items of all histories, row by row.
        history_rows: The row of each of them.
    """

    split: str
    example_ids: list[str]
    users: list[str]
    positions: Codes
    targets: Codes
    history: Codes
    history_rows: Codes


def make_catalogue(items: pd.DataFrame) -> Catalogue:
    """The catalogue of an `items.parquet`."""
    texts = pd.factorize(items["title"].str.casefold())[0].astype(np.int64)
    return Catalogue(
        pa.array(items["item_id"], pa.string()), texts, items["popularity"].to_numpy(np.int64)
    )


def encode_rows(table: pa.Table, split: str, catalogue: Catalogue) -> Rows:
    """A split's table in codes.

    Raises:
        DataError: An item that is not in the catalogue, or an example id that is not `user_id:position`.
    """
    history, history_rows = encode_lists(table, "history", split, catalogue)
    example_ids = table["example_id"].to_pylist()
    positions = pd.to_numeric(
        pd.Series(example_ids, dtype=str).str.split(":").str[-1], errors="coerce"
    )
    if positions.isna().any():
        bad = example_ids[int(positions.isna().to_numpy().argmax())]
        raise DataError(
            f"{split}: every example_id must be user_id:position, got {bad!r}. Prepare the data again."
        )
    return Rows(
        split,
        example_ids,
        table["user_id"].to_pylist(),
        positions.to_numpy(np.int64),
        _encode(table["target"], np.arange(len(table)), table, split, catalogue),
        history,
        history_rows,
    )


def encode_lists(
    table: pa.Table, column: str, split: str, catalogue: Catalogue
) -> tuple[Codes, Codes]:
    """The codes of all entries of a list column, and the row of each."""
    lists = table[column].combine_chunks()
    rows = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    return _encode(pc.list_flatten(lists), rows, table, split, catalogue), rows


def _encode(values: Any, rows: Codes, table: pa.Table, split: str, catalogue: Catalogue) -> Codes:
    found = pc.index_in(values, value_set=catalogue.item_ids)
    if found.null_count:
        place = int(pc.index(pc.is_null(found), True).as_py())
        row = table["example_id"][int(rows[place])].as_py()
        raise DataError(
            f"{split} row {row!r}: every item must be in items.parquet, got {values[place].as_py()!r}. "
            "Prepare the data again."
        )
    return np.asarray(found.to_numpy(), dtype=np.int64)


def decode(codes: Codes, catalogue: Catalogue) -> pa.Array:
    """Lists of item ids. Shape (N, M) of codes to N lists of M."""
    rows, width = codes.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, catalogue.item_ids.take(pa.array(codes.ravel())))
