"""Exceptions of boto3 as kinds of failure."""

from collections.abc import Mapping

from dynamicpo.core.storage.failures import CorruptionError, FailureKind

# By the store's error code; for answers without one botocore takes the status.
_CODES = {
    FailureKind.MISSING_BUCKET: ("NoSuchBucket",),
    FailureKind.MISSING_OBJECT: ("NoSuchKey", "NoSuchUpload", "NotFound", "404"),
    FailureKind.FORBIDDEN: ("AccessDenied", "AllAccessDisabled", "Forbidden", "403"),
    FailureKind.WRONG_CREDENTIALS: (
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "InvalidClientTokenId",
        "AuthFailure",
        "401",
    ),
    FailureKind.LOST_PRECONDITION: ("PreconditionFailed", "412"),
    FailureKind.WRONG_REGION: (
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "301",
        "307",
    ),
    FailureKind.CLOCK: ("RequestTimeTooSkewed", "RequestExpired"),
    FailureKind.CORRUPTED: ("BadDigest", "InvalidDigest", "InvalidPart"),
    FailureKind.BUSY: (
        "SlowDown",
        # Another write of the same object is going on: the next try shows its result.
        "ConditionalRequestConflict",
        "ServiceUnavailable",
        "InternalError",
        "RequestTimeout",
        "IncompleteBody",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "RequestLimitExceeded",
    ),
}
_BUSY_STATUSES = {408, 429, 500, 502, 503, 504}


class NotAStoreError(Exception):
    """An answer that no store gives: a web page."""


def refuse_page(response_dict: Mapping[str, object], **_: object) -> None:
    """Refuse web pages before boto3 takes them for empty answers.

    Raises:
        NotAStoreError: The answer is one, and no failure that may pass.
    """
    headers = response_dict.get("headers")
    status = response_dict.get("status_code")
    if not isinstance(headers, Mapping) or not response_dict.get("body"):
        return
    # An object may be a page; a store gives its ETag then.
    is_page = "html" in str(headers.get("content-type", "")) and "etag" not in headers
    # An overloaded proxy answers with a page, too. Not with 500: that is what boto3 makes of a 200
    # whose body is no XML.
    if is_page and (status == 500 or status not in _BUSY_STATUSES):
        raise NotAStoreError


def s3_failure_kind(error: Exception) -> FailureKind | None:
    """The kind of failure that an exception means; None if it is not the store's."""
    from botocore import exceptions, parsers

    if isinstance(error, CorruptionError):
        return FailureKind.CORRUPTED
    if isinstance(error, (NotAStoreError, parsers.ResponseParserError)):
        return FailureKind.NOT_A_STORE
    if isinstance(error, exceptions.ClientError):
        return _of_answer(error.response)
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        return FailureKind.NO_CREDENTIALS
    if isinstance(error, (exceptions.CredentialRetrievalError, exceptions.TokenRetrievalError)):
        return FailureKind.WRONG_CREDENTIALS
    return _of_connection(error)


def _of_answer(response: Mapping[str, Mapping[str, object]]) -> FailureKind:
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for kind, codes in _CODES.items():
        if code in codes:
            return kind
    return FailureKind.BUSY if status in _BUSY_STATUSES else FailureKind.OTHER


def _of_connection(error: Exception) -> FailureKind | None:
    import urllib3
    from botocore import exceptions

    if isinstance(error, exceptions.SSLError):
        return FailureKind.UNTRUSTED if "certificate" in str(error).lower() else FailureKind.BUSY
    if isinstance(error, (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError)):
        return FailureKind.UNREACHABLE
    broken = (
        exceptions.HTTPClientError,
        exceptions.IncompleteReadError,
        exceptions.ReadTimeoutError,
        urllib3.exceptions.HTTPError,
        ConnectionError,
    )
    if isinstance(error, broken):
        return FailureKind.BUSY
    return FailureKind.OTHER if isinstance(error, exceptions.BotoCoreError) else None
