"""Small objects, written whole: created where there is none, or replaced where nobody else was."""

from dynamicpo.core.storage.addresses import Address, parse_address
from dynamicpo.core.storage.clients import explained, store_of
from dynamicpo.core.storage.download import read_whole
from dynamicpo.core.storage.failures import FailureKind, LostRaceError
from dynamicpo.core.storage.retries import retried
from dynamicpo.core.storage.store import NO_VERSION, Store, find_object


def create_object(uri: str, content: bytes) -> None:
    """Create an object that must not exist yet.

    Raises:
        LostRaceError: It exists.
        DataError: It can't be written.
    """
    _write(uri, content, NO_VERSION)


def replace_object(uri: str, content: bytes, expected: str | None = None) -> None:
    """Write an object, over one that may be there.

    Args:
        uri: The object.
        content: Its content.
        expected: The version that must be there (None: any, or none).

    Raises:
        LostRaceError: Another version is there.
        DataError: It can't be written.
    """
    _write(uri, content, expected)


def version_of(uri: str) -> str | None:
    """The version of an object; None where there is none.

    Raises:
        DataError: The store refuses.
    """
    address = parse_address(uri)
    store = store_of(address.scheme)
    with explained(uri, store):
        file = retried(store, lambda: find_object(store, address))
    return file.version if file else None


def _write(uri: str, content: bytes, expected: str | None) -> None:
    address = parse_address(uri)
    store = store_of(address.scheme)
    with explained(uri, store):
        is_ours = retried(store, lambda: _try_write(store, address, content, expected))
    if not is_ours:
        raise LostRaceError(uri)


def _try_write(store: Store, address: Address, content: bytes, expected: str | None) -> bool:
    try:
        store.write(address, content, expected)
    except Exception as error:
        if store.kind(error) is not FailureKind.LOST_PRECONDITION:
            raise
        # An earlier try may have arrived although its answer did not.
        return read_whole(store, address) == content
    return True
