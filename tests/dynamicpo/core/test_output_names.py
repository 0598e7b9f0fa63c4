"""Outputs that can't be made are refused, and those that were made are never deleted."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from dynamicpo.core import claims
from dynamicpo.core.config import DataConfig, NegativesConfig, SFTConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records import partial_folders
from dynamicpo.core.records.manifest import read_input
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.rows import read_columns, write_rows
from dynamicpo.data.prepare import prepare_data
from dynamicpo.negatives.sampling import sample_negatives
from dynamicpo.runs.local.run import run_pipeline
from dynamicpo.training.sft import fine_tune
from tests.conftest import ROOT
from tests.fixtures.models import write_tiny_llm
from tests.fixtures.outputs import make, manifest, names

FIXTURES = ROOT / "tests" / "fixtures"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("s3://bucket/out", "s3:/bucket/out: must be a folder of this machine, but it is an addr"),
        ("file:///tmp/out", "but it is an address"),
        (os.fsdecode(b"out\xff"), r"'out\\udcff': must be a name of characters in UTF-8"),
    ],
)
def test_name_of_no_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=problem):
        finished(Path(name), manifest())
    with pytest.raises(DataError, match=problem), stage_output(Path(name), manifest()):
        pytest.fail("the work began")
    assert names(tmp_path) == []


def test_relative_name_with_a_colon_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = pa.table({"x": [1]})
    with stage_output(Path("run:1/out"), manifest()) as partial:
        write_rows(partial, "train", table)
    assert read_columns(Path("run:1/out/train/part-00000.parquet"), table.schema) == table


def test_run_within_a_finished_output_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "first")
    with pytest.raises(DataError, match="must not lie in the finished output"):
        run_pipeline("training", {"data_source": "movielens"}, tmp_path / "first" / "run")
    assert read_input(tmp_path / "first") is not None


def test_output_within_an_input_is_refused(tmp_path: Path, data: Path) -> None:
    output = data / "out"
    config = DataConfig(k_core=1)
    with pytest.raises(DataError, match="out: must not lie in the input .*data, which would ch"):
        prepare_data(str(data), str(FIXTURES / "items.csv"), output, config)
    assert names(data) == ["interactions.csv"]
    prepare_data(str(data), str(FIXTURES / "items.csv"), tmp_path / "examples", config)
    sample_negatives(tmp_path / "examples", tmp_path / "rows", NegativesConfig(num_candidates=6))
    base = write_tiny_llm(tmp_path / "base")
    with pytest.raises(DataError, match="must not lie in the input .*base"):
        fine_tune(tmp_path / "rows", base / "sft", SFTConfig(backbone=str(base)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(FIXTURES / "interactions.csv", folder)
    return folder


def test_output_that_another_process_has_just_made_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    claimed = claims.claimed

    @contextmanager
    def late_claim(path: Path, what: str) -> Iterator[None]:
        with claimed(path, what):
            output.mkdir()
            (output / "file").touch()
            yield

    monkeypatch.setattr(partial_folders, "claimed", late_claim)
    with pytest.raises(DataError, match="must not exist yet"), stage_output(output, manifest()):
        pytest.fail("the work began")


# What was made is not lost.


def test_finished_work_stays_where_no_name_can_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def refused(path: Path, target: Path) -> Path:
        if target.parent == tmp_path:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(DataError, match="It is complete in (.*); move it") as caught:
        make(tmp_path / "out")
    kept = Path(str(caught.value).partition("complete in ")[2].partition(";")[0])
    assert read_input(kept).files.keys() == {"file"}
    # The next process of the same output gives it a name that is seen.
    monkeypatch.undo()
    make(tmp_path / "out")
    (name,) = (name for name in names(tmp_path) if name != "out")
    assert name.startswith("out.finished-")
    assert read_input(tmp_path / name).files.keys() == {"file"}


def test_mount_without_modes_loses_no_finished_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "chmod", refused)
    make(tmp_path / "out")
    assert read_input(tmp_path / "out").files.keys() == {"file"}


def test_leftovers_of_other_outputs_are_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / ".out.partial-b.partial-01234567"
    own = tmp_path / ".out.partial-01234567"
    for folder in (foreign, own):
        folder.mkdir()
    make(tmp_path / "out")
    assert names(tmp_path) == [foreign.name, "out"]
