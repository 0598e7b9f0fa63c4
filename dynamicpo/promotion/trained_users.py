"""The users whose rows a version was trained on, kept as hashes: whoever is forgotten later."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import read_rows
from dynamicpo.core.storage.addresses import join
from dynamicpo.core.storage.files import read_bytes
from dynamicpo.core.user_hashes import user_hash

_FILE = "users.parquet"
_COLUMN = "user"
_SCHEMA = pa.schema({_COLUMN: pa.string()})


def write_trained_users(preferences: Path, folder: Path) -> None:
    """Write the hashes of all users with training rows, sorted.

    A training on a sample of the rows may have seen fewer.

    Args:
        preferences: The rows, an output of `sample-negatives`.
        folder: The version's folder.

    Raises:
        DataError: The rows can't be read.
    """
    rows = read_rows(preferences, "train")
    users = sorted({user_hash(user) for user in rows["user_id"].to_pylist()})
    table = pa.table({_COLUMN: users}, schema=_SCHEMA)
    pq.write_table(table, folder / _FILE, compression="zstd")


def count_trained_users(version_uri: str, users: Iterable[str]) -> int:
    """Count those of some users whose rows a version was trained on.

    Args:
        version_uri: The version's folder.
        users: Ids as they stand in the rows: hashed, where data preparation hashed them.

    Raises:
        DataError: The version's file can't be read.
    """
    uri = join(version_uri, _FILE)
    content = pa.BufferReader(read_bytes(uri))
    try:
        known = set(pq.read_table(content, schema=_SCHEMA)[_COLUMN].to_pylist())
    except pa.ArrowException as error:
        raise DataError(
            f"{uri}: must be a list of hashes, but it can't be read ({error}). "
            "Publish the version again."
        ) from error
    return sum(user_hash(user) in known for user in set(users))
