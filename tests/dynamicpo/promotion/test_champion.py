"""The champion moves whole or not at all, by one writer at a time, and goes back."""

import threading
from pathlib import Path

import pytest

from dynamicpo.core.errors import CheckFailedError, DataError
from dynamicpo.core.storage.publication import publish_folder
from dynamicpo.promotion import champion
from dynamicpo.promotion.champion import (
    Reason,
    champions,
    delete_old_versions,
    promote_version,
    read_moves,
    roll_back_champion,
)
from dynamicpo.promotion.versions import (
    delete_version,
    fetch_version,
    make_version,
    published_names,
)
from tests.fixtures.version_sources import make_source

REASON = Reason("ann", "it is better", {"difference": 0.01})
NUM_PROMOTERS = 8


def publish(store: str, folder: Path, *contents: bytes) -> list[str]:
    """Publish versions that differ in their weights."""
    names = []
    for content in contents:
        source = make_source(folder / content.decode(), content)
        names.append(make_version(source, store).name)
    return names


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def test_champion_moves_and_goes_back(any_store: str, tmp_path: Path) -> None:
    store = any_store
    first, second = publish(store, tmp_path, b"a", b"b")
    assert read_moves(store) == []
    assert promote_version(store, first, REASON, expected="") == (first, "", True)
    assert promote_version(store, second, REASON, expected=first) == (second, first, True)
    assert roll_back_champion(store, REASON, expected=second) == (first, second, True)
    moves = read_moves(store)
    assert [(move.kind, move.version) for move in moves] == [
        ("promotion", first),
        ("promotion", second),
        ("rollback", first),
    ]
    assert [move.number for move in moves] == [1, 2, 3]
    assert moves[0].reason == REASON
    assert moves[0].time.endswith("+00:00")


def test_repeated_commands_move_once(store: str, tmp_path: Path) -> None:
    first, second = publish(store, tmp_path, b"a", b"b")
    promote_version(store, first, REASON)
    for has_moved in (True, False):
        assert promote_version(store, second, REASON) == (
            second,
            first if has_moved else second,
            has_moved,
        )
    assert roll_back_champion(store, REASON, expected=second).has_moved
    assert not roll_back_champion(store, REASON, expected=second).has_moved
    assert len(read_moves(store)) == 3


def test_rollbacks_go_back_step_by_step(store: str, tmp_path: Path) -> None:
    names = publish(store, tmp_path, b"a", b"b", b"c")
    for name in names:
        promote_version(store, name, REASON)
    assert roll_back_champion(store, REASON).champion == names[1]
    promote_version(store, names[2], REASON)
    assert champions(read_moves(store)) == names
    for expected in (names[1], names[0]):
        assert roll_back_champion(store, REASON).champion == expected
    with pytest.raises(DataError, match="must have a champion before the present one"):
        roll_back_champion(store, REASON)


def test_nothing_moves_against_another_champion(store: str, tmp_path: Path) -> None:
    first, second = publish(store, tmp_path, b"a", b"b")
    promote_version(store, first, REASON)
    for expected in ("", second):
        with pytest.raises(CheckFailedError, match="Nothing has moved"):
            promote_version(store, second, REASON, expected)
    with pytest.raises(CheckFailedError, match="Nothing has moved"):
        roll_back_champion(store, REASON, expected=second)
    assert [move.version for move in read_moves(store)] == [first]


def test_one_of_many_promoters_wins(store: str, tmp_path: Path) -> None:
    first, *challengers = publish(store, tmp_path, *(b"%d" % n for n in range(NUM_PROMOTERS + 1)))
    promote_version(store, first, REASON)
    results: list[str] = []
    barrier = threading.Barrier(NUM_PROMOTERS)

    def challenge(name: str) -> None:
        barrier.wait()
        try:
            results.append(promote_version(store, name, REASON, expected=first).champion)
        except CheckFailedError:
            results.append("lost")

    threads = [threading.Thread(target=challenge, args=(name,)) for name in challengers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [result for result in results if result != "lost"]
    assert len(results) == NUM_PROMOTERS
    assert winners == [read_moves(store)[-1].version]
    assert len(read_moves(store)) == 2


def test_interrupted_promotion_leaves_the_champion(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = publish(store, tmp_path, b"a", b"b")
    promote_version(store, first, REASON)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            target = f"os.{name}" if name == "fsync" else "pathlib.Path.replace"
            patch.setattr(target, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                promote_version(store, second, REASON)
        assert [move.version for move in read_moves(store)] == [first]
    assert promote_version(store, second, REASON).champion == second


def test_version_that_is_not_whole_is_not_promoted(store: str, tmp_path: Path) -> None:
    first, second = publish(store, tmp_path, b"a", b"b")
    delete_version(store, second)
    half = Path(publish_folder(make_source(tmp_path / "half").model, f"{store}/versions"))
    (half / "contents.json").unlink()
    for name in (second, half.name):
        with pytest.raises(DataError, match="must hold version .* whole"):
            promote_version(store, name, REASON)
    promote_version(store, first, REASON)


def test_old_versions_are_deleted_but_champion_and_predecessor(store: str, tmp_path: Path) -> None:
    names = publish(store, tmp_path, b"a", b"b", b"c", b"d", b"e")
    promote_version(store, names[2], REASON)
    promote_version(store, names[0], REASON)
    assert delete_old_versions(store, keep=1) == [names[1], names[3]]
    assert published_names(store) == [names[0], names[2], names[4]]
    assert roll_back_champion(store, REASON).champion == names[2]
    assert delete_old_versions(store, keep=1) == [names[0]]
    assert delete_old_versions(store, keep=9) == []


def test_version_that_is_promoted_while_others_are_deleted_stays(
    any_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = any_store
    old, middle, new = publish(store, tmp_path, b"a", b"b", b"c")
    promote_version(store, new, REASON)
    hide = champion.hide_version

    def promote_and_hide(store: str, name: str) -> bytes:
        # Somebody has looked at the version and moves the champion right before it is hidden.
        if name == middle:
            promote_version(store, middle, REASON)
        return hide(store, name)

    monkeypatch.setattr(champion, "hide_version", promote_and_hide)
    assert delete_old_versions(store, keep=1) == [old]
    assert published_names(store) == [middle, new]
    fetch_version(store, middle, tmp_path / "served")


def test_version_whose_name_has_other_content_is_refused(store: str, tmp_path: Path) -> None:
    first, second = publish(store, tmp_path, b"a", b"b")
    folder = Path(store, "versions")
    contents = (folder / first / "contents.json").read_bytes()
    (folder / second / "contents.json").write_bytes(contents)
    with pytest.raises(DataError, match=r"contents.json: must list the files that the folder is"):
        promote_version(store, second, REASON)
    with pytest.raises(DataError, match="somebody has changed it. Remove the folder"):
        publish(store, tmp_path / "again", b"b")
    assert read_moves(store) == []
