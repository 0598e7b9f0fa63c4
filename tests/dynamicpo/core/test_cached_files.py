"""Files of caches in object stores: taken from there, kept there, and no failure without them."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamicpo.core.storage import LocalCopies, beside, cached_file, origin_of, put, read_bytes
from tests.fixtures.fault_proxy import Answer, FaultProxy
from tests.fixtures.object_stores import environment


@pytest.fixture
def proxy(s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultProxy]:
    with FaultProxy(s3_url) as proxy:
        for name, value in environment("s3", proxy.url).items():
            monkeypatch.setenv(name, value)
        proxy.root = f"s3://bucket/{tmp_path.name}"
        yield proxy


def test_file_is_there_the_second_time(any_store: str) -> None:
    uri = f"{any_store}/cache/numbers.bin"
    with cached_file(uri) as path:
        assert not path.exists() and path.name == "numbers.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"one")
    with cached_file(uri) as path:
        assert path.read_bytes() == b"one"
        path.write_bytes(b"two")
    assert read_bytes(uri) == b"two"


def test_what_is_as_it_was_is_not_sent_again(proxy: FaultProxy) -> None:
    uri = f"{proxy.root}/numbers.bin"
    with cached_file(uri) as path:
        path.write_bytes(b"one")
    proxy.requests.clear()
    with cached_file(uri) as path:
        path.write_bytes(b"one")
    assert not [request for request in proxy.requests if request.method == "PUT"]


@pytest.mark.parametrize(
    ("method", "expected"), [("PUT", "not kept for other runs"), ("GET", "not taken from")]
)
def test_store_that_refuses_is_no_failure(
    proxy: FaultProxy, method: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.answer = lambda request: Answer(403) if request.method == method else None
    uri = f"{proxy.root}/numbers.bin"
    with caplog.at_level(logging.WARNING), cached_file(uri) as path:
        path.write_bytes(b"one")
    assert f"{uri}: {expected}" in caplog.text
    assert "must be open to this account" in caplog.text


def test_work_that_fails_keeps_nothing(proxy: FaultProxy) -> None:
    with pytest.raises(ZeroDivisionError), cached_file(f"{proxy.root}/numbers.bin") as path:
        path.write_bytes(b"half")
        raise ZeroDivisionError
    assert not [request for request in proxy.requests if request.method == "PUT"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("work/preferences", "work/cache"),
        ("preferences", "cache"),
        ("s3://bucket/work/preferences", "s3://bucket/work/cache"),
        ("s3://bucket/preferences/", "s3://bucket/cache"),
        ("gs://bucket", "gs://bucket/cache"),
        ("minio://bucket/", "minio://bucket/cache"),
    ],
)
def test_place_beside(uri: str, expected: str) -> None:
    assert beside(uri, "cache") == expected


def test_copy_knows_its_original_while_it_is_there(proxy: FaultProxy, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "file").write_text("x")
    put(tmp_path / "made", f"{proxy.root}/made")
    with LocalCopies() as copies:
        copy = copies.fetch(f"{proxy.root}/made/")
        assert origin_of(copy) == f"{proxy.root}/made"
    assert origin_of(copy) == str(copy)
