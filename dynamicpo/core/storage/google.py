"""Google Cloud Storage, through google-cloud-storage."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dynamicpo.core.storage.addresses import Address
from dynamicpo.core.storage.checksums import check_equal, crc32c, crc32c_of
from dynamicpo.core.storage.failures import FailureKind, MissingBucketError, StoreError
from dynamicpo.core.storage.google_failures import google_failure_kind
from dynamicpo.core.storage.google_upload import TIMEOUT, upload_resumable
from dynamicpo.core.storage.store import NO_VERSION, Range, StoredFile

if TYPE_CHECKING:
    from google.cloud.storage import Blob


class GoogleStore:
    """The client of Google Cloud Storage, with Application Default Credentials."""

    credentials_hint = "Run 'gcloud auth application-default login' or use Workload Identity."

    def __init__(self) -> None:
        """Find credentials and make the client.

        Raises:
            StoreError: There are none, or they can't be read.
        """
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import storage

        try:
            self._client = storage.Client()
        except GoogleAuthError:
            hint = self.credentials_hint
            raise StoreError("gs://", FailureKind.NO_CREDENTIALS, hint) from None

    def objects(self, prefix: Address, limit: int | None = None) -> Iterator[StoredFile]:
        """The objects whose names begin with the prefix's, by name."""
        blobs = self._client.list_blobs(
            prefix.bucket, prefix=prefix.name, max_results=limit, retry=None, timeout=TIMEOUT
        )
        with _needs_bucket():
            for blob in blobs:
                yield _stored(prefix, blob)

    def read(self, file: StoredFile, start: int, end: int) -> Range:
        """The bytes from `start` to before `end` of this version."""
        if start == end:
            return Range((), file.crc32c)
        blob = self._blob(file.address)
        # The checksum is that of the whole object, which the caller compares.
        content = blob.download_as_bytes(
            start=start,
            end=end - 1,
            raw_download=True,
            if_generation_match=int(file.version),
            checksum=None,
            retry=None,
            timeout=TIMEOUT,
        )
        return Range((content,), file.crc32c)

    def check(self, file: StoredFile, path: Path) -> None:
        """Raise CorruptionError where a local copy has another checksum than the store."""
        check_equal(file.crc32c, crc32c(path))

    def write(self, address: Address, content: bytes, expected: str | None = None) -> StoredFile:
        """Write a small object and check what the store has got."""
        blob = self._blob(address)
        generation = None if expected is None else 0 if expected == NO_VERSION else int(expected)
        with _needs_bucket():
            blob.upload_from_string(
                content,
                content_type="application/octet-stream",
                if_generation_match=generation,
                checksum="crc32c",
                retry=None,
                timeout=TIMEOUT,
            )
        check_equal(blob.crc32c, crc32c_of(content))
        return _stored(address, blob)

    def upload(self, path: Path, address: Address) -> None:
        """Write a large object in parts, each sent again where it fails; check it."""
        with _needs_bucket():
            upload_resumable(self, self._client, path, self._blob(address))

    def delete(self, address: Address) -> None:
        """Delete an object; one that is not there is no error."""
        from google.api_core.exceptions import NotFound

        try:
            self._blob(address).delete(retry=None, timeout=TIMEOUT)
        except NotFound:
            return

    def kind(self, error: Exception) -> FailureKind | None:
        """The kind of failure that an exception means; None if it is not the store's."""
        return google_failure_kind(error)

    def detail(self, error: Exception) -> str:
        """A few words of the store on a failure, without addresses or credentials."""
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", "")
        return f"{type(error).__name__} {status}".rstrip()

    def _blob(self, address: Address) -> "Blob":
        return self._client.bucket(address.bucket).blob(address.name)


@contextmanager
def _needs_bucket() -> Iterator[None]:
    """Say what "not found" means for a request that names no object that must exist."""
    from google.api_core.exceptions import NotFound

    try:
        yield
    except NotFound as error:
        if google_failure_kind(error) is FailureKind.MISSING_OBJECT:
            raise MissingBucketError from None
        raise


def _stored(address: Address, blob: "Blob") -> StoredFile:
    modified = blob.updated.timestamp() if blob.updated else 0.0
    return StoredFile(
        address.named(blob.name), int(blob.size), modified, str(blob.generation), blob.crc32c
    )
