"""Both scripts for a card at tiny sizes, with the packages of a bare GPU machine and nothing else.

The environment is made by `make test` (`requirements.lock` in this folder; torch is ours). It lacks
kfp, datasets, ibis, duckdb, evidently and the cloud clients, and has transformers 5.17.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.folders import preference_rows, write_preferences

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
    run_script(*command, str(tmp_path / "first"), "--seconds", "45", GPU_FOLDER=str(brought))
    for piece in (tmp_path / "first").glob("study.tar.gz.*"):
        piece.rename(brought / "3" / piece.name)
    text = run_script(
        *command, str(tmp_path / "second"), "--seconds", "600", GPU_FOLDER=str(brought)
    )
    assert "left for a later run" not in text
    assert list((tmp_path / "second").glob("study.tar.gz.0"))
