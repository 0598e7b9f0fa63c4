"""Trainings that are killed go on, and end with the bytes of one that was never interrupted."""

import dataclasses
import json
import logging
import os
import subprocess
from pathlib import Path

import pytest

from dynamicpo.cli.main import main
from dynamicpo.core.records.manifest import Manifest, config_dict, read_manifest
from dynamicpo.core.storage import exists
from tests.fixtures.killed_trainings import (
    INTERVALS,
    MOMENTS,
    SFT,
    TERMINATED,
    command_of,
    run,
    run_killed,
    run_process,
    trained_adapter,
)
from tests.fixtures.sampled_rows import sampled_rows
from tests.fixtures.tables import write_tables

pytestmark = pytest.mark.training
stages = pytest.mark.parametrize("stage", ["sft", "preference"])


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    return sampled_rows(folder, *write_tables(folder))


@pytest.fixture(scope="module")
def adapter(preferences: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with dropout, on another kind of model than that of the SFT tests."""
    return trained_adapter(preferences, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def uninterrupted(
    preferences: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Manifest]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    manifests = {}
    for stage in INTERVALS:
        manifests[stage] = run(stage, preferences, adapter, folder / stage, "")
    return manifests


def check_same(output: Path, expected: Manifest) -> None:
    found = read_manifest(output)
    # Every file: weights, metrics of each step, the page.
    assert found.files == expected.files and found.fingerprint == expected.fingerprint


@stages
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_training_ends_with_the_bytes_of_an_uninterrupted_one(
    moment: str,
    stage: str,
    preferences: Path,
    adapter: Path,
    uninterrupted: dict[str, Manifest],
    tmp_path: Path,
    s3_store: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    is_remote = moment == "uploading"
    place = f"{s3_store}/{tmp_path.name}-{stage}" if is_remote else str(tmp_path / "kept")
    paths = (preferences, adapter, tmp_path / "output", place)
    run_killed(moment, stage, *paths)
    assert not (tmp_path / "output").exists()
    num_saved = {"before the first": 0, "final save": 2}.get(moment, 1)
    with caplog.at_level(logging.INFO):
        run(stage, *paths)
    position = f"going on from step {num_saved * INTERVALS[stage]} of 12"
    assert (position in caplog.text) == bool(num_saved)
    check_same(tmp_path / "output", uninterrupted[stage])
    assert not exists(place)


def test_a_training_that_is_never_interrupted_has_the_same_bytes_with_checkpoints(
    preferences: Path, adapter: Path, uninterrupted: dict[str, Manifest], tmp_path: Path
) -> None:
    for stage in INTERVALS:
        run(stage, preferences, adapter, tmp_path / stage, str(tmp_path / "kept"))
        check_same(tmp_path / stage, uninterrupted[stage])


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(
    preferences: Path,
    adapter: Path,
    uninterrupted: dict[str, Manifest],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    paths = (preferences, adapter, tmp_path / "output", str(tmp_path / "kept"))
    run_killed("final save", "sft", *paths)
    checkpoints = (tmp_path / "kept").glob("*/*/weights.safetensors")
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime_ns)
    with newest.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"X")
    with caplog.at_level(logging.INFO):
        run("sft", *paths)
    assert f"{newest.parent}: not whole, the checkpoint before it is taken" in caplog.text
    assert "going on from step 4 of 12" in caplog.text
    check_same(tmp_path / "output", uninterrupted["sft"])


@stages
def test_sigterm_ends_the_step_saves_and_exits_with_143(
    stage: str,
    preferences: Path,
    adapter: Path,
    uninterrupted: dict[str, Manifest],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    paths = (preferences, adapter, tmp_path / "output", str(tmp_path / "kept"))
    ended = run_process(TERMINATED, stage, *paths)
    assert ended.code == 143, ended.log[-3000:]
    assert "checkpoint at step 3" in ended.log and "Traceback" not in ended.log
    assert not list(tmp_path.glob("*output*"))
    with caplog.at_level(logging.INFO):
        run(stage, *paths)
    assert "going on from step 3 of 12" in caplog.text
    check_same(tmp_path / "output", uninterrupted[stage])


def test_a_place_that_can_not_be_used_is_one_line(
    preferences: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Not even root can make a folder there.
    command = command_of("sft", preferences, adapter, tmp_path / "output", "/proc/nothing")
    assert main(command) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "dynamicpo:" in text]
    assert "/proc/nothing/sft-" in line and "must be readable and writable" in line
    assert not list(tmp_path.glob("*output*"))


def test_a_checkpoint_of_another_configuration_is_one_line(
    preferences: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "kept"
    run_killed("computing", "sft", preferences, adapter, tmp_path / "output", str(place))
    command = command_of("sft", preferences, adapter, tmp_path / "output", str(place))
    other = [*command, "--learning-rate", "0.5"]
    # By hand, to where the other configuration looks for its own.
    asked = Manifest("sft", config_dict(dataclasses.replace(SFT, learning_rate=0.5)), {})
    (found,) = place.iterdir()
    state = json.loads(next(found.glob("*/state.json")).read_text())
    asked.inputs = state["inputs"]
    found.rename(place / f"sft-{asked.cause}")
    chain = sorted((place / f"sft-{asked.cause}" / "attempts").glob("0*.json"))
    chain[-1].write_text(chain[-1].read_text().replace(found.name, f"sft-{asked.cause}"))
    assert main(other) == 2
    error = capsys.readouterr().err
    assert "differs in learning_rate (0.0, asked for 0.5)" in error and "Traceback" not in error
    assert not (tmp_path / "output").exists()


def test_a_disk_that_fills_up_is_one_line_and_the_training_goes_on_later(
    preferences: Path,
    adapter: Path,
    uninterrupted: dict[str, Manifest],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    size = "size=64k"
    command = ["mount", "-t", "tmpfs", "-o", size, "none", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this account can't mount anything")
    try:
        paths = (preferences, adapter, tmp_path / "output", str(disk))
        arguments = [*command_of("sft", *paths), "--checkpoint-steps", "4"]
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert "room for a checkpoint, but No space left on device" in error
        assert "Traceback" not in error and not list(tmp_path.glob("*output*"))
        # More room, and the same command.
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert main(arguments) == 0
        check_same(tmp_path / "output", uninterrupted["sft"])
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
