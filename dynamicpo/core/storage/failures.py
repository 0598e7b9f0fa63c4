"""Failures of object stores: their kind decides what users read and what is tried again."""

import enum

from dynamicpo.core.errors import DataError


class FailureKind(enum.Enum):
    """Kinds of failure; each value says what must hold, what came and what to do."""

    MISSING_BUCKET = (
        "the bucket must exist, but the store has none of this name. "
        "Check the name, or create the bucket."
    )
    MISSING_OBJECT = "the object must exist, but the store has none of this name. Check the name."
    FORBIDDEN = (
        "must be open to this account, but the store refused. "
        "Grant it the role to read or write objects."
    )
    NO_CREDENTIALS = "needs credentials, but there are none."
    WRONG_CREDENTIALS = (
        "needs valid credentials, but the store does not accept these. "
        "Renew or correct them: the key, its secret, and whether they have expired."
    )
    LOST_PRECONDITION = (
        "must not have changed since it was read, but another writer was first. "
        "Read it again and decide anew."
    )
    WRONG_REGION = (
        "must be asked for in its own region, but the store says that it is in another. "
        "Set AWS_REGION to the bucket's region."
    )
    UNREACHABLE = (
        "the store must be reachable, but nothing answers there. "
        "Check the endpoint's address, the port-forward and the network."
    )
    UNTRUSTED = (
        "the store's TLS certificate must verify, but it does not. "
        "Name its authority's file in AWS_CA_BUNDLE (s3, minio) or REQUESTS_CA_BUNDLE (gs), "
        "and check the endpoint's host name."
    )
    CLOCK = (
        "this machine's clock must be right, but the store finds it too far off. "
        "Set the clock (timedatectl set-ntp true)."
    )
    NOT_A_STORE = (
        "the endpoint must be an object store's, but it answers with something else, such as a "
        "web page. Check its address: the UI, a login page or a proxy answers like this."
    )
    CORRUPTED = (
        "must have the same checksum here and in the store after the transfer, but it has not. "
        "Transfer it again; if that fails too, look for a proxy that changes content."
    )
    BUSY = "the store must answer, but it failed or broke off. Try again later."
    OTHER = "the store must do what it is asked, but it refused."


class StoreError(DataError):
    """A failure of an object store."""

    def __init__(self, uri: str, kind: FailureKind, detail: str = "") -> None:
        """Make the message: the URI, what must hold, what came, what to do."""
        super().__init__(f"{uri}: {kind.value} {detail}".rstrip())
        self.kind = kind


class LostRaceError(StoreError):
    """A change that another writer was faster with."""

    def __init__(self, uri: str) -> None:
        """Make the message."""
        super().__init__(uri, FailureKind.LOST_PRECONDITION)


class CorruptionError(Exception):
    """Content whose checksum is another than the store's; a new transfer may cure it."""


class MissingBucketError(Exception):
    """A bucket that is not there."""
