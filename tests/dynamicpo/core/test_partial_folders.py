"""Outputs appear whole and in one place, whatever the disk, other processes or mounts do."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamicpo.core.errors import DataError
from dynamicpo.core.records import partial_folders
from dynamicpo.core.records.manifest import read_input
from dynamicpo.core.records.outputs import finished, stage_output
from tests.dynamicpo.core.processes import Process, lines_of, start
from tests.fixtures.outputs import make, manifest, names

# What can't be put in place is refused before the work.


def check_refused(output: Path, match: str) -> None:
    with pytest.raises(DataError, match=match):
        finished(output, manifest())
    with pytest.raises(DataError, match=match), stage_output(output, manifest()):
        pytest.fail("the work began")


def test_link_to_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "out").symlink_to("target")
    check_refused(tmp_path / "out", r"out: must be a folder, but it is a symbolic link.*target")


def test_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_refused(Path(), "but it is the current one. Name a folder in it, such as output")


def test_home_folder_of_shells_is_refused() -> None:
    check_refused(Path("~/out"), rf"~/out: must be the folder itself.*Write {Path.home()}/out")


def test_mount_point_is_refused(tmp_path: Path, mounted: Path) -> None:
    check_refused(mounted, "must be writable and replaceable, but .*busy")
    make(mounted / "out")
    assert read_input(mounted / "out") is not None


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "mounted"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this account can't mount anything")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_output_within_a_finished_output_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "first")
    check_refused(tmp_path / "first" / "out", "must not lie in the finished output .*first")


def test_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    make(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "content"


# What was made is not lost.


def test_finished_work_is_kept_where_it_cannot_be_put_in_place(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(DataError, match="It is complete in (.*); move it") as caught:
        with stage_output(output, manifest()) as partial:
            (partial / "file").write_text("content")
            output.mkdir()
            (output / "foreign").touch()
    kept = Path(str(caught.value).partition("complete in ")[2].partition(";")[0])
    assert read_input(kept).files.keys() == {"file"}
    make(tmp_path / "other")
    assert names(tmp_path) == ["other", "out", kept.name]


# Disks fill up.

WRITERS = {
    "text": "(partial / 'file').write_text('x' * 300_000)",
    "parquet": """
        import numpy, pyarrow.parquet
        table = pyarrow.table({"x": numpy.random.default_rng(0).random(100_000)})
        pyarrow.parquet.write_table(table, partial / "file.parquet")
        """,
    "safetensors": """
        import numpy, safetensors.numpy
        array = numpy.zeros(100_000)
        safetensors.numpy.save_file({"x": array}, partial / "file.safetensors")
        """,
}


@pytest.mark.parametrize("name", WRITERS)
def test_disk_that_is_full_is_one_line(tmp_path: Path, name: str) -> None:
    # The limit of a file's size fails in the same call as a full disk does.
    writer = textwrap.indent(textwrap.dedent(WRITERS[name]).strip(), "    ")
    code = f"""
import resource, sys
from pathlib import Path
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.outputs import stage_output
output = Path(sys.argv[1])
try:
  with stage_output(output, Manifest("stage", {{}}, {{}})) as partial:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
{writer}
except DataError as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True
    )
    assert ran.stderr == ""
    assert ran.stdout.startswith(f"{tmp_path}/out: must be writable to its end, but File too large")
    assert names(tmp_path) == []


def test_disk_that_is_full_is_told_from_a_fault_of_ours(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="other"), stage_output(tmp_path / "out", manifest()):
        raise OSError("other")


# One process makes an output.

HOLD = """
import sys, time
from pathlib import Path
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.outputs import stage_output
with stage_output(Path(sys.argv[1]), Manifest("stage", {}, {})) as partial:
    (partial / "file").write_text("first")
    print("writing", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Process]:
    with start(HOLD, tmp_path / "out") as process:
        assert lines_of(process, 1) == ["writing"]
        yield process


def test_second_process_is_refused_before_its_work(tmp_path: Path, holder: Process) -> None:
    busy = rf"out: must be made by one process at a time.*\(process {holder.pid} on "
    with pytest.raises(DataError, match=busy), stage_output(tmp_path / "out", manifest()):
        pytest.fail("the work began")
    holder.communicate("\n")
    assert (tmp_path / "out" / "file").read_text() == "first"
    assert names(tmp_path) == ["out"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path, holder: Process) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    left = [name for name in names(tmp_path) if "partial" in name]
    assert len(left) == 1
    make(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "content"


# Files for all who share the volume, and on the disk.


def test_private_files_get_the_modes_of_new_ones(tmp_path: Path) -> None:
    previous = os.umask(0o002)
    try:
        with stage_output(tmp_path / "out", manifest()) as partial:
            (partial / "deep").mkdir(mode=0o700)
            (partial / "deep" / "file").touch(mode=0o600)
    finally:
        os.umask(previous)
    output = tmp_path / "out"
    assert [oct(path.stat().st_mode & 0o777) for path in (output, output / "deep")] == ["0o775"] * 2
    for name in ("deep/file", "manifest.json", "run.json"):
        assert oct((output / name).stat().st_mode & 0o777) == "0o664", name


def test_everything_is_on_the_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(descriptor: int) -> None:
        events.append(os.readlink(f"/proc/self/fd/{descriptor}").rpartition("/")[2])
        fsync(descriptor)

    def recorded_replace(path: Path, target: Path) -> Path:
        events.append(f"rename to {target.name}")
        return replace(path, target)

    monkeypatch.setattr(partial_folders.os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    make(tmp_path / "out")
    renamed = events.index("rename to out")
    assert {"file", "manifest.json", "run.json"} <= set(events[:renamed])
    assert events[renamed + 1] == tmp_path.name


# Files of a finished output are those that were made.


def test_edit_that_sets_the_time_back_is_found(tmp_path: Path) -> None:
    make(tmp_path / "out")
    file = tmp_path / "out" / "file"
    read_input(tmp_path / "out")
    before = file.stat()
    file.write_text("CONTENT")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_mtime_ns, file.stat().st_size) == (before.st_mtime_ns, before.st_size)
    with pytest.raises(DataError, match="out/file: .* has changed"):
        read_input(tmp_path / "out")


def test_shard_that_was_added_behind_a_link_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with stage_output(output, manifest()) as partial:
        (partial / "train").mkdir()
        (partial / "train" / "part-0").touch()
    (output / "train").rename(tmp_path / "elsewhere")
    (output / "train").symlink_to(tmp_path / "elsewhere")
    read_input(output)
    (tmp_path / "elsewhere" / "part-1").touch()
    with pytest.raises(DataError, match="out/train/part-1: .* is not one of them"):
        read_input(output)


@pytest.mark.parametrize("change", ["edit", "edit and keep the size", "delete", "add"])
def test_changed_input_is_refused(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "out"
    make(folder)
    read_input(folder)
    if change == "edit":
        (folder / "file").write_text("other content")
    elif change == "edit and keep the size":
        (folder / "file").write_text("CONTENT")
    elif change == "delete":
        (folder / "file").unlink()
    else:
        (folder / "file-2").write_text("more")
    name = "file-2" if change == "add" else "file"
    with pytest.raises(DataError, match=rf"out/{name}: .*out must hold the files that its manif"):
        read_input(folder)
