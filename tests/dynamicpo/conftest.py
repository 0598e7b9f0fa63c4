"""What tests of several modules share."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dynamicpo.core.storage import retries
from tests.fixtures import object_stores
from tests.fixtures.object_stores import environment


def _started(server: AbstractContextManager[str]) -> Iterator[str]:
    try:
        url = server.__enter__()
    except object_stores.Unavailable as error:
        pytest.skip(f"no object store to test against: {error}")
    yield url
    server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def gs_url() -> Iterator[str]:
    """The address of a real fake-gcs-server that runs for this test session."""
    yield from _started(object_stores.fake_gcs())


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """The address of a moto server, which speaks S3, for this test session."""
    yield from _started(object_stores.moto())


@pytest.fixture(scope="session")
def minio_url() -> Iterator[str]:
    """The address of a SeaweedFS, Kubeflow's own store, for this test session."""
    yield from _started(object_stores.seaweedfs())


@pytest.fixture(scope="session")
def object_store(gs_url: str) -> Iterator[str]:
    """The gs:// address of a bucket in the fake-gcs-server, with the environment for it."""
    before = os.environ.get("STORAGE_EMULATOR_HOST")
    os.environ["STORAGE_EMULATOR_HOST"] = gs_url
    yield "gs://bucket"
    os.environ.pop("STORAGE_EMULATOR_HOST")
    if before is not None:
        os.environ["STORAGE_EMULATOR_HOST"] = before


@pytest.fixture
def s3_store(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The s3:// address of a bucket, with the environment that leads to it."""
    for name, value in environment("s3", s3_url).items():
        monkeypatch.setenv(name, value)
    return "s3://bucket"


@pytest.fixture
def minio_store(minio_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The minio:// address of a bucket, with the environment of a client outside of a cluster."""
    for name, value in environment("minio", minio_url).items():
        monkeypatch.setenv(name, value)
    return "minio://bucket"


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits between the tries of a request."""
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0.05)


@pytest.fixture(params=["local", "object_store", "s3_store", "minio_store"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder, or an empty prefix of each kind of store."""
    if request.param == "local":
        return str(tmp_path / "store")
    return f"{request.getfixturevalue(request.param)}/{tmp_path.name}"
