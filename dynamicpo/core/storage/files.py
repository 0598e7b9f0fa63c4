"""Files and folders, here and in object stores, one interface."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage.addresses import (
    Address,
    check_distinct,
    check_new_name,
    is_remote,
    join,
    parse_address,
    path_below,
)
from dynamicpo.core.storage.clients import explained, store_of
from dynamicpo.core.storage.download import download_large, download_small, read_whole
from dynamicpo.core.storage.parts import PART_BYTES, in_threads
from dynamicpo.core.storage.retries import retried
from dynamicpo.core.storage.store import Store, StoredFile, find_object

# What means "complete", in the order in which it comes after all else: of stages, then of runs.
_LAST_NAMES = ("manifest.json", "summary.json")


class FoundFile(NamedTuple):
    """A file or an object: its URI, size, and time of change in epoch seconds."""

    uri: str
    size: int
    modified: float


def exists(uri: str) -> bool:
    """Tell whether a file, an object, a folder, or anything below a prefix is there.

    Raises:
        DataError: The store refuses, or has no such bucket.
    """
    if not is_remote(uri):
        return Path(uri).exists()
    return bool(_find_objects(uri, limit=1))


def list_files(uri: str) -> list[str]:
    """The URIs of all files below a folder or prefix (or of the one file it names), sorted.

    Raises:
        DataError: Nothing is there.
    """
    return [file.uri for file in find_files(uri)]


def find_files(uri: str) -> list[FoundFile]:
    """All files below a folder or prefix (or the one file it names), sorted by URI.

    Raises:
        DataError: Nothing is there.
    """
    if is_remote(uri):
        objects = existing_objects(uri)
        found = [FoundFile(str(file.address), file.size, file.modified) for file in objects]
        return sorted(found)
    path = existing_path(uri)
    if not path.is_dir():
        return [_found_path(path)]
    return sorted(_files_below(path))


def remote_versions(uri: str) -> dict[str, str]:
    """Find the mark of each object's content below a prefix: its CRC32C, else its ETag.

    Args:
        uri: A prefix in a store, or one object.

    Returns:
        By the name below the prefix; nothing is transferred.

    Raises:
        DataError: Nothing is there.
    """
    prefix = parse_address(uri).name
    versions = {}
    for file in existing_objects(uri):
        name = file.address.name.removeprefix(prefix).lstrip("/")
        versions[name] = file.crc32c or file.version
    return versions


def _files_below(folder: Path) -> Iterator[FoundFile]:
    for path in folder.rglob("*"):
        # Another process may rename what it has written, or delete it, between here and there.
        with suppress(FileNotFoundError):
            if path.is_file():
                yield _found_path(path)


def _found_path(path: Path) -> FoundFile:
    status = path.stat()
    return FoundFile(str(path), status.st_size, status.st_mtime)


def fetch(uri: str, folder: Path) -> Path:
    """A local path with the content of a URI: the path itself, or a copy in `folder`.

    Args:
        uri: A local path; or an object, or a prefix whose objects become a folder.
        folder: The parent folder of a copy, which has the last part of the URI's name.

    Raises:
        DataError: Nothing is there, it can't be read, or its checksum is wrong after the transfer.
    """
    if not is_remote(uri):
        return existing_path(uri)
    local, transfers = planned_copies(uri, folder)
    download(store_of(parse_address(uri).scheme), transfers)
    return local


Transfer = tuple[StoredFile, Path]


def planned_copies(uri: str, folder: Path) -> tuple[Path, list[Transfer]]:
    """The local path of a copy of a URI, and each of its objects with the path of its own copy.

    Raises:
        DataError: Nothing is there, a name would leave the folder, or two would be one file.
    """
    prefix = parse_address(uri).name.rstrip("/")
    local = folder / (prefix.rpartition("/")[2] or "bucket")
    transfers = []
    for file in existing_objects(uri):
        # Empty where the URI names this very object.
        relative_name = file.address.name[len(prefix) :].lstrip("/")
        transfers.append((file, path_below(local, relative_name, uri)))
    check_distinct([path for _, path in transfers], uri)
    return local, transfers


def download(store: Store, transfers: Sequence[Transfer]) -> None:
    """Copy objects to their paths, each under another name until its checksum is right.

    Raises:
        DataError: One can't be read, or its checksum is wrong after the transfer.
    """
    small = [pair for pair in transfers if pair[0].size <= PART_BYTES]
    large = [pair for pair in transfers if pair[0].size > PART_BYTES]

    def download_one(pair: Transfer) -> None:
        file, path = pair
        with explained(str(file.address), store):
            download_small(store, file, path)

    in_threads(download_one, small)
    # One after another, each with all threads: so the memory has a bound.
    for file, path in large:
        with explained(str(file.address), store):
            download_large(store, file, path)


def read_bytes(uri: str) -> bytes:
    """The content of a small file or object.

    Raises:
        DataError: Nothing is there, or it can't be read.
    """
    if not is_remote(uri):
        path = existing_path(uri)
        with explained(uri):
            return path.read_bytes()
    address = parse_address(uri)
    store = store_of(address.scheme)
    with explained(uri, store):
        content = retried(store, lambda: read_whole(store, address))
    if content is None:
        raise DataError(f"{uri}: must be an object, but nothing is there. Check the name.")
    return content


def put(local: Path, uri: str, before_last: Callable[[], None] | None = None) -> None:
    """Copy a file, or a folder with all that is in it, to a URI; `manifest.json` goes last.

    Args:
        local: The file or folder.
        uri: The object's or the prefix's URI; or a local path.
        before_last: Called when all but manifests and summaries is there.

    Raises:
        DataError: It can't be read or written, or the store holds another checksum than the file.
    """
    transfers = _uploads(existing_path(str(local)), uri)
    if is_remote(uri):
        for _, target in transfers:
            check_new_name(target)
    copy = _upload if is_remote(uri) else _copy_all
    copy([pair for pair in transfers if pair[0].name not in _LAST_NAMES])
    if before_last is not None:
        before_last()
    # Whoever sees one of these may read the rest.
    for name in _LAST_NAMES:
        copy([pair for pair in transfers if pair[0].name == name])


def _copy_all(pairs: list[tuple[Path, str]]) -> None:
    in_threads(_copy, pairs)


def _upload(pairs: list[tuple[Path, str]]) -> None:
    small = [pair for pair in pairs if pair[0].stat().st_size <= PART_BYTES]
    large = [pair for pair in pairs if pair[0].stat().st_size > PART_BYTES]
    in_threads(_upload_small, small)
    # One after another, each with all threads: so the memory has a bound.
    for pair in large:
        _upload_large(pair)


def _upload_large(pair: tuple[Path, str]) -> None:
    path, uri = pair
    address = parse_address(uri)
    store = store_of(address.scheme)
    with explained(uri, store):
        store.upload(path, address)


def _upload_small(pair: tuple[Path, str]) -> None:
    path, uri = pair
    address = parse_address(uri)
    store = store_of(address.scheme)
    with explained(uri, store):
        content = path.read_bytes()
        retried(store, lambda: store.write(address, content))


def _copy(pair: tuple[Path, str]) -> None:
    path, target = pair
    with explained(target):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def delete(uri: str) -> None:
    """Delete a file, an object, a folder, or all below a prefix; nothing there is no error.

    Raises:
        DataError: The store or the file system refuses.
    """
    if is_remote(uri):
        objects = _find_objects(uri)
        store = store_of(parse_address(uri).scheme)
        with explained(uri, store):
            in_threads(lambda file: retried(store, lambda: store.delete(file.address)), objects)
        return
    path = Path(uri)
    with explained(uri):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def existing_path(uri: str) -> Path:
    """The local path of a URI.

    Raises:
        DataError: Nothing is there.
    """
    path = Path(uri)
    if not path.exists():
        raise DataError(f"{uri}: must be a file or a folder, but nothing is there. Check the path.")
    return path


def _uploads(local: Path, uri: str) -> list[tuple[Path, str]]:
    """Each file with the URI that it is copied to."""
    if not local.is_dir():
        return [(local, uri)]
    files = sorted(path for path in local.rglob("*") if path.is_file())
    return [(path, join(uri, str(path.relative_to(local)))) for path in files]


def _find_objects(uri: str, limit: int | None = None) -> list[StoredFile]:
    """The object of that very name, or the objects below it as a prefix."""
    address = parse_address(uri)
    store = store_of(address.scheme)
    with explained(uri, store):
        if address.name and not address.name.endswith("/"):
            file = retried(store, lambda: find_object(store, address))
            if file is not None:
                return [file]
        # With its slash: the prefix "run" would list "run-2/..." as well.
        prefix = address.named(f"{address.name.rstrip('/')}/" if address.name else "")
        return retried(store, lambda: list(islice(_files(store, prefix, limit), limit)))


def _files(store: Store, prefix: Address, limit: int | None) -> Iterator[StoredFile]:
    # The console makes an empty object "folder/" for a folder; it is no file.
    with_folder = limit + 1 if limit else None
    for file in store.objects(prefix, with_folder):
        if not file.address.name.endswith("/"):
            yield file


def existing_objects(uri: str) -> list[StoredFile]:
    """The object of that very name, or those below it as a prefix.

    Raises:
        DataError: There are none.
    """
    objects = _find_objects(uri)
    if not objects:
        raise DataError(
            f"{uri}: must be an object or a prefix with objects, but nothing is there. "
            "Check the name."
        )
    return objects
