"""Addresses: a local path, or `SCHEME://bucket/name` in an object store."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dynamicpo.core.errors import DataError

# Google Cloud Storage, S3, and the store that Kubeflow Pipelines brings along.
SCHEMES = ("gs://", "s3://", "minio://")
# Of the stores; in bytes.
_LONGEST_NAME = 1024
# Google refuses line breaks, XML most of these; SeaweedFS takes a backslash for a slash.
_UNFIT = re.compile(r"[\x00-\x1f\x7f\\]")


class Address(NamedTuple):
    """A bucket and the name within it, which is empty for the bucket itself."""

    scheme: str
    bucket: str
    name: str

    def __str__(self) -> str:
        """The address as users write it."""
        return f"{self.scheme}{self.bucket}/{self.name}"

    def named(self, name: str) -> "Address":
        """The address of another name in the same bucket."""
        return self._replace(name=name)


def is_remote(uri: str) -> bool:
    """Tell whether a URI names an object store (and not a local path).

    Raises:
        DataError: It has a scheme that is neither.
    """
    if uri.startswith(SCHEMES):
        return True
    if "://" in uri:
        raise DataError(
            f"{uri}: must be a local path or start with {' or '.join(SCHEMES)}, got another "
            "scheme. Copy it to one of these."
        )
    return False


def parse_address(uri: str) -> Address:
    """The parts of an object store's URI.

    Raises:
        DataError: The bucket is missing, a login is there, or it is no UTF-8.
    """
    if not _is_utf8(uri):
        raise DataError(
            f"{ascii(uri)}: must be a name of characters in UTF-8, but it is not. Rename it."
        )
    scheme = next(scheme for scheme in SCHEMES if uri.startswith(scheme))
    bucket, _, name = uri.removeprefix(scheme).partition("/")
    if not bucket:
        raise DataError(
            f"{uri}: must be {scheme}bucket/name, but the bucket is missing. "
            "Give the complete address."
        )
    if "@" in bucket:
        raise DataError(
            f"{uri}: must hold no user and no password, which would stand in records and logs. "
            "Set them where the store's own tools look for them."
        )
    return Address(scheme, bucket, name)


def join(root: str, name: str) -> str:
    """The URI of a name below a folder or prefix."""
    return f"{root.rstrip('/')}/{name}"


def beside(uri: str, name: str) -> str:
    """The URI of a name in the folder or prefix that holds a URI; for a bucket, within it."""
    if not is_remote(uri):
        return str(Path(uri).parent / name)
    address = parse_address(uri)
    parent = address.name.rstrip("/").rpartition("/")[0]
    return str(address.named(f"{parent}/{name}".lstrip("/")))


def _is_utf8(text: str) -> bool:
    # Bytes of a path that are no UTF-8 come as halves of pairs.
    return not any("\ud800" <= character <= "\udfff" for character in text)


def check_new_name(uri: str) -> None:
    """Check that every store can keep an object of this name.

    Raises:
        DataError: It can't.
    """
    name = parse_address(uri).name
    num_bytes = len(name.encode())
    if num_bytes > _LONGEST_NAME:
        raise DataError(
            f"{uri}: names in object stores must have at most {_LONGEST_NAME} bytes, got "
            f"{num_bytes}. Shorten it, or nest fewer folders."
        )
    if unfit := _UNFIT.search(name):
        raise DataError(
            f"{uri!r}: names in object stores must have no control characters and no backslash, "
            f"got {unfit[0]!r}. Rename that file."
        )


def check_distinct(paths: Iterable[Path], uri: str) -> None:
    """Check that no object would replace another where all have become files.

    Raises:
        DataError: Two would be one file (x/y, x//y), or one a file and a folder (x, x/y).
    """
    seen: set[Path] = set()
    folders: set[Path] = set()
    for path in paths:
        if path in seen:
            raise _not_distinct(uri, path)
        seen.add(path)
        folders.update(path.parents)
    for path in sorted(seen & folders):
        raise _not_distinct(uri, path)


def _not_distinct(uri: str, path: Path) -> DataError:
    return DataError(
        f"{uri}: objects must become one file each, but two of them need the place of "
        f"{path.name!r}, as x/y and x//y or x and x/y do. Rename one."
    )


def path_below(folder: Path, name: str, uri: str) -> Path:
    """The local path of an object's name.

    Raises:
        DataError: The name would leave the folder.
    """
    # An object may have any name, "../../.ssh/config" as well.
    if ".." in Path(name).parts:
        raise DataError(
            f"{uri}: names must stay below their prefix, got {name!r}. Rename that object."
        )
    return folder / name if name else folder
