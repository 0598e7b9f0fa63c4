"""User ids as they are kept: hashed on request, and without users who are to be forgotten.

Both happen at the first read and in this process: DuckDB gets the result of a hash, never its key.
"""

import hashlib
import hmac
import os
import re
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pandas as pd

from dynamicpo.core.config_inputs import HASH_KEY_VARIABLE
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.storage import find_files
from dynamicpo.data.sources.text_values import trim

_LABEL = b"dynamicpo: which key"
_POINT = re.compile(r"(?<=\d)[.]0+$")
_MIN_KEY = 16  # bytes; a shorter key could be found by trying


def hash_key(path: str) -> bytes:
    """The key of the hashes: a file's content, or the environment's DYNAMICPO_HASH_KEY.

    Raises:
        ConfigError: There is none, or it is too short.
    """
    try:
        key = Path(path).read_bytes() if path else os.environ.get(HASH_KEY_VARIABLE, "").encode()
    except OSError as error:
        raise ConfigError(f"hash_key_file: must be readable, but {error}. Check it.") from error
    key = key.strip()
    if len(key) < _MIN_KEY:
        raise ConfigError(
            f"hash_users: needs a key of at least {_MIN_KEY} bytes in hash_key_file or "
            f"{HASH_KEY_VARIABLE}, got {len(key)}. Make one with openssl rand -hex 32; pods get it "
            "from the Secret that the placement's hash_key_secret names."
        )
    return key


def read_forgotten(path: Path) -> frozenset[str]:
    """The user ids of a file, one a line.

    Raises:
        DataError: It can't be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = type(error).__name__  # its text may hold ids
        raise DataError(
            "forget: must be a file of ids, one a line, in UTF-8, but reading it failed "
            f"({reason}). Check it."
        ) from error
    written = frozenset(filter(None, (trim(line) for line in lines)))
    # Ids lose the point of floats when they are read, so that 7.0 names the user 7.
    return written | {_POINT.sub("", user_id) for user_id in written}


def forget_label(uri: str, num_ids: int) -> str:
    """A name of a version of a file of ids that says nothing of them: their number, its time."""
    # Not its size, which would tell how long the id of a single user is.
    times = [file.modified for file in find_files(uri)]
    return f"{num_ids} {max(times)!r}"


@dataclass(frozen=True)
class UserIds:
    """Changes of user ids.

    Attributes:
        key: The key of HMAC-SHA256; None to leave ids as they are.
        forgotten: Users who are left out, by the ids in the files.
    """

    key: bytes | None = None
    forgotten: frozenset[str] = frozenset()

    @property
    def key_label(self) -> str:
        """A name of the key, which tells it from others and nothing about it; "" without one."""
        return "" if self.key is None else hmac.new(self.key, _LABEL, hashlib.sha256).hexdigest()

    def hashed(self, user_id: str) -> str:
        """The id that is kept for one in a file."""
        if self.key is None:
            return user_id
        message = user_id.encode()
        keyed = hmac.new(self.key, message, hashlib.sha256)
        return keyed.hexdigest()

    def of_frame(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, int]:
        """Change the column `user_id` of a frame; returns the number of users left out, too."""
        is_left_out = rows["user_id"].isin(self.forgotten)
        num_left_out = rows.loc[is_left_out, "user_id"].nunique()
        remaining = rows[~is_left_out].reset_index(drop=True)
        hashes = remaining["user_id"].map(self.hashed)
        return remaining.assign(user_id=hashes), int(num_left_out)

    def kept(self, connection: ibis.BaseBackend, table: ir.Table) -> tuple[ir.Table, int]:
        """Change the column `user_id` of a table, and `user_id.raw` where it has one.

        Returns:
            The table, and the number of users who were left out.
        """
        if self.key is None and not self.forgotten:
            return table, 0
        distinct = table.filter(table.user_id.notnull()).select("user_id").distinct()
        ids = [str(user_id) for user_id in distinct.to_pyarrow()["user_id"].to_pylist()]
        kept = [user_id for user_id in ids if user_id not in self.forgotten]
        left_out = [user_id for user_id in ids if user_id in self.forgotten]
        names = pd.DataFrame(
            {
                "user_id": kept + left_out,
                "hash": [self.hashed(user_id) for user_id in kept + left_out],
                "is_left_out": [False] * len(kept) + [True] * len(left_out),
            }
        )
        names = names.astype({"user_id": "str", "hash": "str", "is_left_out": "bool"})
        known = connection.create_table(ibis.util.gen_name("users"), ibis.memtable(names))
        joined = table.left_join(known, "user_id")
        remaining = joined.filter(~joined.is_left_out.fill_null(False))
        changed = {"user_id": remaining.hash}
        if "user_id.raw" in table.columns:
            # Of a missing id the marker is shown, and of others what is kept.
            changed["user_id.raw"] = remaining.hash.fill_null(remaining["user_id.raw"])
        result = remaining.mutate(**changed).select(*table.columns)
        return connection.create_table(ibis.util.gen_name("kept"), result), len(left_out)
