"""Local paths and object stores behave alike, and a transfer that went wrong is an error.

gs:// is a real fake-gcs-server, s3:// a moto server, and minio:// a real SeaweedFS.
"""

import os
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage import (
    crc32c,
    delete,
    exists,
    fetch,
    files,
    find_files,
    is_remote,
    list_files,
    open_file,
    put,
    read_bytes,
    s3,
)
from dynamicpo.core.storage.clients import store_of
from dynamicpo.core.storage.conditional_writes import replace_object

STORES = {"gs": "object_store", "s3": "s3_store", "minio": "minio_store"}


# Two parts and a bit.
LARGE = 17_000_001


@pytest.fixture(params=["local", *STORES])
def root_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder or prefix, here and in the store."""
    if request.param == "local":
        return str(tmp_path / "store")
    return f"{request.getfixturevalue(STORES[request.param])}/{tmp_path.name}"


@pytest.fixture(params=STORES)
def stored_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty prefix in each store."""
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


def test_files_are_found_with_size_and_time(root_uri: str, folder: Path) -> None:
    put(folder, f"{root_uri}/made")
    found = find_files(f"{root_uri}/made")
    assert [file.size for file in found] == [2, 512_000, 7]
    assert all(abs(file.modified - time.time()) < 3600 for file in found)


def test_small_file_is_read_at_once(root_uri: str, folder: Path) -> None:
    put(folder, f"{root_uri}/made")
    assert read_bytes(f"{root_uri}/made/Ünï code.txt").decode() == "naïve\n"
    with pytest.raises(DataError, match="absent: must be .* nothing is there"):
        read_bytes(f"{root_uri}/absent")


def test_what_is_deleted_is_gone_and_nothing_else(root_uri: str, folder: Path) -> None:
    put(folder, f"{root_uri}/made")
    put(folder, f"{root_uri}/made-2")
    delete(f"{root_uri}/made/manifest.json")
    assert not exists(f"{root_uri}/made/manifest.json")
    delete(f"{root_uri}/made")
    delete(f"{root_uri}/made")
    assert not exists(f"{root_uri}/made")
    assert len(list_files(f"{root_uri}/made-2")) == 3


@pytest.mark.parametrize("size", [0, 8 << 20, LARGE])
def test_empty_and_large_files_come_back(stored_uri: str, size: int, tmp_path: Path) -> None:
    content = random.Random(size).randbytes(size)
    (tmp_path / "file").write_bytes(content)
    put(tmp_path / "file", f"{stored_uri}/file")
    assert fetch(f"{stored_uri}/file", tmp_path / "back").read_bytes() == content


def test_ranges_are_read_without_the_rest(root_uri: str, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(LARGE)
    (tmp_path / "file").write_bytes(content)
    put(tmp_path / "file", f"{root_uri}/file")
    with open_file(f"{root_uri}/file") as stream:
        assert stream.seek(-5, os.SEEK_END) == LARGE - 5
        assert stream.read() == content[-5:]
        assert stream.seek(9_000_000) == 9_000_000
        assert stream.read(300_000) == content[9_000_000:9_300_000]
        assert stream.read(4) == content[9_300_000:9_300_004]
    with pytest.raises(DataError, match="absent: must be .* nothing is there"):
        open_file(f"{root_uri}/absent")


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


ODD_NAMES = (
    *("a#b?c=d&e", "100%", "a%2Fb", "a+b c", " ends ", "e\u0301", "日本語", "em😀"),
    *("[x]*{{y}}", "a'b\"c", "$HOME;`id`", "..hidden", "-d", "x" * 200, "<b>&amp;", "a:b,c|d@e"),
)


def test_odd_names_and_deep_folders_come_back(root_uri: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    for name in ODD_NAMES:
        (made / name).mkdir(parents=True)
        (made / name / name).write_text(name, encoding="utf-8")
    deep = made.joinpath(*(f"d{level}" for level in range(60)))
    deep.mkdir(parents=True)
    (deep / "empty").touch()
    put(made, f"{root_uri}/a#b?c%20d/made")
    back = fetch(f"{root_uri}/a#b?c%20d/made", tmp_path / "back")
    assert tree(back) == tree(made)
    uri = f"{root_uri}/a#b?c%20d/made/100%/100%"
    assert read_bytes(uri) == b"100%" and exists(uri)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a\\b", r"no control characters and no backslash, got '\\\\'"),
        (b"a\nb", r"no control characters and no backslash, got '\\n'"),
        (b"\xff", "must be a name of characters in UTF-8"),
        (b"/".join([b"d" * 200] * 5 + [b"f"]), "at most 1024 bytes, got 10"),
    ],
)
def test_name_that_some_store_can_not_keep_is_refused_before_any_transfer(
    stored_uri: str, name: bytes, expected: str, folder: Path
) -> None:
    path = folder / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with pytest.raises(DataError, match=expected) as raised:
        put(folder, f"{stored_uri}/made")
    assert str(raised.value).isprintable()
    assert not exists(f"{stored_uri}/made")


@pytest.mark.parametrize("names", [("x/y", "x//y"), ("x", "x/y")])
def test_objects_that_would_be_one_file_are_refused(
    names: tuple[str, str], object_store: str, tmp_path: Path
) -> None:
    for name in names:
        replace_object(f"{object_store}/{tmp_path.name}/{name}", b"")
    with pytest.raises(DataError, match="must become one file each, but two of them"):
        fetch(f"{object_store}/{tmp_path.name}", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("size", [9, LARGE])
def test_object_that_is_deleted_after_it_was_listed(
    stored_uri: str, size: int, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    put(tmp_path / "file", f"{stored_uri}/file")
    local, transfers = files.planned_copies(f"{stored_uri}/file", tmp_path / "back")
    delete(f"{stored_uri}/file")
    store = store_of(stored_uri.partition("//")[0] + "//")
    with pytest.raises(DataError, match=re.escape(f"{stored_uri}/file: the object must exist")):
        files.download(store, transfers)
    assert not list(local.parent.iterdir())


@pytest.mark.parametrize("store", ["s3_store", "minio_store"])
def test_lists_have_more_than_one_page(
    store: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_PAGE_OBJECTS", 3)
    uri = f"{request.getfixturevalue(store)}/{tmp_path.name}"
    (tmp_path / "many").mkdir()
    for number in range(10):
        (tmp_path / "many" / f"{number}").touch()
    put(tmp_path / "many", uri)
    assert len(list_files(uri)) == 10
    delete(uri)
    assert not exists(uri)


def test_files_are_listed_while_another_writes(tmp_path: Path):
    """A partial file may be gone, under its name or for good, before it is looked at."""
    (tmp_path / "there").write_text("1")
    partial = tmp_path / "partial"
    has_ended = threading.Event()

    def write():
        while not has_ended.is_set():
            partial.write_text("2")
            partial.replace(tmp_path / "whole")

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        try:
            listings = [list_files(str(tmp_path)) for _ in range(500)]
        finally:
            has_ended.set()
        writing.result()
    assert all(str(tmp_path / "there") in names for names in listings)
