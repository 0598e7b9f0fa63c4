"""Each failure of a store is one line that says what to do, without credentials."""

import datetime
import http.server
import re
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage import clients, exists, fetch, put, read_bytes, retries, s3_access
from dynamicpo.core.storage.failures import FailureKind
from dynamicpo.core.storage.google_failures import google_failure_kind
from tests.fixtures.fault_proxy import Answer, FaultProxy
from tests.fixtures.object_stores import environment, free_ports

KEY, SECRET = "AKIDTHATNOBODYMAYSEE", "a-secret-that-nobody-may-see"
XML = {"Content-Type": "application/xml"}
JSON = {"Content-Type": "application/json"}
HTML = {"Content-Type": "text/html; charset=utf-8"}


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Short deadlines, and nothing of this machine's own settings."""
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.01)
    deadlines = {FailureKind.BUSY: 0.2, FailureKind.UNREACHABLE: 0.2}
    monkeypatch.setattr(retries, "DEADLINES_SECONDS", deadlines)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN", "MINIO_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


def lead_to(monkeypatch: pytest.MonkeyPatch, scheme: str, url: str) -> None:
    for name, value in environment(scheme, url).items():
        monkeypatch.setenv(name, {"key": KEY, "secret": SECRET}.get(value, value))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A store with nothing behind it: a test sets what it answers."""
    with FaultProxy("http://127.0.0.1:9") as proxy:
        for scheme in ("gs", "s3", "minio"):
            lead_to(monkeypatch, scheme, proxy.url)
        yield proxy


def failures(uri: str, tmp_path: Path) -> list[str]:
    """The messages of all that can be done with a URI."""
    (tmp_path / "file").write_text("x")
    operations = [
        lambda: exists(uri),
        lambda: read_bytes(uri),
        lambda: fetch(uri, tmp_path / "back"),
        lambda: put(tmp_path / "file", uri),
    ]
    messages = []
    for operation in operations:
        with pytest.raises(DataError) as raised:
            operation()
        message = str(raised.value)
        assert "\n" not in message
        assert KEY not in message and SECRET not in message
        assert raised.value.__cause__ is None
        messages.append(message)
    return messages


def s3_error(status: int, code: str) -> Answer:
    text = f"<Error><Code>{code}</Code><Message>{KEY}</Message><Key>{SECRET}</Key></Error>"
    # Amazon says it with each answer; boto3 then asks there.
    return Answer(status, XML | {"x-amz-bucket-region": "eu-west-1"}, text.encode())


@pytest.mark.parametrize("scheme", ["s3", "minio"])
@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchBucket", "the bucket must exist.* create the bucket"),
        (404, "NoSuchKey", "the object must exist.* Check the name"),
        (403, "AccessDenied", "must be open to this account.* Grant it the role"),
        (403, "InvalidAccessKeyId", "needs valid credentials.* Renew or correct"),
        (403, "SignatureDoesNotMatch", "needs valid credentials.* Renew or correct"),
        (400, "ExpiredToken", "needs valid credentials.* expired"),
        (412, "PreconditionFailed", "must not have changed.* Read it again"),
        (301, "PermanentRedirect", "in its own region.* Set AWS_REGION"),
        (400, "AuthorizationHeaderMalformed", "in its own region.* Set AWS_REGION"),
        (403, "RequestTimeTooSkewed", "clock must be right.* Set the clock"),
        (503, "SlowDown", "it failed or broke off. Try again later. The store says: SlowDown"),
        (400, "InvalidRequest", "it refused. The store says: InvalidRequest"),
    ],
)
def test_answers_of_s3(
    store: FaultProxy, scheme: str, status: int, code: str, expected: str, tmp_path: Path
) -> None:
    store.answer = lambda request: s3_error(status, code)
    for message in failures(f"{scheme}://bucket/x", tmp_path):
        assert message.startswith(f"{scheme}://bucket/x: ")
        assert re.search(expected, message)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, "the bucket must exist.* create the bucket"),
        (403, "must be open to this account.* Grant it the role"),
        (412, "must not have changed.* Read it again"),
        (503, "it failed or broke off. Try again later. The store says: ServiceUnavailable"),
        (400, "it refused. The store says: BadRequest"),
    ],
)
def test_answers_of_google(store: FaultProxy, status: int, expected: str, tmp_path: Path) -> None:
    body = f'{{"error": {{"code": {status}, "message": "{SECRET}"}}}}'.encode()
    store.answer = lambda request: Answer(status, JSON, body)
    for message in failures("gs://bucket/x", tmp_path):
        assert message.startswith("gs://bucket/x: ") and re.search(expected, message)


@pytest.mark.parametrize("scheme", ["gs", "s3", "minio"])
@pytest.mark.parametrize("status", [200, 404, 403])
@pytest.mark.parametrize("page", ["<!doctype html><p>Login</p>", "<html><p/></html>"])
def test_web_page_is_no_store(
    store: FaultProxy, scheme: str, status: int, page: str, tmp_path: Path
) -> None:
    store.answer = lambda request: Answer(status, HTML, page.encode())
    for message in failures(f"{scheme}://bucket/x", tmp_path):
        assert "the endpoint must be an object store's" in message
        assert "the UI, a login page or a proxy" in message


def test_wrong_keys_of_a_real_store(
    minio_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lead_to(monkeypatch, "minio", minio_url)
    unknown_key = failures("minio://bucket/x", tmp_path)
    monkeypatch.setenv("MINIO_ACCESS_KEY", "key")
    wrong_secret = failures("minio://bucket/x", tmp_path)
    assert all("needs valid credentials" in text for text in unknown_key + wrong_secret)


@pytest.mark.parametrize("scheme", ["gs", "s3", "minio"])
def test_nobody_at_the_endpoint(
    scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lead_to(monkeypatch, scheme, f"http://127.0.0.1:{free_ports(1)[0]}")
    for message in failures(f"{scheme}://bucket/x", tmp_path):
        assert "the store must be reachable" in message
        assert "Check the endpoint's address, the port-forward" in message


@pytest.mark.parametrize("scheme", ["gs", "s3", "minio"])
def test_certificate_that_does_not_verify(
    scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with https_server(tmp_path) as url:
        lead_to(monkeypatch, scheme, url)
        for message in failures(f"{scheme}://bucket/x", tmp_path):
            assert "TLS certificate must verify" in message
            assert "AWS_CA_BUNDLE" in message


def https_server(folder: Path) -> "_Https":
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(certificate.public_bytes(pem) + private)
    return _Https(folder / "server.pem")


class _Https:
    """A server with a certificate that nobody has signed."""

    def __init__(self, certificate: Path) -> None:
        self._certificate = certificate

    def __enter__(self) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate)
        handler = http.server.BaseHTTPRequestHandler
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.handle_error = lambda request, address: None  # type: ignore[method-assign]
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return f"https://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_no_credentials_for_s3(
    store: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for message in failures("s3://bucket/x", tmp_path):
        assert "needs credentials, but there are none. Set AWS_ACCESS_KEY_ID" in message


def test_no_credentials_for_google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    (tmp_path / "credentials.json").write_text(f'{{"private_key": "{SECRET}"}}')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "credentials.json"))
    for message in failures("gs://bucket/x", tmp_path):
        assert "needs credentials, but there are none. Run 'gcloud auth" in message


def test_no_way_to_kubeflows_store_from_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    for message in failures("minio://bucket/x", tmp_path):
        assert "needs MINIO_ENDPOINT" in message and "port-forward" in message


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("AWS_ENDPOINT_URL_S3", f"//user:{SECRET}@host", "the endpoint is no URL"),
        ("AWS_PROFILE", "absent", "The config profile .absent. could not be found"),
    ],
)
def test_settings_that_can_not_be_used(
    name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, value)
    for message in failures("s3://bucket/x", tmp_path):
        assert re.search(expected, message)


def test_clock_that_google_finds_too_far_off() -> None:
    from google.api_core.exceptions import Unauthorized
    from google.auth.exceptions import RefreshError

    skewed = "invalid_grant: Invalid JWT: Token must be a short-lived token; check your iat and exp"
    assert google_failure_kind(RefreshError(skewed)) is FailureKind.CLOCK
    revoked = RefreshError("invalid_grant: Token has been expired or revoked.")
    for error in (revoked, Unauthorized("Invalid Credentials")):
        assert google_failure_kind(error) is FailureKind.WRONG_CREDENTIALS


def test_errors_that_are_not_the_stores_are_left_alone() -> None:
    with pytest.raises(ZeroDivisionError), clients.explained("s3://bucket/x"):
        raise ZeroDivisionError


def test_pod_takes_the_service_and_the_keys_of_kubeflow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The answers of the API server are played by a page of our own."""
    with FaultProxy("http://127.0.0.1:9") as api:
        secret = '{"data": {"accesskey": "a2V5", "secretkey": "c2VjcmV0"}}'
        api.answer = lambda request: Answer(200, JSON, secret.encode())
        in_pod(monkeypatch, tmp_path, api.url)
        access = s3_access.find_access("minio://")
        assert api.requests[0].path == ("/api/v1/namespaces/team/secrets/mlpipeline-minio-artifact")
        assert access[:4] == ("http://minio-service.kubeflow:9000", "minio", "key", "secret")
        assert "secret" not in repr(access) and "secret" not in str(access)
        monkeypatch.setenv("MINIO_SERVICE_SERVICE_HOST", "10.0.0.7")
        monkeypatch.setenv("MINIO_SERVICE_SERVICE_PORT", "9000")
        assert s3_access.find_access("minio://").endpoint == "http://10.0.0.7:9000"
        api.answer = lambda request: Answer(403, JSON, b"{}")
        with pytest.raises(DataError, match="Secret mlpipeline-minio-artifact in namespace team"):
            s3_access.find_access("minio://")


def in_pod(monkeypatch: pytest.MonkeyPatch, folder: Path, api: str) -> None:
    from kubernetes import client, config

    (folder / "token").write_text("token")
    (folder / "namespace").write_text("team\n")
    monkeypatch.setattr(s3_access, "_POD_FOLDER", folder)
    for name in ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    configuration = client.Configuration()
    configuration.host = api
    monkeypatch.setattr(
        config, "load_incluster_config", lambda: client.Configuration.set_default(configuration)
    )
