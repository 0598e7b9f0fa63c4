"""Transfers through stores that fail: what may pass is tried again, and what arrived is kept."""

import itertools
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage import (
    exists,
    fetch,
    google_upload,
    list_files,
    open_file,
    put,
    retries,
)
from dynamicpo.core.storage.clients import store_of
from dynamicpo.core.storage.failures import FailureKind
from dynamicpo.core.storage.parts import PART_BYTES
from dynamicpo.core.storage.store import Store
from tests.fixtures.fault_proxy import Answer, FaultProxy, Request
from tests.fixtures.faulty_transfers import SHARE, run
from tests.fixtures.object_stores import environment

URLS = {"gs": "gs_url", "s3": "s3_url", "minio": "minio_url"}
STORES = pytest.mark.parametrize("proxy", URLS, indirect=True)
# Four parts.
LARGE = 3 * PART_BYTES + 1


@pytest.fixture
def proxy(
    request: pytest.FixtureRequest,
    quick_retries: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[FaultProxy]:
    """A store behind a proxy, which a test lets fail; `root` leads there."""
    scheme = getattr(request, "param", "s3")
    monkeypatch.setattr(google_upload, "_UPLOAD_BYTES", PART_BYTES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with FaultProxy(request.getfixturevalue(URLS[scheme]), seed=3) as proxy:
        for name, value in environment(scheme, proxy.url).items():
            monkeypatch.setenv(name, value)
        proxy.root = f"{scheme}://bucket/{request.node.name}"
        yield proxy


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("the content")
    return tmp_path / "file"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    (tmp_path / "large").write_bytes(random.Random(1).randbytes(LARGE))
    return tmp_path / "large"


def fails_once(proxy: FaultProxy, matches: Callable[[Request], bool], status: int) -> list[str]:
    """Let the first request that matches fail; its path will be in the list."""
    failed: list[str] = []

    def answer(request: Request) -> Answer | None:
        if failed or not matches(request):
            return None
        failed.append(request.path)
        return Answer(status)

    proxy.answer = answer
    return failed


@pytest.mark.parametrize(
    ("proxy", "num_transfers"), [("gs", 120), ("s3", 40), ("minio", 40)], indirect=["proxy"]
)
def test_many_transfers_lose_nothing(proxy: FaultProxy, num_transfers: int, tmp_path: Path) -> None:
    proxy.share = SHARE
    outcome = run(proxy.root, proxy, num_transfers, tmp_path)
    assert outcome.whole == outcome.transfers == num_transfers
    assert set(outcome.faults) == set(proxy.faults)
    proxy.share = 0.0
    # Nothing but the pointer is left, no part of a file neither.
    assert all("/pointer/" in uri for uri in list_files(proxy.root))
    if not proxy.root.startswith("gs://"):
        client = store_of(proxy.root.partition("//")[0] + "//")._client
        assert not client.list_multipart_uploads(Bucket="bucket").get("Uploads")


@STORES
def test_what_fails_in_the_end_is_not_half_there(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DEADLINES_SECONDS", {FailureKind.BUSY: 0.0})
    proxy.share, proxy.faults = 0.2, ("503", "reset before", "reset after", "truncate")
    folder = tmp_path / "made"
    folder.mkdir()
    for name in ("a", "b", "manifest.json"):
        (folder / name).write_text(name)
    failed = 0
    for number in range(20):
        try:
            put(folder, f"{proxy.root}/{number}")
        except DataError:
            failed += 1
    assert 0 < failed < 20
    proxy.share = 0.0
    for number in range(20):
        if exists(f"{proxy.root}/{number}/manifest.json"):
            assert len(list_files(f"{proxy.root}/{number}")) == 3
    proxy.share = 0.5
    for number in range(20):
        back = tmp_path / f"back-{number}"
        try:
            fetch(f"{proxy.root}/0/a", back)
        except DataError:
            assert not back.exists() or not list(back.iterdir())
        else:
            assert (back / "a").read_text() == "a"


@STORES
@pytest.mark.parametrize("fault", ["corrupt upload", "corrupt download"])
def test_content_that_changes_each_time_is_an_error(
    proxy: FaultProxy, fault: str, small: Path, tmp_path: Path
) -> None:
    uri = f"{proxy.root}/file"
    if fault == "corrupt download":
        put(small, uri)
    proxy.share, proxy.faults = 1.0, (fault,)
    with pytest.raises(DataError, match=rf"{re.escape(uri)}: must have the same checksum"):
        put(small, uri) if fault == "corrupt upload" else fetch(uri, tmp_path / "back")
    assert proxy.counts[fault] >= retries.NUM_CORRUPT_TRIES
    assert not list((tmp_path / "back").iterdir()) if fault == "corrupt download" else True


def test_change_on_the_way_into_a_store_that_does_not_look_is_seen(
    proxy: FaultProxy, small: Path
) -> None:
    def change(request: Request) -> None:
        request.headers.pop("Content-MD5", None)
        request.body = request.body.replace(b"content", b"c0ntent")

    proxy.answer = change
    with pytest.raises(DataError, match="must have the same checksum"):
        put(small, f"{proxy.root}/file")


def test_object_of_another_program_is_checked_by_its_etag(
    proxy: FaultProxy, large: Path, tmp_path: Path
) -> None:
    from boto3.s3.transfer import TransferConfig

    client = store_of("s3://")._client
    key = f"{proxy.root.removeprefix('s3://bucket/')}/foreign"
    # Another size of parts than ours.
    config = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=6 << 20)
    client.upload_file(str(large), "bucket", key, Config=config)
    client.put_object(Bucket="bucket", Key=f"{key}-small", Body=b"abc")
    for name, content in ((key, large.read_bytes()), (f"{key}-small", b"abc")):
        uri = f"s3://bucket/{name}"
        proxy.share = 0.0
        assert fetch(uri, tmp_path / "back").read_bytes() == content
        proxy.share, proxy.faults = 1.0, ("corrupt download",)
        with pytest.raises(DataError, match="must have the same checksum"):
            fetch(uri, tmp_path / "again")


def sent_parts(proxy: FaultProxy) -> list[str]:
    """The parts that came to the store with content: their numbers, or ranges of bytes."""
    parts = []
    for request in proxy.requests:
        place = request.query.get("partNumber") or request.headers.get("Content-Range", "")
        if request.method == "PUT" and request.body and place:
            parts.append(place)
    return parts


@STORES
def test_one_part_that_failed_is_sent_again_and_no_other(
    proxy: FaultProxy, large: Path, tmp_path: Path
) -> None:
    def is_second_part(request: Request) -> bool:
        place = request.headers.get("Content-Range", "")
        is_part = request.query.get("partNumber") == "2" or place.startswith(f"bytes {PART_BYTES}-")
        return request.method == "PUT" and is_part

    failed = fails_once(proxy, is_second_part, 503)
    put(large, f"{proxy.root}/large")
    parts = sent_parts(proxy)
    assert (len(failed), len(parts), len(set(parts))) == (1, 5, 4)
    assert fetch(f"{proxy.root}/large", tmp_path / "back").read_bytes() == large.read_bytes()


@STORES
def test_one_part_that_did_not_come_is_fetched_again_and_no_other(
    proxy: FaultProxy, large: Path, tmp_path: Path
) -> None:
    put(large, f"{proxy.root}/large")
    proxy.requests.clear()
    begin = f"bytes={PART_BYTES}-"
    fails_once(proxy, lambda request: range_of(request).startswith(begin), 503)
    assert fetch(f"{proxy.root}/large", tmp_path / "back").read_bytes() == large.read_bytes()
    ranges = [range_of(request) for request in proxy.requests if range_of(request)]
    assert (len(ranges), len(set(ranges))) == (5, 4)


def range_of(request: Request) -> str:
    headers = {name.lower(): value for name, value in request.headers.items()}
    return headers.get("range", "")


@pytest.mark.parametrize("proxy", ["gs"], indirect=True)
def test_google_is_asked_how_much_has_arrived(proxy: FaultProxy, large: Path) -> None:
    """Half of a part arrives, then the connection breaks: the upload goes on in the middle."""
    broken = []

    def break_in_the_middle(request: Request) -> Answer | None:
        if request.headers.get("Content-Range", "").startswith("bytes 0-") and not broken:
            broken.append(request)
            proxy.handle_session(request, is_cut=True)
            return Answer(503)
        return None

    proxy.answer = break_in_the_middle
    put(large, f"{proxy.root}/large")
    places = [request.headers.get("Content-Range", "") for request in proxy.requests]
    assert f"bytes */{LARGE}" in places
    half = PART_BYTES // 2
    assert f"bytes {half}-{half + PART_BYTES - 1}/{LARGE}" in places


@pytest.mark.parametrize("proxy", ["gs"], indirect=True)
def test_upload_whose_session_has_expired_begins_anew(
    proxy: FaultProxy, large: Path, tmp_path: Path
) -> None:
    fails_once(proxy, lambda request: "Content-Range" in request.headers, 410)
    put(large, f"{proxy.root}/large")
    assert fetch(f"{proxy.root}/large", tmp_path / "back").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("proxy", ["gs"], indirect=True)
def test_large_upload_that_was_changed_on_the_way_is_sent_again(
    proxy: FaultProxy, large: Path, tmp_path: Path
) -> None:
    changed = []

    def change(request: Request) -> None:
        if "Content-Range" in request.headers and not changed:
            changed.append(True)
            request.body = bytes(10) + request.body[10:]

    proxy.answer = change
    put(large, f"{proxy.root}/large")
    assert fetch(f"{proxy.root}/large", tmp_path / "back").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("proxy", ["s3", "minio"], indirect=True)
def test_upload_of_a_killed_process_is_gone_on_with(
    proxy: FaultProxy, large: Path, tmp_path: Path
) -> None:
    client = store_of(proxy.root.partition("//")[0] + "//")._client
    key = f"{proxy.root.partition('bucket/')[2]}/large"
    target = {"Bucket": "bucket", "Key": key}
    from dynamicpo.core.storage import crc32c

    upload = client.create_multipart_upload(**target, Metadata={"crc32c": crc32c(large)})
    for number in (1, 3):
        start = (number - 1) * PART_BYTES
        body = large.read_bytes()[start : start + PART_BYTES]
        client.upload_part(**target, UploadId=upload["UploadId"], PartNumber=number, Body=body)
    proxy.requests.clear()
    put(large, f"{proxy.root}/large")
    assert sorted(sent_parts(proxy)) == ["2", "4"]
    assert fetch(f"{proxy.root}/large", tmp_path / "back").read_bytes() == large.read_bytes()
    assert not client.list_multipart_uploads(Bucket="bucket", Prefix=key).get("Uploads")


class _KilledError(BaseException):
    """The end of a process in the middle of an upload."""


def killed_upload(proxy: FaultProxy, path: Path) -> None:
    """Upload two parts to Google's store, then end as a process that is killed."""
    client_class = google_upload._Upload
    step = client_class._step

    def last_step(upload: google_upload._Upload) -> str | None:
        if upload._num_received >= 2 * PART_BYTES:
            raise _KilledError
        return step(upload)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_class, "_step", last_step)
        with pytest.raises(_KilledError):
            put(path, f"{proxy.root}/large")


@pytest.mark.parametrize("proxy", ["gs"], indirect=True)
def test_upload_of_a_killed_process_is_gone_on_with_at_google(
    proxy: FaultProxy, large: Path, tmp_path: Path
) -> None:
    killed_upload(proxy, large)
    (kept,) = (tmp_path / "cache" / "dynamicpo" / "uploads").iterdir()
    # The address is a key to the object.
    assert kept.stat().st_mode & 0o077 == 0
    proxy.requests.clear()
    put(large, f"{proxy.root}/large")
    ranges = [request.headers.get("Content-Range") for request in proxy.requests]
    sent = [place for place in ranges if place and not place.startswith("bytes *")]
    assert sent[0] == f"bytes {2 * PART_BYTES}-{3 * PART_BYTES - 1}/{LARGE}"
    assert len(sent) == 2
    assert fetch(f"{proxy.root}/large", tmp_path / "back").read_bytes() == large.read_bytes()
    assert not kept.exists()


@pytest.mark.parametrize("proxy", ["gs"], indirect=True)
@pytest.mark.parametrize("address", ["https://elsewhere.example/upload?upload_id=1", "", "x"])
def test_token_goes_to_the_store_alone(
    proxy: FaultProxy, large: Path, tmp_path: Path, address: str
) -> None:
    killed_upload(proxy, large)
    (kept,) = (tmp_path / "cache" / "dynamicpo" / "uploads").iterdir()
    kept.write_text(address)
    put(large, f"{proxy.root}/large")
    assert fetch(f"{proxy.root}/large", tmp_path / "back").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("proxy", ["gs"], indirect=True)
def test_session_that_the_store_has_forgotten_is_begun_anew(
    proxy: FaultProxy, large: Path, tmp_path: Path
) -> None:
    killed_upload(proxy, large)
    proxy._sessions.clear()
    put(large, f"{proxy.root}/large")
    assert fetch(f"{proxy.root}/large", tmp_path / "back").read_bytes() == large.read_bytes()


@STORES
def test_folder_whose_upload_broke_off_is_not_sent_from_its_beginning(
    proxy: FaultProxy, large: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(name.encode() + large.read_bytes())

    def is_second_file(request: Request) -> bool:
        # A part's own request, or the beginning of a resumable upload.
        is_part = "partNumber" in request.query and "/b?" in request.path
        return is_part or (request.method == "POST" and b'/b"' in request.body)

    proxy.answer = lambda request: Answer(403) if is_second_file(request) else None
    with pytest.raises(DataError, match="must be open to this account"):
        put(folder, f"{proxy.root}/folder")
    assert len(sent_parts(proxy)) >= 4
    proxy.answer = lambda request: None
    proxy.requests.clear()
    put(folder, f"{proxy.root}/folder")
    assert len(sent_parts(proxy)) == 4
    back = fetch(f"{proxy.root}/folder", tmp_path / "back")
    assert (back / "b").read_bytes() == (folder / "b").read_bytes()
    (folder / "a").write_bytes(b"c" + large.read_bytes())
    proxy.requests.clear()
    put(folder, f"{proxy.root}/folder")
    assert len(sent_parts(proxy)) == 4


def test_upload_of_other_content_is_not_gone_on_with(
    proxy: FaultProxy, large: Path, tmp_path: Path
) -> None:
    """Parts are the same, the file is not: the checksum that the upload has would be wrong."""
    client = store_of("s3://")._client
    target = {"Bucket": "bucket", "Key": f"{proxy.root.removeprefix('s3://bucket/')}/large"}
    upload = client.create_multipart_upload(**target, Metadata={"crc32c": "AAAAAA=="})
    body = large.read_bytes()[:PART_BYTES]
    client.upload_part(**target, UploadId=upload["UploadId"], PartNumber=1, Body=body)
    put(large, f"{proxy.root}/large")
    assert fetch(f"{proxy.root}/large", tmp_path / "back").read_bytes() == large.read_bytes()


def test_parts_of_an_upload_that_is_given_up_are_deleted(proxy: FaultProxy, large: Path) -> None:
    fails_once(proxy, lambda request: request.query.get("partNumber") == "2", 403)
    with pytest.raises(DataError, match="must be open to this account"):
        put(large, f"{proxy.root}/large")
    assert not store_of("s3://")._client.list_multipart_uploads(Bucket="bucket").get("Uploads")
    assert not exists(f"{proxy.root}/large")


@pytest.mark.parametrize("proxy", ["minio"], indirect=True)
def test_old_upload_of_the_same_name_is_deleted(
    proxy: FaultProxy, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    from dynamicpo.core.storage import s3_parts

    client = store_of("minio://")._client
    target = {"Bucket": "bucket", "Key": f"{proxy.root.removeprefix('minio://bucket/')}/large"}
    for age, remaining in ((timedelta(days=1), 1), (timedelta(0), 0)):
        monkeypatch.setattr(s3_parts, "_ABANDONED_AFTER", age)
        if remaining:
            client.create_multipart_upload(**target)
        put(large, f"{proxy.root}/large")
        left = client.list_multipart_uploads(Bucket="bucket", Prefix=target["Key"])
        assert len(left.get("Uploads", [])) == remaining


def test_object_that_changes_meanwhile_is_not_mixed(
    proxy: FaultProxy, large: Path, tmp_path: Path
) -> None:
    uri = f"{proxy.root}/large"
    put(large, uri)
    with open_file(uri) as stream:
        assert stream.read(3) == large.read_bytes()[:3]
        (tmp_path / "other").write_bytes(bytes(LARGE))
        put(tmp_path / "other", uri)
        stream.seek(PART_BYTES)
        with pytest.raises(DataError, match="must not have changed since it was read"):
            stream.read(3)


@STORES
def test_parquet_columns_are_read_without_the_rest(proxy: FaultProxy, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    noise = [random.Random(row).randbytes(4000).hex() for row in range(1000)]
    table = pa.table({"number": range(1000), "noise": noise})
    pq.write_table(table, tmp_path / "rows.parquet", compression="none", use_dictionary=False)
    put(tmp_path / "rows.parquet", f"{proxy.root}/rows.parquet")
    received = []
    proxy.answer = lambda request: received.append(range_of(request))
    with open_file(f"{proxy.root}/rows.parquet") as stream:
        numbers = pq.ParquetFile(stream).read(columns=["number"])["number"].to_pylist()
    assert numbers == list(range(1000))
    ranges = [re.fullmatch(r"bytes=(\d+)-(\d+)", text) for text in received if text]
    num_bytes = sum(int(found[2]) - int(found[1]) + 1 for found in ranges if found)
    assert num_bytes < (tmp_path / "rows.parquet").stat().st_size / 4


def test_one_tensor_is_read_from_safetensors(proxy: FaultProxy, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    tensors = {"large": np.zeros((1000, 1000), "float32"), "small": np.arange(5, dtype="float32")}
    save_file(tensors, tmp_path / "model.safetensors")
    put(tmp_path / "model.safetensors", f"{proxy.root}/model.safetensors")
    with open_file(f"{proxy.root}/model.safetensors") as stream:
        length = int.from_bytes(stream.read(8), "little")
        place = json.loads(stream.read(length))["small"]["data_offsets"]
        stream.seek(8 + length + place[0])
        values = np.frombuffer(stream.read(place[1] - place[0]), "float32")
    assert values.tolist() == [0, 1, 2, 3, 4]


def test_there_is_one_client_for_all_threads_and_one_for_each_setting(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = []
    threads = [threading.Thread(target=lambda: clients.append(store_of("s3://"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, clients))) == 1
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert store_of("s3://") is not clients[0]


@pytest.mark.parametrize(
    ("kind", "num_tries"),
    [(FailureKind.UNREACHABLE, 4), (FailureKind.BUSY, 60), (FailureKind.FORBIDDEN, 1)],
)
def test_each_kind_of_failure_has_its_deadline(
    kind: FailureKind, num_tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock is five seconds later than the one before."""
    seconds = itertools.count(step=5)
    monkeypatch.setattr(retries, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.0001)
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0.0001)
    store = cast(Store, SimpleNamespace(kind=lambda error: kind))
    tries = []

    def fail() -> None:
        tries.append(kind)
        raise RuntimeError("again")

    with pytest.raises(RuntimeError, match="again"):
        retries.retried(store, fail)
    assert len(tries) == num_tries
