"""A published folder is there whole or not at all, and of racing writers one moves the pointer."""

import shutil
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage import exists, list_files, put
from dynamicpo.core.storage.failures import LostRaceError
from dynamicpo.core.storage.publication import (
    CONTENTS,
    Pointer,
    check_preconditions,
    fetch_published,
    move_pointer,
    pointer_history,
    publish_folder,
    read_pointer,
)
from tests.fixtures.fault_proxy import Answer, FaultProxy, Request
from tests.fixtures.object_stores import environment

NUM_WRITERS = 16


@pytest.fixture
def root(any_store: str) -> str:
    """An empty folder or prefix."""
    return any_store


@pytest.fixture
def proxy(s3_url: str, s3_store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The moto server behind a proxy."""
    with FaultProxy(s3_url) as proxy:
        for name, value in environment("s3", proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "weights").write_bytes(bytes(1000))
    (made / "card.md").write_text("a model")
    return made


def test_published_folder_is_named_by_its_content(root: str, folder: Path, tmp_path: Path) -> None:
    first = publish_folder(folder, root)
    assert publish_folder(shutil.copytree(folder, tmp_path / "copy"), root) == first
    (folder / "card.md").write_text("another model")
    second = publish_folder(folder, root)
    assert second != first
    for uri, text in ((first, "a model"), (second, "another model")):
        back = fetch_published(uri, tmp_path / "back")
        assert (back / "card.md").read_text() == text
        assert (back / "sub" / "weights").read_bytes() == bytes(1000)


def test_folder_without_its_list_is_not_published(root: str, folder: Path, tmp_path: Path) -> None:
    put(folder, f"{root}/half")
    with pytest.raises(DataError, match="must be a published folder.* publish it again"):
        fetch_published(f"{root}/half", tmp_path / "back")


def test_changed_file_of_a_published_folder_is_refused(
    root: str, folder: Path, tmp_path: Path
) -> None:
    uri = publish_folder(folder, root)
    (folder / "card.md").write_text("edited")
    put(folder / "card.md", f"{uri}/card.md")
    with pytest.raises(DataError, match=f"{uri}/card.md: must be as it was published"):
        fetch_published(uri, tmp_path / "back")


@pytest.mark.parametrize("content", ["{", "[]", "1"])
def test_damaged_list_of_a_published_folder_is_refused(
    root: str, folder: Path, tmp_path: Path, content: str
) -> None:
    uri = publish_folder(folder, root)
    (folder / CONTENTS).write_text(content)
    put(folder / CONTENTS, f"{uri}/{CONTENTS}")
    with pytest.raises(DataError, match=f"{uri}/{CONTENTS}: must list the files of a published"):
        fetch_published(uri, tmp_path / "back")


def test_pointer_moves_and_keeps_its_history(root: str) -> None:
    pointer = f"{root}/champion"
    assert read_pointer(pointer) is None
    first = move_pointer(pointer, "a", since=None)
    second = move_pointer(pointer, "b", since=first)
    assert read_pointer(pointer) == second == Pointer(2, "b")
    assert pointer_history(pointer) == [first, second]
    with pytest.raises(LostRaceError, match="another writer was first. Read it again"):
        move_pointer(pointer, "c", since=first)
    assert read_pointer(pointer) == second


def race(pointer: str, since: Pointer | None) -> tuple[list[str], int]:
    """The targets of the writers that won, and the number of those that say that they lost."""
    winners, losers = [], []
    start = threading.Barrier(NUM_WRITERS)

    def write(number: int) -> None:
        start.wait()
        try:
            winners.append(move_pointer(pointer, f"version {number}", since).target)
        except LostRaceError as error:
            losers.append(str(error))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(NUM_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return winners, len(losers)


def test_one_of_many_racing_writers_wins(root: str) -> None:
    pointer = f"{root}/champion"
    for round_number in range(2):
        since = read_pointer(pointer)
        winners, num_losers = race(pointer, since)
        assert (len(winners), num_losers) == (1, NUM_WRITERS - 1)
        assert read_pointer(pointer) == Pointer(round_number + 1, winners[0])


def test_racing_writers_through_a_store_that_often_fails(
    proxy: FaultProxy, quick_retries: None, tmp_path: Path
) -> None:
    proxy.share = 0.3
    proxy.faults = ("503", "reset before", "reset after", "truncate", "delay")
    pointer = f"s3://bucket/{tmp_path.name}"
    winners, num_losers = race(pointer, None)
    assert (len(winners), num_losers) == (1, NUM_WRITERS - 1)
    assert read_pointer(pointer) == Pointer(1, winners[0])


def test_lost_answer_to_a_move_is_no_lost_race(
    proxy: FaultProxy, quick_retries: None, tmp_path: Path
) -> None:
    pointer = f"s3://bucket/{tmp_path.name}"
    check_preconditions(pointer)
    lost = []

    def lose_first_answer(request: Request) -> Answer | None:
        if request.method == "PUT" and not lost:
            lost.append(proxy.forward(request))
            return Answer(503)
        return None

    proxy.answer = lose_first_answer
    assert move_pointer(pointer, "a", since=None) == Pointer(1, "a") == read_pointer(pointer)
    assert lost[0].status == 200


def test_store_without_preconditions_is_refused(proxy: FaultProxy, tmp_path: Path) -> None:
    def forget_preconditions(request: Request) -> None:
        for name in ("If-None-Match", "If-Match"):
            request.headers.pop(name, None)

    proxy.answer = forget_preconditions
    pointer = f"s3://bucket/{tmp_path.name}/champion"
    with pytest.raises(
        DataError, match=f"{pointer}: the store must honour preconditions"
    ) as raised:
        move_pointer(pointer, "a", since=None)
    assert "\n" not in str(raised.value)
    assert not exists(pointer)


def test_probe_is_made_once_and_leaves_nothing(proxy: FaultProxy, tmp_path: Path) -> None:
    pointer = f"s3://bucket/{tmp_path.name}"
    state = move_pointer(pointer, "a", since=None)
    move_pointer(pointer, "b", since=state)
    probes = [request for request in proxy.requests if ".probe-" in request.path]
    assert [request.method for request in probes if request.method != "GET"] == [
        "PUT",
        "PUT",
        "DELETE",
    ]
    assert len(list_files(pointer)) == 2


def test_interrupted_publication_is_not_there(
    proxy: FaultProxy, folder: Path, tmp_path: Path
) -> None:
    def refuse_weights(request: Request) -> Answer | None:
        is_weights = request.method == "PUT" and "weights" in urllib.parse.unquote(request.path)
        return Answer(403) if is_weights else None

    proxy.answer = refuse_weights
    root = f"s3://bucket/{tmp_path.name}"
    with pytest.raises(DataError, match="must be open to this account"):
        publish_folder(folder, root)
    written = [request.path for request in proxy.requests if request.method == "PUT"]
    assert not any("contents.json" in path for path in written)
    proxy.answer = lambda request: None
    uri = publish_folder(folder, root)
    assert fetch_published(uri, tmp_path / "back")


def test_interrupted_publication_in_a_folder_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", fail)
    with pytest.raises(DataError, match="No space left"):
        publish_folder(folder, str(tmp_path / "store"))
    assert not list((tmp_path / "store").iterdir())


def test_pointer_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "00000003.json").write_text("{")
    with pytest.raises(DataError, match="00000003.json: must be a pointer's JSON"):
        read_pointer(str(tmp_path))
