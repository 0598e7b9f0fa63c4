"""Files of caches: kept beside the data, here or in an object store.

Without one the work is done again. So a store that can't be read or written is no failure.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage.addresses import is_remote
from dynamicpo.core.storage.checksums import crc32c
from dynamicpo.core.storage.files import exists, fetch, put

log = logging.getLogger(__name__)


@contextmanager
def cached_file(uri: str) -> Iterator[Path]:
    """A local path for a file of a cache, with its content where there is one.

    What is written there until the end of `with` is kept at the URI. Who keeps what another process
    has kept meanwhile replaces it: a name must stand for one content.
    """
    if not is_remote(uri):
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
        path = Path(scratch, uri.rpartition("/")[2])
        _fetch(uri, path)
        known = _checksum(path)
        yield path
        if _checksum(path) not in (known, ""):
            _keep(path, uri)


def _fetch(uri: str, path: Path) -> None:
    try:
        if exists(uri):
            fetch(uri, path.parent)
    except DataError as error:
        log.warning("%s: not taken from the cache (%s)", uri, error)


def _checksum(path: Path) -> str:
    return crc32c(path) if path.is_file() else ""


def _keep(path: Path, uri: str) -> None:
    try:
        put(path, uri)
    except DataError as error:
        log.warning("%s: not kept for other runs (%s)", uri, error)
