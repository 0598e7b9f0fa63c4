"""Local paths and object stores behave alike, and a transfer that went wrong is an error.

gs:// is a real fake-gcs-server, s3:// and minio:// are a moto server.
"""

import os
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage import crc32c, exists, fetch, is_remote, list_files, put

STORES = {"gs": "object_store", "s3": "s3_store", "minio": "minio_store"}


@pytest.fixture(params=["local", *STORES])
def root_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder or prefix, here and in the store."""
    if request.param == "local":
        return str(tmp_path / "store")
    return f"{request.getfixturevalue(STORES[request.param])}/{tmp_path.name}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a manifest and files on two levels."""
    root = tmp_path / "made"
    (root / "train").mkdir(parents=True)
    (root / "train" / "part-0.parquet").write_bytes(bytes(range(256)) * 2000)
    (root / "Ünï code.txt").write_text("naïve\n", encoding="utf-8")
    (root / "manifest.json").write_text("{}")
    return root


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_folder_comes_back_as_it_was_put(root_uri: str, folder: Path, tmp_path: Path) -> None:
    put(folder, f"{root_uri}/made")
    back = fetch(f"{root_uri}/made", tmp_path / "back")
    assert back.name == "made"
    assert tree(back) == tree(folder)


def test_file_comes_back_as_it_was_put(root_uri: str, folder: Path, tmp_path: Path) -> None:
    put(folder / "manifest.json", f"{root_uri}/deep/er/one.json")
    assert fetch(f"{root_uri}/deep/er/one.json", tmp_path / "back").read_text() == "{}"


def test_listing_names_every_file(root_uri: str, folder: Path) -> None:
    put(folder, f"{root_uri}/made")
    expected = ["manifest.json", "train/part-0.parquet", "Ünï code.txt"]
    assert list_files(f"{root_uri}/made") == [f"{root_uri}/made/{name}" for name in expected]
    assert list_files(f"{root_uri}/made/manifest.json") == [f"{root_uri}/made/manifest.json"]


def test_prefix_is_a_folder_and_not_the_beginning_of_a_name(root_uri: str, folder: Path) -> None:
    put(folder, f"{root_uri}/made")
    assert exists(f"{root_uri}/made")
    assert exists(f"{root_uri}/made/train/part-0.parquet")
    assert not exists(f"{root_uri}/mad")
    assert not exists(f"{root_uri}/made/train/part-0")


def test_put_replaces_what_was_there(root_uri: str, folder: Path, tmp_path: Path) -> None:
    put(folder / "manifest.json", f"{root_uri}/one")
    put(folder / "Ünï code.txt", f"{root_uri}/one")
    assert fetch(f"{root_uri}/one", tmp_path / "back").read_text(encoding="utf-8") == "naïve\n"


def test_nothing_there_is_an_error_that_names_the_uri(root_uri: str, tmp_path: Path) -> None:
    for operation in (lambda uri: fetch(uri, tmp_path / "back"), list_files):
        with pytest.raises(DataError, match="absent: must be .* nothing is there"):
            operation(f"{root_uri}/absent")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("scheme", STORES)
def test_missing_bucket_is_an_error(
    scheme: str, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(STORES[scheme])
    uri = f"{scheme}://no-such-bucket/x"
    for operation in (lambda uri: fetch(uri, tmp_path), lambda uri: put(folder, uri), exists):
        with pytest.raises(DataError, match=f"{uri}.*: the bucket must exist"):
            operation(uri)


def test_missing_local_folder_is_an_error_before_any_transfer(
    root_uri: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="nothing is there"):
        put(tmp_path / "absent", f"{root_uri}/made")
    assert not exists(f"{root_uri}/made")


@pytest.mark.parametrize("uri", ["file://bucket/x", "https://example.org/x"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(
        DataError, match="must be a local path or start with gs:// or s3:// or minio://"
    ):
        is_remote(uri)


def test_address_without_bucket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the bucket is missing"):
        fetch("gs:///x", tmp_path)


def test_object_name_cannot_leave_the_folder(
    object_store: str, folder: Path, tmp_path: Path
) -> None:
    put(folder / "manifest.json", f"{object_store}/{tmp_path.name}/../escape")
    with pytest.raises(DataError, match=r"names must stay below their prefix, got '\.\./escape'"):
        fetch(f"{object_store}/{tmp_path.name}", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_crc32c_of_the_standard_check_string(tmp_path: Path) -> None:
    (tmp_path / "check").write_bytes(b"123456789")
    assert crc32c(tmp_path / "check") == "4waSgw=="  # 0xE3069283


class Faults(BaseHTTPRequestHandler):
    """A proxy before the store: it can change a byte on the way, refuse, and it records uploads."""

    upstream, fault, uploads = "", "", []  # type: ignore[var-annotated]

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.fault == "refuse":
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.command == "POST":
            self.uploads.append(body)
            if self.fault == "upload":
                body = body.replace(b"content", b"c0ntent")
        names = [
            name
            for name in self.headers
            if name.lower() not in ("host", "content-length", "accept-encoding")
        ]
        headers = {name: self.headers[name] for name in names}
        request = urllib.request.Request(
            self.upstream + self.path, body or None, headers, method=self.command
        )
        with urllib.request.urlopen(request) as answer:
            content = answer.read().replace(
                self.upstream.encode(), f"http://{self.headers['Host']}".encode()
            )
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in (
                    "content-length",
                    "transfer-encoding",
                    "x-goog-hash",
                    "connection",
                ):
                    self.send_header(name, value)
        if self.fault == "download" and "alt=media" in self.path:
            content = content.replace(b"content", b"c0ntent")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = forward

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def faults(object_store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Faults]]:
    """The store behind a proxy whose `fault` a test sets."""
    Faults.upstream, Faults.fault, Faults.uploads = os.environ["STORAGE_EMULATOR_HOST"], "", []
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Faults)
    threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{proxy.server_port}")
    yield Faults
    proxy.shutdown()
    proxy.server_close()


def test_byte_changed_on_download_is_an_error_and_leaves_no_file(
    faults: type[Faults], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("the content")
    uri = f"gs://bucket/{tmp_path.name}/file"
    put(tmp_path / "file", uri)
    faults.fault = "download"
    with pytest.raises(DataError, match=f"{uri}: must have the same checksum"):
        fetch(uri, tmp_path / "back")
    assert not list((tmp_path / "back").iterdir())
    faults.fault = ""
    assert fetch(uri, tmp_path / "back").read_text() == "the content"


def test_byte_changed_on_upload_is_an_error(faults: type[Faults], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("the content")
    faults.fault = "upload"
    with pytest.raises(DataError, match="must have the same checksum here and in the store"):
        put(tmp_path / "file", f"gs://bucket/{tmp_path.name}/file")


def test_refusal_says_which_right_is_missing(faults: type[Faults], tmp_path: Path) -> None:
    faults.fault = "refuse"
    with pytest.raises(DataError, match="gs://bucket/x: must be open to this account"):
        exists("gs://bucket/x")


def test_manifest_is_uploaded_last(faults: type[Faults], folder: Path, tmp_path: Path) -> None:
    put(folder, f"gs://bucket/{tmp_path.name}")
    assert len(faults.uploads) == 3
    assert b"manifest.json" in faults.uploads[-1]
