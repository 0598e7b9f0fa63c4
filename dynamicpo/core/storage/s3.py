"""S3 and what speaks its protocol, through boto3."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage.addresses import Address
from dynamicpo.core.storage.checksums import check_equal, crc32c, crc32c_of, etag, md5
from dynamicpo.core.storage.failures import FailureKind
from dynamicpo.core.storage.s3_access import Access
from dynamicpo.core.storage.s3_failures import refuse_page, s3_failure_kind
from dynamicpo.core.storage.s3_parts import CRC32C_KEY, check_etag, upload_in_parts
from dynamicpo.core.storage.store import NO_VERSION, Range, StoredFile

if TYPE_CHECKING:
    from botocore.client import BaseClient as S3Client

# More than the threads of a transfer; further connections would be discarded after each use.
_NUM_CONNECTIONS = 32
_MD5_DIGITS = 32
# S3's most in one answer.
_PAGE_OBJECTS = 1000
# What is written while the next comes: a third faster than whole parts.
_BLOCK_BYTES = 256 << 10


class S3Store:
    """The client of one S3 endpoint."""

    def __init__(self, access: Access) -> None:
        """Make the client.

        Raises:
            DataError: The endpoint is no URL, or AWS's own settings can't be used.
        """
        from botocore.exceptions import BotoCoreError

        self.credentials_hint = access.hint
        try:
            self._client = _make_client(access)
        except (BotoCoreError, ValueError) as error:
            # The message of a ValueError holds the endpoint, which may hold a password.
            what = error if isinstance(error, BotoCoreError) else "the endpoint is no URL"
            raise DataError(
                f"S3: needs settings that can be used, but {what}. Correct MINIO_ENDPOINT (minio), "
                "AWS_ENDPOINT_URL_S3 (s3), AWS_PROFILE or its file."
            ) from None

    def objects(self, prefix: Address, limit: int | None = None) -> Iterator[StoredFile]:
        """The objects whose names begin with the prefix's, by name."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=prefix.bucket,
            Prefix=prefix.name,
            PaginationConfig={
                "MaxItems": limit,
                "PageSize": min(limit or _PAGE_OBJECTS, _PAGE_OBJECTS),
            },
        )
        for page in pages:
            for item in page.get("Contents", []):
                yield StoredFile(
                    prefix.named(item["Key"]),
                    item["Size"],
                    item["LastModified"].timestamp(),
                    item["ETag"],
                )

    def read(self, file: StoredFile, start: int, end: int) -> Range:
        """The bytes from `start` to before `end` of this version."""
        where = {"Bucket": file.address.bucket, "Key": file.address.name}
        # An empty object has no range.
        if file.size:
            where["Range"] = f"bytes={start}-{end - 1}"
        answer = self._client.get_object(**where, IfMatch=file.version)
        blocks = answer["Body"].iter_chunks(_BLOCK_BYTES)
        return Range(blocks, answer["Metadata"].get(CRC32C_KEY, ""))

    def check(self, file: StoredFile, path: Path) -> None:
        """Raise CorruptionError where a local copy has another checksum than the store."""
        if file.crc32c:
            check_equal(file.crc32c, crc32c(path))
            return
        # Somebody else's object: the store's own checksum, which depends on the size of its parts.
        stored = file.version.strip('"')
        digest, _, num_parts = stored.partition("-")
        if len(digest) == _MD5_DIGITS:
            part_bytes = self._part_bytes(file.address) if num_parts else None
            check_equal(stored, etag(path, part_bytes))

    def write(self, address: Address, content: bytes, expected: str | None = None) -> StoredFile:
        """Write a small object and check what the store has got."""
        condition = {}
        if expected == NO_VERSION:
            condition = {"IfNoneMatch": "*"}
        elif expected is not None:
            condition = {"IfMatch": expected}
        digest = md5(content)
        checksum = crc32c_of(content)
        answer = self._client.put_object(
            Bucket=address.bucket,
            Key=address.name,
            Body=content,
            ContentMD5=base64.b64encode(digest).decode(),
            Metadata={CRC32C_KEY: checksum},
            **condition,
        )
        check_etag(answer, digest)
        return StoredFile(address, len(content), 0.0, answer["ETag"], checksum)

    def upload(self, path: Path, address: Address) -> None:
        """Write a large object in parts, each sent again where it fails; check it."""
        upload_in_parts(self, self._client, path, address)

    def delete(self, address: Address) -> None:
        """Delete an object; one that is not there is no error."""
        self._client.delete_object(Bucket=address.bucket, Key=address.name)

    def kind(self, error: Exception) -> FailureKind | None:
        """The kind of failure that an exception means; None if it is not the store's."""
        return s3_failure_kind(error)

    def detail(self, error: Exception) -> str:
        """A few words of the store on a failure, without addresses or credentials."""
        # For answers a dictionary; for broken connections None, or missing.
        response = getattr(error, "response", None) or {}
        return str(response.get("Error", {}).get("Code", "") or type(error).__name__)

    def _part_bytes(self, address: Address) -> int:
        answer = self._client.head_object(Bucket=address.bucket, Key=address.name, PartNumber=1)
        return int(answer["ContentLength"])


def _make_client(access: Access) -> "S3Client":
    import boto3
    from botocore.config import Config

    config = Config(
        # Older stores refuse the checksums that boto3 sends by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=_NUM_CONNECTIONS,
        # Retries are ours (retries.py): one deadline, whatever the store.
        retries={"total_max_attempts": 1},
        connect_timeout=10,
        read_timeout=60,
        # A name of a bucket is no part of a host name that only the cluster knows.
        s3={"addressing_style": "path"} if access.endpoint else None,
    )
    session = boto3.session.Session(
        aws_access_key_id=access.access_key or None,
        aws_secret_access_key=access.secret_key or None,
    )
    client = session.client(
        "s3",
        endpoint_url=access.endpoint or None,
        region_name=access.region or session.region_name or "us-east-1",
        config=config,
    )
    endpoint = urlsplit(client.meta.endpoint_url)
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname:
        raise ValueError("endpoint")
    client.meta.events.register("before-parse.s3", refuse_page)
    return client
