"""Addresses: a local path, or `SCHEME://bucket/name` in an object store."""

from pathlib import Path
from typing import NamedTuple

from dynamicpo.core.errors import DataError

# Google Cloud Storage, S3, and the store that Kubeflow Pipelines brings along.
SCHEMES = ("gs://", "s3://", "minio://")


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
        DataError: The bucket is missing, or a login is there.
    """
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
