"""Places of checkpoints that would be taken for something else are refused before any work."""

from pathlib import Path

import pytest

from dynamicpo.core.config_checkpoints import NO_CHECKPOINTS, CheckpointConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.training.checkpoints.saving import resumable_output


def make(output: Path, place: str) -> list[str]:
    """Make an output, and list what lies beside it meanwhile."""
    with resumable_output(output, Manifest("sft", {}, {}), CheckpointConfig(checkpoints=place)):
        return sorted(path.name for path in output.parent.iterdir() if "partial" not in path.name)


@pytest.mark.parametrize("place", ["out", "out/kept", "data/kept", "~/kept", "hdfs://host/kept"])
def test_such_a_place_is_refused(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").touch()
    with pytest.raises(DataError):
        make(tmp_path / "out", place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "manifest.json"]


def test_by_default_they_lie_beside_the_output(tmp_path: Path) -> None:
    assert ".out.checkpoints" in make(tmp_path / "out", "")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_training_may_have_none(tmp_path: Path) -> None:
    assert make(tmp_path / "out", NO_CHECKPOINTS) == [".out.claim"]
