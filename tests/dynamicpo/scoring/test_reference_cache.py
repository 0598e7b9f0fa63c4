"""The cache of reference log-probabilities: used when it fits, not when stale or damaged."""

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from safetensors.torch import load_file, save_file

from dynamicpo.core.records.rows import Row
from dynamicpo.scoring import reference_cache
from dynamicpo.scoring.reference_cache import reference_logps
from dynamicpo.scoring.shared_prefix import score_rows
from dynamicpo.scoring.tensor_files import file_metadata
from tests.fixtures.scoring import random_rows, tiny_model

KEY = {"model": "a", "preferences": "b", "prompts": "c"}


@pytest.fixture
def computed(monkeypatch):
    """Numbers of rows that were scored, call by call."""
    calls = []

    def counting(model, rows, **settings):
        calls.append(len(rows))
        return score_rows(model, rows, **settings)

    monkeypatch.setattr(reference_cache, "score_rows", counting)
    return calls


def suffixes_in(folder):
    return sorted(path.suffix for path in folder.iterdir())


def test_the_second_time_nothing_is_computed(tmp_path, computed):
    model, rows = tiny_model(), random_rows(5, 3)
    first = reference_logps(model, rows, str(tmp_path / "cache"), KEY)
    assert torch.equal(first, score_rows(model, rows))
    assert torch.equal(
        reference_logps(model, rows, str(tmp_path / "cache"), dict(reversed(KEY.items()))), first
    )
    assert computed == [5]
    assert suffixes_in(tmp_path / "cache") == [".lock", ".safetensors"]


def test_two_runs_at_once_compute_it_once(tmp_path, monkeypatch, caplog):
    model, rows, calls = tiny_model(), random_rows(5, 3), []
    begun, goes_on = Event(), Event()

    def slow(model, rows, **settings):
        calls.append(len(rows))
        begun.set()
        assert goes_on.wait(60)
        return score_rows(model, rows, **settings)

    def waiting(record):
        if "waiting" in record.getMessage():
            goes_on.set()
        return True

    monkeypatch.setattr(reference_cache, "score_rows", slow)
    caplog.handler.addFilter(waiting)
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(2) as pool:
        first = pool.submit(reference_logps, model, rows, str(tmp_path), KEY)
        assert begun.wait(60)
        second = pool.submit(reference_logps, model, rows, str(tmp_path), KEY)
        assert torch.equal(first.result(), second.result())
    assert calls == [5]
    assert suffixes_in(tmp_path) == [".lock", ".safetensors"]


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    model, rows = tiny_model(), random_rows(5, 3)
    for number in range(8):
        reference_logps(model, rows, str(tmp_path / str(number)), KEY)
    assert len({path.read_bytes() for path in tmp_path.rglob("*.safetensors")}) == 1


@pytest.mark.parametrize("part", KEY)
def test_another_fingerprint_is_computed_anew(tmp_path, computed, part):
    model, rows = tiny_model(), random_rows(5, 3)
    reference_logps(model, rows, str(tmp_path), KEY)
    reference_logps(model, rows, str(tmp_path), {**KEY, part: "other"})
    assert computed == [5, 5]


def test_other_rows_are_computed_anew(tmp_path, computed):
    model, rows = tiny_model(), random_rows(5, 3)
    reference_logps(model, rows, str(tmp_path), KEY)
    for changed in (
        rows[:4],
        rows[::-1],
        [*rows[:4], Row(rows[4].prompt_ids, rows[4].answer_ids[::-1])],
    ):
        assert torch.equal(
            reference_logps(model, changed, str(tmp_path), KEY), score_rows(model, changed)
        )
    assert computed == [5, 4, 5, 5]


@pytest.mark.parametrize("damage", ["number", "key", "shape", "cut", "empty", "other"])
def test_a_damaged_file_is_computed_anew(tmp_path, computed, damage, caplog):
    model, rows = tiny_model(), random_rows(5, 3)
    expected = reference_logps(model, rows, str(tmp_path), KEY)
    (path,) = tmp_path.glob("*.safetensors")
    content = path.read_bytes()
    if damage == "number":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "key":
        path.write_bytes(content.replace(b"model", b"other"))
        assert path.read_bytes() != content
    elif damage == "shape":
        tensors = {"logps": expected[:2].clone()}
        metadata = file_metadata(reference_cache.full_key(rows, KEY), tensors)
        save_file(tensors, path, metadata=metadata)
    elif damage == "other":
        save_file({"something": expected}, path)
    else:
        path.write_bytes(content[:-7] if damage == "cut" else b"")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(reference_logps(model, rows, str(tmp_path), KEY), expected)
    assert computed == [5, 5]
    assert "computed anew" in caplog.text
    assert torch.equal(load_file(path)["logps"], expected), "the file is mended"
    reference_logps(model, rows, str(tmp_path), KEY)
    assert computed == [5, 5]


def test_a_failure_leaves_no_file(tmp_path, monkeypatch):
    def broken(model, rows, **settings):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(reference_cache, "score_rows", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        reference_logps(tiny_model(), random_rows(2, 2), str(tmp_path), KEY)
    assert suffixes_in(tmp_path) == [".lock"]


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    model, rows = tiny_model(), random_rows(2, 2)
    with caplog.at_level(logging.WARNING):
        logps = reference_logps(model, rows, str(tmp_path / "file"), KEY)
    assert torch.equal(logps, score_rows(model, rows))
    assert "are not kept" in caplog.text


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    model, rows = tiny_model(), random_rows(5, 3)
    cache = tmp_path / "cache"
    reference_logps(model, rows, str(cache), KEY)
    (path,) = cache.glob("*.safetensors")
    path.rename(cache / f".{path.name}.12345678")
    reference_logps(model, rows, str(cache), KEY)
    assert suffixes_in(cache) == [".lock", ".safetensors"]


def test_file_has_the_mode_of_new_files(tmp_path):
    reference_logps(tiny_model(), random_rows(5, 3), str(tmp_path / "cache"), KEY)
    (tmp_path / "new").touch()
    (path,) = (tmp_path / "cache").glob("*.safetensors")
    assert path.stat().st_mode == (tmp_path / "new").stat().st_mode
