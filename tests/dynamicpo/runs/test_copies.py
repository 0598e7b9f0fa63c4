"""A run's artifacts are its own: no edit in one run reaches another or the cache."""

import stat
from pathlib import Path

import pytest

from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.outputs import stage_output
from dynamicpo.runs.local import copies
from dynamicpo.runs.local.copies import copy_tree
from dynamicpo.runs.local.kfp_internals import TaskResult
from dynamicpo.runs.local.tasks import changed_output


class Output:
    """An artifact, as far as runs look at it."""

    def __init__(self, folder: Path) -> None:
        """Take its folder."""
        self.uri = str(folder)
        self.metadata: dict[str, float] = {}


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / "model"
    with stage_output(folder, Manifest("stage", {}, {})) as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "weights").write_text("weights")
    return folder


def test_edit_in_one_run_changes_no_other(cached: Path, tmp_path: Path) -> None:
    copy_tree(cached, tmp_path / "one")
    copy_tree(cached, tmp_path / "two")
    (tmp_path / "one" / "deep" / "weights").write_text("edited")
    assert (cached / "deep" / "weights").read_text() == "weights"
    assert (tmp_path / "two" / "deep" / "weights").read_text() == "weights"


def test_single_file_is_copied(cached: Path, tmp_path: Path) -> None:
    copy_tree(cached / "deep" / "weights", tmp_path / "new" / "weights")
    assert (tmp_path / "new" / "weights").read_text() == "weights"


def test_large_file_is_one_that_nobody_writes_to(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "LARGE_BYTES", 1)
    monkeypatch.setattr(copies, "_shares_blocks", lambda _, target: Path(target).touch())
    copy_tree(cached, tmp_path / "one")
    weights = tmp_path / "one" / "deep" / "weights"
    assert weights.samefile(cached / "deep" / "weights")
    assert not weights.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def test_changed_cache_is_found(cached: Path) -> None:
    outputs = TaskResult({"model": Output(cached), "uri": "text"}, succeeded=True).outputs
    assert changed_output(outputs) == ""
    (cached / "deep" / "weights").write_text("edited")
    problem = changed_output(outputs)
    assert problem.startswith("the cache of earlier runs was changed: ")
    assert "deep/weights" in problem
