"""The client of each kind of store: one a process, made when it is first needed."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage.failures import FailureKind, StoreError
from dynamicpo.core.storage.store import Store

# The variables that a client is made from: another value needs another client.
_VARIABLE_PREFIXES = ("AWS_", "MINIO_", "STORAGE_EMULATOR_", "GOOGLE_", "OBJECT_STORE_")

_lock = threading.Lock()
_clients: dict[str, tuple[object, Store]] = {}


def store_of(scheme: str) -> Store:
    """The client for a scheme; its connections are shared by all threads.

    Raises:
        DataError: It can't be made, as with unknown credentials.
    """
    # A connection must not be shared with a parent process.
    settings = [("pid", str(os.getpid()))]
    for name, value in sorted(os.environ.items()):
        if name.startswith(_VARIABLE_PREFIXES):
            settings.append((name, value))
    with _lock:
        known, store = _clients.get(scheme, (None, None))
        if store is None or known != settings:
            store = _make(scheme)
            _clients[scheme] = (settings, store)
    return store


def _make(scheme: str) -> Store:
    # Each needs its own library only.
    if scheme == "gs://":
        from dynamicpo.core.storage.google import GoogleStore

        return GoogleStore()
    from dynamicpo.core.storage.s3 import S3Store
    from dynamicpo.core.storage.s3_access import find_access

    return S3Store(find_access(scheme))


@contextmanager
def explained(uri: str, store: Store | None = None) -> Iterator[None]:
    """Turn the failures of a store and of the disk into one message each."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        kind = store.kind(error) if store else None
        if kind is None and isinstance(error, OSError):
            raise DataError(
                f"{uri}: must be readable and writable, but {error}. Check path and disk."
            ) from error
        if kind is None or store is None:
            raise
        detail = ""
        if kind is FailureKind.NO_CREDENTIALS:
            detail = store.credentials_hint
        elif kind in (FailureKind.OTHER, FailureKind.BUSY):
            detail = f"The store says: {store.detail(error)}"
        # Without its cause: the libraries' messages hold addresses with tokens.
        raise StoreError(uri, kind, detail) from None
