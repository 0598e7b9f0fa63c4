"""Checkpoints in a prefix: whole or not at all, the newest K, and one attempt that may write."""

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.storage import exists, list_files, put
from dynamicpo.training.checkpoints.attempts import Attempt

REQUEST = Manifest("sft", {"epochs": 1.0}, {"preferences": "abc"})


def begun(root: str, keep: int = 2, request: Manifest = REQUEST) -> Attempt:
    attempt = Attempt(root, request, keep)
    attempt.begin()
    return attempt


def save(attempt: Attempt, text: str) -> None:
    with attempt.new_checkpoint() as folder:
        (folder / "state.json").write_text(text)


def contents(attempt: Attempt) -> list[str]:
    return [(folder / "state.json").read_text() for folder in attempt.whole_checkpoints()]


def published(attempt: Attempt) -> set[str]:
    names = {uri.removeprefix(f"{attempt.prefix}/") for uri in list_files(attempt.prefix)}
    return {name.partition("/")[0] for name in names} - {"attempts"}


def test_a_later_attempt_finds_the_newest_checkpoint_first(any_store: str) -> None:
    first = begun(any_store)
    assert contents(first) == []
    save(first, "1")
    save(first, "2")
    assert contents(begun(any_store)) == ["2", "1"]


def test_another_configuration_has_another_place(any_store: str) -> None:
    save(begun(any_store), "1")
    other = Manifest("sft", {"epochs": 2.0}, {"preferences": "abc"})
    assert contents(begun(any_store, request=other)) == []


def test_the_newest_ones_are_kept(any_store: str) -> None:
    attempt = begun(any_store, keep=2)
    for number in range(5):
        save(attempt, str(number))
        assert len(published(attempt)) == min(number + 1, 2)
    assert contents(attempt) == ["4", "3"]


def test_success_leaves_nothing_and_failure_the_checkpoints(any_store: str) -> None:
    attempt = begun(any_store)
    save(attempt, "1")
    attempt.give_up()
    assert contents(begun(any_store)) == ["1"]
    later = begun(any_store)
    later.end()
    assert not exists(any_store)
    nothing_saved = begun(any_store)
    nothing_saved.give_up()
    assert not exists(any_store)


def test_finished_shards_stay_until_success(any_store: str, tmp_path: Path) -> None:
    (tmp_path / "shard").write_text("some rows")
    first = begun(any_store)
    put(tmp_path / "shard", f"{first.shards}/model/listed/shard")
    # Of a failure, and of a process that was killed.
    first.give_up()
    later = begun(any_store)
    assert later.shards == first.shards and exists(f"{later.shards}/model/listed/shard")
    later.end()
    assert not exists(later.prefix)


def test_an_older_attempt_that_lives_on_is_fenced_off(any_store: str) -> None:
    older = begun(any_store)
    save(older, "1")
    later = begun(any_store)
    for use in (lambda: save(older, "2"), older.check_owner, older.end):
        with pytest.raises(DataError, match="one attempt at a time .* a later one has taken over"):
            use()
    older.give_up()
    save(later, "3")
    assert contents(later) == ["3", "1"]


def test_an_older_attempt_is_fenced_off_in_the_middle_of_its_write(any_store: str) -> None:
    older = begun(any_store)
    with pytest.raises(DataError, match="a later one has taken over"):  # noqa: PT012
        with older.new_checkpoint() as folder:
            (folder / "state.json").write_text("1")
            later = begun(any_store)
    assert contents(later) == [] and published(later) == set()


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    any_store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attempt = begun(any_store)
    save(attempt, "1")
    save(attempt, "2")
    (tmp_path / "damage").write_text("X")
    newest = next(iter(reversed(attempt._saved)))
    put(tmp_path / "damage", f"{newest}/state.json")
    with caplog.at_level(logging.WARNING):
        assert contents(begun(any_store)) == ["1"]
    assert "not whole, the checkpoint before it is taken" in caplog.text
    assert newest in caplog.text


@pytest.mark.parametrize("listed", ["", "{}", "[]", "{", '{"state.json": 1}', "\xff"])
def test_a_damaged_list_of_files_is_passed_over(tmp_path: Path, listed: str) -> None:
    attempt = begun(str(tmp_path))
    save(attempt, "1")
    save(attempt, "2")
    Path(attempt._saved[-1], "contents.json").write_bytes(listed.encode("latin1"))
    assert contents(begun(str(tmp_path))) == ["1"]


def test_what_killed_attempts_left_is_removed(any_store: str, tmp_path: Path) -> None:
    attempt = begun(any_store)
    save(attempt, "1")
    (tmp_path / "half").write_text("half of an upload")
    put(tmp_path / "half", f"{attempt.prefix}/0123/weights.safetensors")
    later = begun(any_store)
    assert published(later) == published(attempt) and len(published(later)) == 1
    assert contents(later) == ["1"]


def test_a_relative_place_is_the_same_one_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    attempt = begun("./here")
    monkeypatch.chdir("/")
    save(attempt, "1")
    assert contents(begun(str(tmp_path / "here"))) == ["1"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this account can't mount anything")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_clear_error_and_leaves_the_last_checkpoint(small_disk: Path) -> None:
    attempt = begun(str(small_disk))
    save(attempt, "1")
    with pytest.raises(DataError, match="room for a checkpoint, but No space left on device.*"):
        save(attempt, "x" * 2_000_000)
    # Nothing of it is left that would take the room of the next one.
    save(attempt, "2" * 100_000)
    assert [len(text) for text in contents(begun(str(small_disk)))] == [100_000, 1]


def test_a_place_that_can_not_be_written_is_one_clear_error(tmp_path: Path) -> None:
    # No account can make a folder there.
    with pytest.raises(DataError, match="/proc/nothing/sft-.*must be readable and writable"):
        begun("/proc/nothing")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match="must be readable and writable"):
        begun(str(tmp_path / "file"))
    assert os.listdir(tmp_path) == ["file"]
