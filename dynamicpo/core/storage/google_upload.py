"""Large files to Google Cloud Storage: a resumable upload, which goes on where it broke off.

The protocol: https://cloud.google.com/storage/docs/performing-resumable-uploads
"""

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dynamicpo.core.storage.addresses import Address
from dynamicpo.core.storage.checksums import check_equal, crc32c
from dynamicpo.core.storage.failures import CorruptionError
from dynamicpo.core.storage.parts import read_part
from dynamicpo.core.storage.retries import retried
from dynamicpo.core.storage.store import Store, find_object
from dynamicpo.core.storage.upload_sessions import SessionRecord, session_record

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Client

# Seconds to connect, and to wait for the next bytes.
TIMEOUT = (10, 60)
# Each part waits for its answer. A break costs less than a part: the store is asked how much of it
# has arrived. A multiple of 256 KiB, as the protocol wants.
_UPLOAD_BYTES = 96 << 20
# The store's answers for a session that it does not know (any more).
_ENDED = (404, 410)
_RECEIVED = re.compile(r"bytes=0-(\d+)")


def upload_resumable(store: Store, client: "Client", path: Path, blob: "Blob") -> None:
    """Send a large file in parts; what the store has persisted is not sent again.

    Raises:
        Exception: The last failure, when the deadline is over. The store forgets the upload.
    """
    checksum = crc32c(path)
    # The store compares it at the end, and refuses other content before anybody sees it.
    blob.crc32c = checksum
    # By an earlier try at the same folder.
    if _is_there(store, blob, path.stat().st_size, checksum):
        return

    uri = f"gs://{blob.bucket.name}/{blob.name}"
    with session_record(uri, checksum) as record:

        def whole_upload() -> None:
            try:
                stored = _Upload(store, client, path, blob, record).run()
            except _SessionEndedError as error:
                record.write("")
                raise CorruptionError(str(error)) from None
            record.write("")
            check_equal(stored, checksum)

        retried(store, whole_upload)


def _is_there(store: Store, blob: "Blob", size: int, checksum: str) -> bool:
    # To look is another right than to write; where the store refuses, the file is sent.
    with contextlib.suppress(Exception):
        found = find_object(store, Address("gs://", blob.bucket.name, blob.name))
        return found is not None and (found.size, found.crc32c) == (size, checksum)
    return False


class _SessionEndedError(Exception):
    """A session that can't go on: expired, or its content was refused."""


class _Upload:
    """One session of the protocol, which a killed process may have begun."""

    def __init__(
        self, store: Store, client: "Client", path: Path, blob: "Blob", record: SessionRecord
    ) -> None:
        self._store = store
        self._client = client
        self._path = path
        self._size = path.stat().st_size
        self._num_received = 0
        earlier = record.read()
        # Requests carry a token, which no other host may see.
        is_ours = earlier.startswith(f"{client._connection.API_BASE_URL}/")
        # What has arrived of an earlier one is for the store to tell.
        self._is_certain = not is_ours
        self._url = earlier if is_ours else self._begin(blob)
        record.write(self._url)

    def _begin(self, blob: "Blob") -> str:
        url: str = blob.create_resumable_upload_session(
            content_type="application/octet-stream",
            size=self._size,
            client=self._client,
            timeout=TIMEOUT,
            checksum=None,
            retry=None,
        )
        return url

    def run(self) -> str:
        """Send all parts; the checksum of what the store has written."""
        checksum = None
        while checksum is None:
            checksum = retried(self._store, self._step)
        return checksum

    def _step(self) -> str | None:
        if not self._is_certain:
            return self._request(b"", f"bytes */{self._size}")
        start = self._num_received
        end = min(start + _UPLOAD_BYTES, self._size)
        content = read_part(self._path, start, end)
        # Until the answer is here nobody knows how much of this has arrived.
        self._is_certain = False
        return self._request(content, f"bytes {start}-{end - 1}/{self._size}")

    def _request(self, content: bytes, content_range: str) -> str | None:
        from google.cloud.storage.exceptions import InvalidResponse

        # The client's own session: it renews the access token.
        answer = self._client._http.request(
            "PUT",
            self._url,
            data=content,
            headers={"Content-Range": content_range},
            timeout=TIMEOUT,
        )
        if answer.status_code in (200, 201):
            return str(answer.json()["crc32c"])
        if answer.status_code in _ENDED or "doesn't match calculated" in answer.text:
            raise _SessionEndedError(answer.status_code)
        if answer.status_code != 308:
            raise InvalidResponse(answer, "status", answer.status_code)
        received = _RECEIVED.fullmatch(answer.headers.get("Range", ""))
        self._num_received = int(received[1]) + 1 if received else 0
        self._is_certain = True
        return None
