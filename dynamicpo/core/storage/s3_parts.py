"""Large files to S3, in parts: what has arrived is not sent again, what is abandoned is deleted."""

import base64
import contextlib
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from dynamicpo.core.storage.addresses import Address
from dynamicpo.core.storage.checksums import check_equal, crc32c, md5
from dynamicpo.core.storage.failures import CorruptionError, FailureKind
from dynamicpo.core.storage.parts import in_threads, num_part_bytes, read_part
from dynamicpo.core.storage.retries import retried
from dynamicpo.core.storage.store import Store

if TYPE_CHECKING:
    from botocore.client import BaseClient as S3Client

log = logging.getLogger(__name__)

# User metadata: the only place for a checksum of the whole file that every S3 server keeps.
CRC32C_KEY = "crc32c"
# An upload that nobody has finished by then is taken for abandoned.
_ABANDONED_AFTER = timedelta(days=1)
_ENCRYPTED = ("aws:kms", "aws:kms:dsse")
# Another process may finish or abort the upload that this one goes on with.
_NUM_UPLOADS = 3


def check_etag(answer: Mapping[str, object], digest: bytes) -> None:
    """Raise CorruptionError where the store has got other bytes than were sent."""
    # With these the ETag is no MD5; such stores compare the Content-MD5 that came with the bytes.
    is_encrypted = answer.get("ServerSideEncryption") in _ENCRYPTED
    if not is_encrypted and "SSECustomerAlgorithm" not in answer:
        check_equal(str(answer.get("ETag", "")).strip('"'), digest.hex())


class _File(NamedTuple):
    """A file to be sent, and where to."""

    path: Path
    size: int
    part_bytes: int
    crc32c: str
    address: Address

    @property
    def target(self) -> dict[str, str]:
        return {"Bucket": self.address.bucket, "Key": self.address.name}

    def part(self, number: int) -> bytes:
        start = (number - 1) * self.part_bytes
        return read_part(self.path, start, min(start + self.part_bytes, self.size))

    @property
    def numbers(self) -> range:
        return range(1, -(-self.size // self.part_bytes) + 1)


def upload_in_parts(store: Store, client: "S3Client", path: Path, address: Address) -> None:
    """Send a large file; parts that an interrupted upload has sent are not sent again.

    Raises:
        Exception: The last failure, when the deadline is over; the parts are deleted then.
    """
    size = path.stat().st_size
    file = _File(path, size, num_part_bytes(size), crc32c(path), address)
    for attempt in range(_NUM_UPLOADS):
        upload_id: str | None = None
        etags: dict[int, str] = {}
        if attempt == 0:
            upload_id, etags = retried(store, lambda: _unfinished(store, client, file))
            # By an earlier try at the same folder.
            if not etags and _is_there(client, file):
                return
        try:
            _send(store, client, file, upload_id, etags)
        # The upload is gone: another process has finished it, or has taken it for abandoned.
        except client.exceptions.NoSuchUpload:
            log.info("%s: its upload has ended elsewhere", address)
        if retried(store, lambda: _has_arrived(client, file)):
            return
    raise CorruptionError(f"{address} is not what was sent")


def _send(
    store: Store, client: "S3Client", file: _File, upload_id: str | None, etags: dict[int, str]
) -> None:
    if upload_id is None:
        upload_id = retried(store, lambda: _begin(client, file))
    missing = [number for number in file.numbers if number not in etags]

    def send_part(number: int) -> None:
        etags[number] = retried(store, lambda: _send_part(client, file, upload_id, number))

    try:
        in_threads(send_part, missing)
        parts = [{"PartNumber": number, "ETag": etags[number]} for number in file.numbers]
        retried(
            store,
            lambda: client.complete_multipart_upload(
                **file.target, UploadId=upload_id, MultipartUpload={"Parts": parts}
            ),
        )
    except client.exceptions.NoSuchUpload:
        raise
    except BaseException:
        _abort(client, file, upload_id)
        raise


def _begin(client: "S3Client", file: _File) -> str:
    answer = client.create_multipart_upload(**file.target, Metadata={CRC32C_KEY: file.crc32c})
    return str(answer["UploadId"])


def _send_part(client: "S3Client", file: _File, upload_id: str, number: int) -> str:
    content = file.part(number)
    digest = md5(content)
    answer = client.upload_part(
        **file.target,
        UploadId=upload_id,
        PartNumber=number,
        Body=content,
        ContentMD5=base64.b64encode(digest).decode(),
    )
    check_etag(answer, digest)
    return str(answer["ETag"])


def _has_arrived(client: "S3Client", file: _File) -> bool:
    try:
        answer = client.head_object(**file.target)
    except client.exceptions.ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    stored = answer["Metadata"].get(CRC32C_KEY)
    return bool(answer["ContentLength"] == file.size and stored == file.crc32c)


def _is_there(client: "S3Client", file: _File) -> bool:
    # To look is another right than to write; where the store refuses, the file is sent.
    with contextlib.suppress(Exception):
        return _has_arrived(client, file)
    return False


def _abort(client: "S3Client", file: _File, upload_id: str) -> None:
    # The failure that led here is the one to be raised. What remains is found by the next upload.
    with contextlib.suppress(Exception):
        client.abort_multipart_upload(**file.target, UploadId=upload_id)


def _unfinished(store: Store, client: "S3Client", file: _File) -> tuple[str | None, dict[int, str]]:
    """An upload of the same content that has not ended, and the ETags of its parts.

    Others that are old are aborted: the store keeps, and charges, their parts for ever.
    """
    try:
        uploads = list(_uploads(client, file))
        for upload in uploads:
            upload_id = upload["UploadId"]
            etags = _matching_parts(client, file, upload_id)
            if etags is not None:
                log.info("%s: going on after %d parts", file.address, len(etags))
                return upload_id, etags
            if datetime.now(UTC) - upload["Initiated"] > _ABANDONED_AFTER:
                _abort(client, file, upload_id)
    except client.exceptions.ClientError as error:
        # To look for them is another right than to write, and some servers can't.
        if store.kind(error) is FailureKind.BUSY:
            raise
    return None, {}


class _Unfinished(TypedDict):
    Key: str
    UploadId: str
    Initiated: datetime


def _uploads(client: "S3Client", file: _File) -> Iterator[_Unfinished]:
    answer = client.list_multipart_uploads(Bucket=file.address.bucket, Prefix=file.address.name)
    for upload in answer.get("Uploads", []):
        if upload["Key"] == file.address.name:
            yield upload


def _matching_parts(client: "S3Client", file: _File, upload_id: str) -> dict[int, str] | None:
    """The ETags of an upload's parts; None where one is not the file's."""
    etags = {}
    pages = client.get_paginator("list_parts").paginate(**file.target, UploadId=upload_id)
    for page in pages:
        for part in page.get("Parts", []):
            number, etag = part["PartNumber"], part["ETag"]
            if number not in file.numbers or md5(file.part(number)).hex() != etag.strip('"'):
                return None
            etags[number] = etag
    return etags or None
