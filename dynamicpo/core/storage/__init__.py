"""Files and folders in local folders and in object stores, one interface.

A URI is a local path, or `gs://bucket/name`, `s3://bucket/name` or `minio://bucket/name`. After
each transfer checksums are compared. A store's library is imported when it is first used.
"""

from dynamicpo.core.storage.addresses import SCHEMES, beside, is_remote, join
from dynamicpo.core.storage.cached_files import cached_file
from dynamicpo.core.storage.checksums import crc32c
from dynamicpo.core.storage.files import (
    FoundFile,
    delete,
    exists,
    fetch,
    find_files,
    list_files,
    put,
    read_bytes,
    remote_versions,
)
from dynamicpo.core.storage.local_copies import LocalCopies, origin_of
from dynamicpo.core.storage.partial_copies import FolderPart, fetch_parts, is_incomplete
from dynamicpo.core.storage.ranges import open_file

__all__ = [
    "SCHEMES",
    "FoundFile",
    "LocalCopies",
    "FolderPart",
    "beside",
    "cached_file",
    "crc32c",
    "delete",
    "exists",
    "fetch",
    "fetch_parts",
    "find_files",
    "is_incomplete",
    "is_remote",
    "join",
    "list_files",
    "open_file",
    "origin_of",
    "put",
    "read_bytes",
    "remote_versions",
]
