"""A damaged record of one run hides no other run."""

import json
from pathlib import Path

import pytest

from dynamicpo.cli.main import main

GOOD = {
    "pipeline": "training",
    "state": "succeeded",
    "started": "2026-01-01T00:00:00Z",
    "seconds": 3.5,
    "metrics": {"sft": {"test_hit_ratio_at_1": 0.5}},
    "parameters": {},
    "tasks": [],
}
DAMAGES: list[dict[str, object]] = [
    {"seconds": "x"},
    {"seconds": []},
    {"metrics": {"sft": {"test_hit_ratio_at_1": "high"}}},
    {"metrics": {"sft": {"test_hit_ratio_at_1": {}}}},
    {"metrics": {"sft": {"test_hit_ratio_at_1": None}}},
    {"metrics": {"sft": 5}},
    {"parameters": {"objectives": [{}]}},
    {"parameters": {"objectives": [{"objective": []}]}},
    {"tasks": [5]},
    {"tasks": [{}]},
    {"started": 3},
    {"state": 5},
]


def write(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "summary.json").write_text(text)


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_damaged_runs_hide_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    write(tmp_path / "good", json.dumps(GOOD))
    texts = [json.dumps({**GOOD, **damage}) for damage in DAMAGES]
    for number, text in enumerate(["", "[]", 100_000 * "[", *texts]):
        write(tmp_path / f"damaged-{number}", text)
    (tmp_path / "folder" / "summary.json").mkdir(parents=True)
    assert main(["runs", str(tmp_path), *flags]) == 0
    out = capsys.readouterr().out
    if flags:
        (run,) = (run for run in json.loads(out)["runs"] if run["run"] == "good")
        assert (run["state"], run["hit_ratio_at_1"]) == ("succeeded", {"sft": 0.5})
    else:
        (line,) = (line for line in out.splitlines() if line.startswith("good "))
        assert "succeeded" in line and "HitRatio@1: sft 0.500" in line
    assert out.count("damaged-") == len(DAMAGES) + 3


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_run_is_compared_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: dict[str, object]
) -> None:
    write(tmp_path / "run", json.dumps({**GOOD, **damage}))
    assert main(["compare", "run", "--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
