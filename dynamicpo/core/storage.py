"""Files here and in Google Cloud Storage, one interface.

A URI is a local path or `gs://bucket/name`. After each transfer the file's CRC32C is compared with
the store's. The client library is imported when a `gs://` URI is first used.
"""

import base64
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dynamicpo.core.errors import DataError

if TYPE_CHECKING:
    from google.cloud.storage import Blob

Source = TypeVar("Source")
Target = TypeVar("Target")

_SCHEME = "gs://"
# Transfers wait for the network most of the time. More threads meet the client's pool of ten
# connections, which warns and discards the rest.
_NUM_THREADS = 8
_BLOCK_BYTES = 1 << 20
_MANIFEST = "manifest.json"


def is_remote(uri: str) -> bool:
    """Tell whether a URI names the object store (and not a local path).

    Raises:
        DataError: It has a scheme that is neither.
    """
    if uri.startswith(_SCHEME):
        return True
    if "://" in uri:
        raise DataError(
            f"{uri}: must be a local path or start with {_SCHEME}, got another scheme. "
            "Copy it to either."
        )
    return False


def exists(uri: str) -> bool:
    """Tell whether a file, an object, a folder, or anything below a prefix is there.

    Raises:
        DataError: The store refuses, or has no such bucket.
    """
    if not is_remote(uri):
        return Path(uri).exists()
    with _errors_explained(uri):
        return bool(_list_blobs(uri, limit=1))


def list_files(uri: str) -> list[str]:
    """The URIs of all files below a folder or prefix (or of the one file it names), sorted.

    Raises:
        DataError: Nothing is there.
    """
    if is_remote(uri):
        return sorted(_blob_uri(blob) for blob in _existing_blobs(uri))
    path = _existing_path(uri)
    if not path.is_dir():
        return [str(path)]
    return sorted(str(file) for file in path.rglob("*") if file.is_file())


def fetch(uri: str, folder: Path) -> Path:
    """A local path with the content of a URI: the path itself, or a copy in `folder`.

    Args:
        uri: A local path; or an object, or a prefix whose objects become a folder.
        folder: The parent folder of a copy, which has the last part of the URI's name.

    Raises:
        DataError: Nothing is there, it can't be read, or its checksum is wrong after the transfer.
    """
    if not is_remote(uri):
        return _existing_path(uri)
    _, name = _split(uri)
    prefix = name.rstrip("/")
    last_part = prefix.rpartition("/")[2]
    local = folder / (last_part or "bucket")
    transfers = []
    for blob in _existing_blobs(uri):
        # Empty where the URI names this very object.
        relative_name = blob.name[len(prefix) :].lstrip("/")
        transfers.append((blob, _path_below(local, relative_name, uri)))
    with _errors_explained(uri):
        _in_threads(_download, transfers)
    return local


def put(local: Path, uri: str) -> None:
    """Copy a file, or a folder with all that is in it, to a URI; `manifest.json` goes last.

    Args:
        local: The file or folder.
        uri: The object's or the prefix's URI; or a local path.

    Raises:
        DataError: It can't be read or written, or the store holds another checksum than the file.
    """
    transfers = _uploads(_existing_path(str(local)), uri)
    with _errors_explained(uri):
        copy = _uploader(uri) if is_remote(uri) else _copy
        # A manifest means "complete": whoever sees it may read the rest.
        manifests = [pair for pair in transfers if pair[0].name == _MANIFEST]
        others = [pair for pair in transfers if pair[0].name != _MANIFEST]
        _in_threads(copy, others)
        _in_threads(copy, manifests)


def crc32c(path: Path) -> str:
    """A file's CRC32C as the store writes it: big-endian, in base 64."""
    import google_crc32c

    checksum = 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            checksum = google_crc32c.extend(checksum, block)
    return base64.b64encode(checksum.to_bytes(4, "big")).decode()


def _existing_path(uri: str) -> Path:
    path = Path(uri)
    if not path.exists():
        raise DataError(f"{uri}: must be a file or a folder, but nothing is there. Check the path.")
    return path


def _split(uri: str) -> tuple[str, str]:
    """The bucket and the name within it; the name is empty for the bucket itself."""
    bucket, _, name = uri.removeprefix(_SCHEME).partition("/")
    if not bucket:
        raise DataError(
            f"{uri}: must be {_SCHEME}bucket/name, but the bucket is missing. "
            "Give the complete address."
        )
    return bucket, name


def _path_below(folder: Path, name: str, uri: str) -> Path:
    # An object may have any name, "../../.ssh/config" as well.
    if ".." in Path(name).parts:
        raise DataError(
            f"{uri}: names must stay below their prefix, got {name!r}. Rename that object."
        )
    return folder / name if name else folder


def _uploads(local: Path, uri: str) -> list[tuple[Path, str]]:
    """Each file with the URI that it is copied to."""
    if not local.is_dir():
        return [(local, uri)]
    root = uri.rstrip("/")
    files = sorted(path for path in local.rglob("*") if path.is_file())
    return [(path, f"{root}/{path.relative_to(local)}") for path in files]


def _blob_uri(blob: "Blob") -> str:
    return f"{_SCHEME}{blob.bucket.name}/{blob.name}"


def _list_blobs(uri: str, limit: int | None = None) -> list["Blob"]:
    """The object of that very name, or the objects below it as a prefix."""
    from google.cloud import storage

    bucket, name = _split(uri)
    client = storage.Client()
    if name and not name.endswith("/"):
        blob = client.bucket(bucket).get_blob(name)
        if blob is not None:
            return [blob]
    # With its slash: the prefix "run" would list "run-2/..." as well.
    prefix = f"{name.rstrip('/')}/" if name else ""
    blobs = client.list_blobs(bucket, prefix=prefix, max_results=limit)
    # The console makes an empty object "folder/" for a folder; it is no file.
    return [blob for blob in blobs if not blob.name.endswith("/")]


def _existing_blobs(uri: str) -> list["Blob"]:
    with _errors_explained(uri):
        blobs = _list_blobs(uri)
    if not blobs:
        raise DataError(
            f"{uri}: must be an object or a prefix with objects, but nothing is there. "
            "Check the name."
        )
    return blobs


def _download(blob: "Blob", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under another name until its checksum is right: a half file must not look like the file.
    partial = path.with_name(f".{path.name}.partial")
    try:
        blob.download_to_filename(str(partial))
        _check_checksum(partial, blob)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _uploader(uri: str) -> Callable[[Path, str], None]:
    from google.cloud import storage

    bucket_name, _ = _split(uri)
    # One client for all files: each client asks for an access token of its own.
    bucket = storage.Client().bucket(bucket_name)

    def upload(path: Path, target: str) -> None:
        _, name = _split(target)
        blob = bucket.blob(name)
        blob.upload_from_filename(str(path))
        # The checksum of what the store has written, not of what was sent.
        blob.reload()
        _check_checksum(path, blob)

    return upload


def _check_checksum(path: Path, blob: "Blob") -> None:
    local_checksum = crc32c(path)
    if blob.crc32c != local_checksum:
        raise DataError(
            f"{_blob_uri(blob)}: must have the same CRC32C here and in the store after the "
            f"transfer, but the store says {blob.crc32c} and the file has {local_checksum}. "
            "Transfer it again."
        )


def _copy(path: Path, target: str) -> None:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def _in_threads(
    work: Callable[[Source, Target], None], pairs: Iterable[tuple[Source, Target]]
) -> None:
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        futures = [pool.submit(work, source, target) for source, target in pairs]
        # `result` raises what the thread has raised; an executor alone keeps it to itself.
        for future in futures:
            future.result()


@contextmanager
def _errors_explained(uri: str) -> Iterator[None]:
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
        explanation = _explain(error)
        if explanation is None:
            raise
        raise DataError(f"{uri}: {explanation}") from error


def _explain(error: Exception) -> str | None:
    """The message for a failure of the store; None for any other error."""
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth

    if isinstance(error, api.NotFound):
        return "bucket and object must exist, but the store has none of this name. Check the name."
    if isinstance(error, (api.Forbidden, api.Unauthorized)):
        return (
            "must be open to this account, but the store refused. "
            "Grant it the role to read or write objects."
        )
    if isinstance(error, auth.DefaultCredentialsError):
        return (
            "needs credentials, but there are none. "
            "Run 'gcloud auth application-default login' or use Workload Identity."
        )
    # The base classes of all others, and of the three above: last.
    if isinstance(error, (api.GoogleAPIError, auth.GoogleAuthError)):
        return f"the store must answer, but it failed: {error}. Try again."
    return None
