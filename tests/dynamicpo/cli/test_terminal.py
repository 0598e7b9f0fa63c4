"""The command line with closed streams, poor terminals, full disks and signals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dynamicpo.cli.terminal import printable

COMMAND = [sys.executable, "-m", "dynamicpo"]
# The tests themselves may run under `nohup`, whose children would ignore SIGHUP.
HEARING = ["env", "--default-signal=HUP"]
# A command that is at work until it is stopped, with an output that is half written.
AT_WORK = """
import sys, time
from pathlib import Path
from dynamicpo.cli import main as entry
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.outputs import stage_output

def work(_):
    with stage_output(Path(sys.argv[1]), Manifest("stage", {}, {})) as partial:
        (partial / "file").write_text("half")
        print("at work", flush=True)
        time.sleep(60)

entry._main = work
sys.exit(entry.main([]))
"""
NAME = "caf\u00e9 \u001b[2J \u009b2J \u202e"


def run(*arguments: str, shell: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *arguments]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "summary.json").write_text('{"pipeline": "training", "state": "failed"}')
    return str(tmp_path)


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_control_characters_reach_no_terminal(folder: str, flags: tuple[str, ...]) -> None:
    ran = run("runs", folder, *flags)
    assert ran.returncode == 0, ran.stderr
    assert "café \\u001b[2J \\u009b2J \\u202e" in ran.stdout


def test_control_characters_of_a_message_reach_no_terminal() -> None:
    ran = run("runs", "no\x1b[2J")
    assert ran.returncode == 2
    assert "\x1b" not in ran.stderr
    assert "\\u001b" in ran.stderr


def test_printable_leaves_text_alone() -> None:
    text = "Amélie, 千と千尋, 👩‍👧\n\ttab"
    assert printable(text) == text
    assert printable("\x07\x1b]0;t\x07\r") == "\\u0007\\u001b]0;t\\u0007\\u000d"


def test_terminal_of_ascii_shows_escapes(folder: str) -> None:
    ran = run("runs", folder, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (ran.returncode, "Traceback" in ran.stderr) == (0, False)
    assert "caf\\xe9" in ran.stdout


@pytest.mark.parametrize("shell", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_error(folder: str, shell: str) -> None:
    ran = run("runs", folder, shell=shell)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_full_disk_behind_stdout_is_one_line(folder: str) -> None:
    ran = run("runs", folder, shell="> /dev/full")
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith("dynamicpo: can't be used: No space left on device. Check the path")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_a_stage_with_a_line_and_without_leftovers(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [*HEARING, sys.executable, "-c", AT_WORK, str(tmp_path / "out")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "at work\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err == f"dynamicpo: stopped by {number.name}; nothing unfinished is left\n"
    assert list(tmp_path.iterdir()) == []


def test_nohup_is_kept(tmp_path: Path) -> None:
    code = AT_WORK.replace("time.sleep(60)", "time.sleep(1)")
    command = ["nohup", sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGHUP)
        process.wait(timeout=30)
    assert (tmp_path / "out" / "file").exists()
