"""Local copies of prefixes without what their reader does not need.

What is left in the store is remembered, so that a check of the copy against its manifest knows it
from what is missing. Columns of a Parquet file are fetched by ranges; whole files have their
checksums compared, ranges have not.
"""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from dynamicpo.core.storage.addresses import is_remote, parse_address
from dynamicpo.core.storage.clients import store_of
from dynamicpo.core.storage.files import Transfer, download, existing_path, planned_copies
from dynamicpo.core.storage.parts import in_threads
from dynamicpo.core.storage.ranges import open_object
from dynamicpo.core.storage.store import Store

# Below this a file is there before its columns would be.
_SMALL_BYTES = 1 << 20

# Files of copies that are in the store alone, or here without some columns.
_incomplete: set[Path] = set()


class FolderPart(NamedTuple):
    """Files of a folder that a reader needs.

    Attributes:
        names: Patterns of their names below the folder; `*` stands for any text, with its `/`.
        columns: What is needed of them where they are Parquet (empty: all).
        without: Patterns of names that are not needed all the same.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def fits(self, name: str) -> bool:
        """Tell whether a file of this name is in this part."""
        # "." is the object that the URI itself names.
        if name == ".":
            return True
        return _matches(name, self.names) and not _matches(name, self.without)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


WHOLE = (FolderPart(("*",)),)


def fetch_parts(uri: str, folder: Path, parts: Sequence[FolderPart]) -> Path:
    """A local path with some content of a URI: the path itself, or a copy in `folder`.

    Args:
        uri: A local path; or an object, which is fetched whole, or a prefix.
        folder: The parent folder of a copy, which has the last part of the URI's name.
        parts: What is needed; the first that fits a name counts.

    Raises:
        DataError: As `fetch`.
    """
    if not is_remote(uri):
        return existing_path(uri)
    store = store_of(parse_address(uri).scheme)
    local, transfers = planned_copies(uri, folder)
    whole: list[Transfer] = []
    by_columns: list[tuple[Transfer, Collection[str]]] = []
    for transfer in transfers:
        file, path = transfer
        part = _part_of(path.relative_to(local).as_posix(), parts)
        if part is None:
            _incomplete.add(path)
        elif part.columns and file.size > _SMALL_BYTES:
            _incomplete.add(path)
            by_columns.append((transfer, part.columns))
        else:
            whole.append(transfer)
    download(store, whole)
    in_threads(lambda pair: _copy_columns(store, *pair), by_columns)
    return local


def is_incomplete(path: Path) -> bool:
    """Tell whether a file of a copy was left in the store, or columns of it."""
    return path in _incomplete


def _part_of(name: str, parts: Sequence[FolderPart]) -> FolderPart | None:
    for part in parts:
        if part.fits(name):
            return part
    return None


def _copy_columns(store: Store, transfer: Transfer, columns: Collection[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, path = transfer
    try:
        with open_object(store, file) as stream:
            parquet = pq.ParquetFile(stream, pre_buffer=True)
            names = [name for name in parquet.schema_arrow.names if name in columns]
            table = parquet.read(columns=names)
    except pa.ArrowException:
        # Damaged: as a whole it gets its reader's own message.
        download(store, [transfer])
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
