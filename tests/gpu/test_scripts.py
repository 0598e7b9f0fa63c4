"""Both scripts for a card at tiny sizes, with the packages of a bare GPU machine and nothing else.

The environment is made by `make test` (`requirements.lock` in this folder; torch is ours). It lacks
kfp, datasets, ibis, duckdb, evidently and the cloud clients, and has transformers 5.17.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.folders import preference_rows, write_preferences
from tests.gpu.report import make_report

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv" / "gpu" / "bin" / "python"
pytestmark = pytest.mark.skipif(
    not PYTHON.is_file(), reason=".venv/gpu is not there: `make test` makes it"
)


def run_script(module: str, *arguments: str, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    result = subprocess.run(
        [str(PYTHON), "-m", module, "--tiny", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return result.stdout + result.stderr


def test_check(tmp_path: Path):
    run_script("tests.gpu.check", "--output", str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["machine"]["transformers"] == "5.17.0"
    scoring = results["exactness"]["scoring"]
    assert {name for name, part in scoring.items() if part["passed"]} == {
        "llama",
        "gpt2",
        "llama with lora",
    }
    assert set(results["stages"]["bfloat16"]) == {"sft", "preference_training", "evaluation"}
    survival = results["survival"]
    # On CPUs the very bytes; a halved micro-batch has sums of another order.
    for part in ("kill_and_resume", "one_process"):
        assert survival[part]["losses"] == survival[part]["weights"] == 0
    assert survival["kill_and_resume"]["said"] == "going on from step 4 of 8"
    assert survival["out_of_memory"]["losses"] > 0
    speed = results["speed-llama-2-7b"]
    # How much faster is for the card to say: these machines are noisy.
    assert min(speed["faster_than_published"], speed["faster_than_published_with_reference"]) > 1
    assert speed["dynamicpo"]["selection_share"] < 1


def test_study_goes_on_where_an_earlier_run_ended(tmp_path: Path):
    brought = tmp_path / "brought"
    rows = {split: preference_rows(split, num_users=6) for split in ("train", "validation", "test")}
    write_preferences(brought / "3" / "lastfm" / "preferences", rows)
    command = ("tests.gpu.study", "--data", "lastfm", "--output")
    # Time for SFT and the choice of rates, but hardly for all cells.
    machine = tmp_path / "machine"
    machine.mkdir()
    places = {"GPU_FOLDER": str(brought), "TMPDIR": str(machine)}
    run_script(*command, str(tmp_path / "first"), "--seconds", "45", **places)
    # The next machine has nothing but the results.
    shutil.rmtree(machine)
    machine.mkdir()
    for piece in (tmp_path / "first").glob("study.tar.gz.*"):
        piece.rename(brought / "3" / piece.name)
    text = run_script(*command, str(tmp_path / "second"), "--seconds", "600", **places)
    assert "left for a later run" not in text, text
    report = make_report(tmp_path / "second", tmp_path / "report")
    # All four arms at both numbers of negatives, on lists drawn anew.
    assert len(re.findall(r"^\| (?:DynamicPO-)?[ds]\w*po \| \.\d+ .* \| \.\d+ ", report, re.M)) == 4
    assert "DMPO did not collapse" in report or "DMPO collapsed" in report
    assert (tmp_path / "report" / "lastfm" / "report.html").is_file()


def test_report_of_a_check_that_a_time_limit_cut(tmp_path: Path):
    machine = {"card": "a card", "torch": "2.11", "transformers": "5.17.0", "python": "3.12"}
    fastest = {"rows": 16, "seconds": 0.5, "rows_per_second": 32.0, "peak_gigabytes": 70.4}
    part = {
        "shape": "llama-2-7b",
        "ours": [fastest],
        "passed": False,
        "faster_than_published": 8.25,
    }
    whole = {
        "shape": "smollm2-135m",
        "ours": [{"rows": 64, "out_of_memory": 1.0}, fastest],
        "products": {"tokens": 8192, "share_of_step": 0.512},
        "dynamicpo": {
            "step_seconds_without": 0.1,
            "added": -0.0004,
            "selection_share": 0.00071,
        },
        "largest_k": {"ours": 4095, "published": 127, "published_is_limit": 1},
    }
    results = {"machine": machine, "seconds": 200.0, "speed-a": part, "speed-b": whole}
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    report = make_report(tmp_path, tmp_path / "report")
    assert "Failed or cut off by its time limit: speed-a." in report
    cut = "| llama-2-7b | – | 32.00 | 8.2 times slower | – | 70 GB | – | – | – | – (–) |"
    assert cut in report
    assert "| 51% | 100 ms, −0.04 % | 0.07% | at least 4,095 (127) |" in report
