"""Files here and in Google Cloud Storage, one interface.

A URI is a local path or `gs://bucket/name`. After each transfer the file's CRC32C is compared with the store's.
The client library is imported when a `gs://` URI is first used.
"""

import base64
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynamicpo.core.errors import DataError

_SCHEME = "gs://"
_THREADS = 8
_BLOCK_BYTES = 1 << 20


def is_remote(uri: str) -> bool:
    """Whether a URI names the object store (and not a local path).

    Raises:
        DataError: It has a scheme that is neither.
    """
    if "://" in uri and not uri.startswith(_SCHEME):
        raise DataError(
            f"{uri}: must be a local path or start with {_SCHEME}, got another scheme. Copy it to either."
        )
    return uri.startswith(_SCHEME)


def exists(uri: str) -> bool:
    """Whether a file, an object, a folder, or anything below a prefix is there.

    Raises:
        DataError: The store refuses, or has no such bucket.
    """
    if not is_remote(uri):
        return Path(uri).exists()
    with _explained(uri):
        return bool(_blobs(uri, limit=1))


def list_files(uri: str) -> list[str]:
    """The URIs of all files below a folder or prefix (or of the one file it names), sorted.

    Raises:
        DataError: Nothing is there.
    """
    if is_remote(uri):
        return sorted(f"{_SCHEME}{blob.bucket.name}/{blob.name}" for blob in _found(uri))
    path = _present(uri)
    return (
        sorted(str(file) for file in path.rglob("*") if file.is_file())
        if path.is_dir()
        else [str(path)]
    )


def fetch(uri: str, folder: Path) -> Path:
    """A local path with the content of a URI: the path itself, or a copy in `folder` of what the store holds.

    Args:
        uri: A local path; or an object, or a prefix whose objects become a folder.
        folder: Where a copy goes, under the last part of the URI's name.

    Raises:
        DataError: Nothing is there, it can't be read, or its checksum is wrong after the transfer.
    """
    if not is_remote(uri):
        return _present(uri)
    prefix = _split(uri)[1].rstrip("/")
    local = folder / (prefix.rpartition("/")[2] or "bucket")
    targets = [
        (blob, _below(local, blob.name[len(prefix) :].lstrip("/"), uri)) for blob in _found(uri)
    ]
    with _explained(uri):
        _in_threads(_download, targets)
    return local


def put(local: Path, uri: str) -> None:
    """Copy a file, or a folder with all that is in it, to a URI; `manifest.json` goes last.

    Args:
        local: What to copy.
        uri: The object's or the prefix's URI; or a local path.

    Raises:
        DataError: It can't be read or written, or the store holds another checksum than the file.
    """
    root = uri.rstrip("/")
    if _present(str(local)).is_dir():
        targets = {
            path: f"{root}/{path.relative_to(local)}"
            for path in sorted(local.rglob("*"))
            if path.is_file()
        }
    else:
        targets = {local: uri}
    with _explained(uri):
        copy = _uploader(uri) if is_remote(uri) else _copy
        _in_threads(copy, [pair for pair in targets.items() if pair[0].name != "manifest.json"])
        _in_threads(copy, [pair for pair in targets.items() if pair[0].name == "manifest.json"])


def crc32c(path: Path) -> str:
    """A file's CRC32C as the store writes it: big-endian, in base 64."""
    import google_crc32c

    checksum = 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            checksum = google_crc32c.extend(checksum, block)
    return base64.b64encode(checksum.to_bytes(4, "big")).decode()


def _present(uri: str) -> Path:
    path = Path(uri)
    if not path.exists():
        raise DataError(f"{uri}: must be a file or a folder, but nothing is there. Check the path.")
    return path


def _split(uri: str) -> tuple[str, str]:
    bucket, _, name = uri.removeprefix(_SCHEME).partition("/")
    if not bucket:
        raise DataError(
            f"{uri}: must be {_SCHEME}bucket/name, but the bucket is missing. Give the whole address."
        )
    return bucket, name


def _below(folder: Path, name: str, uri: str) -> Path:
    if ".." in Path(name).parts:
        raise DataError(
            f"{uri}: names must stay below their prefix, got {name!r}. Rename that object."
        )
    return folder / name if name else folder


def _blobs(uri: str, limit: int | None = None) -> list[Any]:
    """The object of that very name, or the objects below it as a prefix."""
    from google.cloud import storage

    bucket, name = _split(uri)
    client = storage.Client()
    blob = client.bucket(bucket).get_blob(name) if name and not name.endswith("/") else None
    if blob is not None:
        return [blob]
    listed = client.list_blobs(
        bucket, prefix=f"{name.rstrip('/')}/" if name else "", max_results=limit
    )
    return [found for found in listed if not found.name.endswith("/")]


def _found(uri: str) -> list[Any]:
    with _explained(uri):
        blobs = _blobs(uri)
    if not blobs:
        raise DataError(
            f"{uri}: must be an object or a prefix with objects, but nothing is there. Check the name."
        )
    return blobs


def _download(blob: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        blob.download_to_filename(str(partial))
        _same_checksum(partial, blob)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _uploader(uri: str) -> Callable[[Path, str], None]:
    from google.cloud import storage

    bucket = storage.Client().bucket(_split(uri)[0])

    def upload(path: Path, target: str) -> None:
        blob = bucket.blob(_split(target)[1])
        blob.upload_from_filename(str(path))
        blob.reload()
        _same_checksum(path, blob)

    return upload


def _same_checksum(path: Path, blob: Any) -> None:
    here = crc32c(path)
    if blob.crc32c != here:
        raise DataError(
            f"{_SCHEME}{blob.bucket.name}/{blob.name}: must have the same CRC32C here and in the store after the "
            f"transfer, but the store says {blob.crc32c} and the file has {here}. Transfer it again."
        )


def _copy(path: Path, target: str) -> None:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def _in_threads(work: Callable[..., None], pairs: Iterable[tuple[Any, Any]]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        for done in [pool.submit(work, *pair) for pair in pairs]:
            done.result()


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn the failures of the store and of the disk into one message each."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(
            f"{uri}: must be reachable and writable, but {error}. Check path and network."
        ) from error
    except Exception as error:
        if (message := _remedy(error)) is None:
            raise
        raise DataError(f"{uri}: {message}") from error


def _remedy(error: Exception) -> str | None:
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth

    remedies: list[tuple[tuple[type[Exception], ...], str]] = [
        (
            (api.NotFound,),
            "bucket and object must exist, but the store has none of this name. Check the name.",
        ),
        (
            (api.Forbidden, api.Unauthorized),
            "must be open to this account, but the store refused. Grant it the role to read or write objects.",
        ),
        (
            (auth.DefaultCredentialsError,),
            "needs credentials, but there are none. Run 'gcloud auth application-default login' or use "
            "Workload Identity.",
        ),
        (
            (api.GoogleAPIError, auth.GoogleAuthError),
            f"the store must answer, but it failed: {error}. Try again.",
        ),
    ]
    return next((remedy for kinds, remedy in remedies if isinstance(error, kinds)), None)
