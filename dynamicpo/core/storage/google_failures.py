"""Exceptions of Google's libraries as kinds of failure."""

from dynamicpo.core.storage.failures import CorruptionError, FailureKind, MissingBucketError

_BUSY_STATUSES = {408, 429, 500, 502, 503, 504}
_STATUSES = {
    401: FailureKind.WRONG_CREDENTIALS,
    403: FailureKind.FORBIDDEN,
    404: FailureKind.MISSING_OBJECT,
    412: FailureKind.LOST_PRECONDITION,
}


def google_failure_kind(error: Exception) -> FailureKind | None:
    """The kind of failure that an exception means; None if it is not the store's."""
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    if isinstance(error, (CorruptionError, DataCorruption)):
        return FailureKind.CORRUPTED
    if isinstance(error, MissingBucketError):
        return FailureKind.MISSING_BUCKET
    if isinstance(error, api.GoogleAPICallError):
        return _of_status(int(error.code or 0), error, error.response)
    if isinstance(error, InvalidResponse):
        return _of_status(error.response.status_code, error, error.response)
    if isinstance(error, auth.GoogleAuthError):
        return _of_credentials(error)
    return of_connection(error)


def _of_status(status: int, error: Exception, response: object) -> FailureKind:
    headers = getattr(response, "headers", {})
    is_page = "html" in headers.get("Content-Type", "")
    text = str(error).lower()
    if status in _BUSY_STATUSES:
        return FailureKind.BUSY
    if is_page:
        return FailureKind.NOT_A_STORE
    if status == 400 and "doesn't match calculated" in text:
        return FailureKind.CORRUPTED
    return _STATUSES.get(status, FailureKind.OTHER)


def _of_credentials(error: Exception) -> FailureKind:
    from google.auth import exceptions as auth

    text = str(error).lower()
    if isinstance(error, auth.DefaultCredentialsError):
        return FailureKind.NO_CREDENTIALS
    # A signed request for a token has this machine's time in it.
    if "iat" in text or "too early" in text:
        return FailureKind.CLOCK
    if isinstance(error, auth.TransportError):
        cause = error.args[0] if error.args else None
        kind = None
        if isinstance(cause, Exception):
            kind = of_connection(cause)
        return kind or FailureKind.UNREACHABLE
    return FailureKind.WRONG_CREDENTIALS


def of_connection(error: Exception) -> FailureKind | None:
    """The kind of a failure below HTTP, as requests and urllib3 raise it."""
    import requests
    import urllib3

    if isinstance(error, requests.exceptions.SSLError):
        return FailureKind.UNTRUSTED if "certificate" in str(error).lower() else FailureKind.BUSY
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return FailureKind.NOT_A_STORE
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return FailureKind.UNREACHABLE
    if isinstance(error, requests.ConnectionError):
        # requests has one class for "nobody there" and for "broke off".
        was_refused = "NewConnectionError" in str(error) or "NameResolutionError" in str(error)
        return FailureKind.UNREACHABLE if was_refused else FailureKind.BUSY
    broken = (
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.Timeout,
        urllib3.exceptions.HTTPError,
        ConnectionError,
    )
    return FailureKind.BUSY if isinstance(error, broken) else None
