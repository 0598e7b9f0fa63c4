"""Finished shards of scoring: taken after a kill, computed again where they are damaged."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage import exists, fetch, list_files
from dynamicpo.scoring import generation, reference_cache, shared_prefix
from dynamicpo.scoring.shards import LongWork, ScoredRows, Shards
from dynamicpo.scoring.tensor_files import read_tensors, write_tensors
from tests.fixtures.killed_scoring import (
    KEY,
    NUM_ROWS,
    counted_rows,
    reference_rows,
    run_killed_scoring,
    score_reference,
)
from tests.fixtures.scoring import tiny_model

COUNT = Callable[..., list[int]]
LIKE = {"logps": torch.zeros(0, 3)}


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> COUNT:
    """`counted_rows`, taken back after the test."""
    for module, name in (
        (shared_prefix, "_turn_logps"),
        (shared_prefix, "_BATCHES_OF_TURN"),
        (reference_cache, "_SHARD_SECONDS"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    return counted_rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The cache's file of a scoring that was never interrupted, and kept no shards."""
    cache = tmp_path_factory.mktemp("whole")
    reference_cache.reference_logps(
        tiny_model(), reference_rows(), str(cache), KEY, token_budget=128
    )
    (path,) = cache.glob("*.safetensors")
    return path.read_bytes()


def stop_after(turns: int) -> Callable[[int], None]:
    def stop(turn: int) -> None:
        if turn == turns:
            raise RuntimeError("enough")

    return stop


def file_of(cache: str, folder: Path) -> bytes:
    (uri,) = [uri for uri in list_files(cache) if uri.endswith(".safetensors")]
    return fetch(uri, folder).read_bytes()


@pytest.mark.parametrize("is_remote", [False, True], ids=["folder", "object store"])
def test_scoring_that_is_killed_goes_on_from_its_shards(
    is_remote: bool, tmp_path: Path, s3_store: str, whole: bytes, count: COUNT
) -> None:
    cache = f"{s3_store}/{tmp_path.name}" if is_remote else str(tmp_path / "cache")
    run_killed_scoring(cache, turns=2)
    assert sum(".shards/" in uri for uri in list_files(cache)) == 2
    counts = count()
    score_reference(cache)
    assert 0 < sum(counts) < NUM_ROWS
    # The same bytes, and nothing else is left.
    assert file_of(cache, tmp_path) == whole
    assert not [uri for uri in list_files(cache) if ".shards" in uri]


@pytest.mark.parametrize("damage", ["number", "cut", "key", "shape", "rows", "other"])
def test_a_damaged_shard_is_computed_again(
    damage: str, tmp_path: Path, whole: bytes, count: COUNT, caplog: pytest.LogCaptureFixture
) -> None:
    counts = count(stop_after(3))
    with pytest.raises(RuntimeError, match="enough"):
        score_reference(str(tmp_path))
    first, second, _ = sorted(tmp_path.glob("*.shards/*"), key=lambda path: path.stat().st_mtime_ns)
    num_known = sum(counts) - counts[1]
    _damage(second, damage)
    again = count()
    with caplog.at_level(logging.WARNING):
        score_reference(str(tmp_path))
    assert "computed anew" in caplog.text and second.name in caplog.text
    assert first.name not in caplog.text
    # Those of the shards before and after it are taken.
    assert sum(again) == NUM_ROWS - num_known
    assert file_of(str(tmp_path), tmp_path) == whole


def _damage(path: Path, damage: str) -> None:
    content = path.read_bytes()
    key = reference_cache.full_key(reference_rows(), KEY)
    tensors = read_tensors(path, key)
    if damage == "number":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(content[:-7])
    elif damage == "key":
        write_tensors(path, "another", tensors)
    elif damage == "shape":
        write_tensors(path, key, {**tensors, "logps": tensors["logps"][:, :2]})
    elif damage == "rows":
        write_tensors(path, key, {**tensors, "row_numbers": tensors["row_numbers"] + NUM_ROWS})
    else:
        write_tensors(path, key, {"logps": tensors["logps"]})


def rows(*numbers: int) -> ScoredRows:
    column: Tensor = torch.tensor(numbers, dtype=torch.float32)
    return ScoredRows(torch.tensor(numbers), {"logps": column[:, None].repeat(1, 3)})


def test_a_shard_is_written_when_it_is_time_to(tmp_path: Path) -> None:
    shards = Shards(str(tmp_path / "shards"), "key", every_seconds=3600)
    shards.add(rows(0, 1))
    assert not exists(str(tmp_path / "shards"))
    shards._last_seconds -= 3600
    shards.add(rows(2))
    found = Shards(str(tmp_path / "shards"), "key", 0).finished(4, LIKE)
    # All rows since the last shard, that is, since the start.
    assert found.numbers.tolist() == [0, 1, 2]
    assert torch.equal(found.columns["logps"], rows(0, 1, 2).columns["logps"])
    assert len(Shards(str(tmp_path / "none"), "key", 0).finished(4, LIKE)) == 0


def test_rows_of_two_processes_that_worked_at_once_are_taken_once(tmp_path: Path) -> None:
    for numbers in ((0, 1), (1, 2), (3,)):
        Shards(str(tmp_path), "key", 0).add(rows(*numbers))
    assert Shards(str(tmp_path), "key", 0).finished(4, LIKE).numbers.tolist() == [0, 1, 3]


def test_a_place_that_cannot_be_written_costs_the_shards_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    shards = Shards(str(tmp_path / "file"), "key", 0)
    for number in range(3):
        shards.add(rows(number))
    shards.finished(4, LIKE)
    assert caplog.text.count("are not kept") == 1
    assert (tmp_path / "file").read_text() == "in the way"


def test_who_lost_the_place_writes_nothing_there(tmp_path: Path) -> None:
    def refuse() -> None:
        raise DataError("taken over")

    with pytest.raises(DataError, match="taken over"):
        Shards(str(tmp_path / "shards"), "key", 0, refuse).add(rows(0))
    assert not exists(str(tmp_path / "shards"))


def test_the_last_shard_is_written_unless_it_is_little_work(tmp_path: Path) -> None:
    for name, waited, num_kept in (("quick", 0, 0), ("long", 60, 2)):
        shards = Shards(str(tmp_path / name), "key", every_seconds=600)
        shards.add(rows(0, 1))
        shards._last_seconds -= waited
        shards.finish()
        assert len(Shards(str(tmp_path / name), "key", 0).finished(4, LIKE)) == num_kept


def test_generated_answers_are_taken_from_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = reference_rows()[:6]

    def generated() -> list[list[int]]:
        work = LongWork("generating", Shards(str(tmp_path / "shards"), "key", 0))
        return generation.generate_answers(tiny_model(), [1], prompts, token_budget=30, work=work)

    expected = generation.generate_answers(tiny_model(), [1], prompts, token_budget=30)
    generate = generation._generate
    sizes = []

    def counting(model: object, ends: object, requests: list[object]) -> list[list[int]]:
        if len(sizes) == 2:
            raise RuntimeError("enough")
        sizes.append(len(requests))
        return generate(model, ends, requests)

    monkeypatch.setattr(generation, "_generate", counting)
    with pytest.raises(RuntimeError, match="enough"):
        generated()
    num_known = sum(sizes)
    sizes = [0]
    with pytest.raises(RuntimeError, match="enough"):
        generated()
    monkeypatch.setattr(generation, "_generate", generate)
    assert generated() == expected and 0 < num_known + sum(sizes) < len(prompts)
    monkeypatch.setattr(generation, "_generate", None)
    assert generated() == expected
