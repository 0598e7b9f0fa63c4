"""`dynamicpo compare`: runs of this machine, and its refusals."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from safetensors.torch import load_file, save_file

from dynamicpo.cli.main import main
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.records.manifest import file_checksum, read_manifest, write_json
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.runs.local import run_locks, summary
from dynamicpo.runs.local.tasks import Task
from tests.fixtures.folders import NUM_CANDIDATES, preference_rows, write_model, write_preferences

CONFIG = EvaluationConfig(sasrec=False, resamples=100)
Capture = pytest.CaptureFixture[str]


def write_run(
    folder: Path, evaluations: Sequence[Path], state: str = "succeeded", **parameters: Any
) -> Path:
    """A run's folder, as a run leaves it."""
    (folder / "logs").mkdir(parents=True)
    tasks = []
    for number, evaluation in enumerate(evaluations):
        artifact = dsl.Artifact(name="evaluation", uri=str(evaluation))
        tasks.append(
            Task(f"evaluate {number}", folder / "logs" / f"{number}.log", state="succeeded")
        )
        tasks[-1].outputs = {"evaluation": artifact}
    origin = {
        "commit": f"commit of {folder.name}",
        "image": "local processes",
        "package_version": "0.1.0",
    }
    settings = {"pipeline": "training", "parameters": {"sft_seed": 0, **parameters}, **origin}
    summary.write(folder, {**settings, "state": state}, 1.8e9, tasks)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, `monday` and `friday`, on the same rows, each with one SFT model and its own."""
    folder = tmp_path_factory.mktemp("runs")
    preferences = write_preferences(folder / "data" / "preferences")
    for seed, name in enumerate(("sft", "monday", "friday")):
        steps = [
            {"step": 1, "loss": 2.0, "boundary_gradient": 0.5},
            {"step": 2, "loss": 1.0, "boundary_gradient": 0.1},
        ]
        log = "".join(json.dumps({**step, "rewards/margins": 0}) + "\n" for step in steps)
        model = write_model(folder / "data" / f"model-{name}", seed=seed, training_log=log)
        label = "sft" if name == "sft" else "dynamicpo"
        evaluate(preferences, {label: model}, folder / "data" / f"evaluation-{name}", CONFIG)
    for beta, name in enumerate(("monday", "friday"), start=1):
        made = [folder / "data" / f"evaluation-{part}" for part in ("sft", name)]
        write_run(folder / name, made, preference_beta=float(beta))
    return folder


def compare(capsys: Capture, *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["compare", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys: Capture, *argv: str) -> str:
    code, out, err = compare(capsys, *argv)
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    return err


def test_two_runs_by_name(root: Path, tmp_path: Path, capsys: Capture):
    argv = ["monday", "friday", "--folder", str(root), "--output", str(tmp_path / "out")]
    code, out, err = compare(capsys, *argv)
    assert code == 0, err
    names = [line.split()[0] for line in out.splitlines() if line]
    assert names[2:8] == [
        "random",
        "popularity",
        "cooccurrence",
        "sft",
        "monday/dynamicpo",
        "friday/dynamicpo",
    ]
    assert out.splitlines()[-1] == str(tmp_path / "out" / "report.html")
    settings = {line.split("  ")[0]: line.split()[-2:] for line in out.splitlines()}
    assert settings["preference_beta"] == ["1", "2"]
    assert "commit of monday" in out and "sft_seed" not in settings
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert result["runs"] == {
        "commit": {"monday": "commit of monday", "friday": "commit of friday"},
        "preference_beta": {"monday": 1.0, "friday": 2.0},
    }
    first = result["comparisons"][0]
    assert (first["a"], first["b"]) == ("friday/dynamicpo", "monday/dynamicpo")
    metrics = {
        name: result["metrics"][f"{name}/dynamicpo"]["test_hit_ratio_at_1"]
        for name in ("monday", "friday")
    }
    assert first["difference"] == pytest.approx(metrics["friday"] - metrics["monday"])


def test_the_page_has_every_part(root: Path, tmp_path: Path, capsys: Capture):
    argv = [str(root / "monday"), str(root / "friday"), "--output", str(tmp_path / "out")]
    assert compare(capsys, *argv)[0] == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for heading in (
        "Ranking the right item",
        "Paired differences",
        "What differs between the runs",
        "What differs between the models",
        "Preference training: curves",
        "Where the right item stands",
        "Rows won by a",
        "Rows lost by a",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "Boundary gradient, against the first steps" in page
    assert "Film " in page and 'src="http' not in page and 'href="http' not in page


def test_runs_and_evaluations_mix_and_json_is_whole(root: Path, tmp_path: Path, capsys: Capture):
    argv = ["monday", str(root / "data" / "evaluation-friday"), "--folder", str(root), "--json"]
    code, out, err = compare(capsys, *argv, "--output", str(tmp_path / "out"))
    assert code == 0, err
    result = json.loads(out)
    assert {"monday/dynamicpo", "evaluation-friday/dynamicpo"} <= set(result["metrics"])
    assert result["report"] == str(tmp_path / "out" / "report.html")


def test_the_default_folder_stands_beside_the_runs(root: Path, tmp_path: Path, capsys: Capture):
    shutil.copytree(root / "monday", tmp_path / "monday")
    assert compare(capsys, "monday", "--folder", str(tmp_path))[0] == 0
    assert len([*tmp_path.glob("compare-*/report.html")]) == 1
    assert main(["runs", str(tmp_path)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["monday"]


def test_an_unknown_run_is_named_with_the_nearest(root: Path, capsys: Capture):
    message = refused(capsys, "monday", "fridey", "--folder", str(root))
    assert "unknown name 'fridey'; choose from friday, monday. Did you mean 'friday'?" in message


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        ("killed", "Run it again"),
        ("failed", "Run it again"),
        ("cancelled", "Run it again"),
    ],
)
def test_a_run_that_did_not_succeed_is_refused(
    state: str, remedy: str, root: Path, tmp_path: Path, capsys: Capture
):
    write_run(tmp_path / "bad", [root / "data" / "evaluation-sft"], state)
    message = refused(capsys, "bad", "--folder", str(tmp_path))
    assert f"bad: must be a run that succeeded, but it is '{state}'. {remedy}." in message


def test_a_run_goes_on_as_long_as_its_process(root: Path, tmp_path: Path, capsys: Capture):
    folder = write_run(tmp_path / "long", [root / "data" / "evaluation-sft"], "running")
    enter = f"with run_locks.at_work(pathlib.Path({str(folder)!r})):"
    imports = "import pathlib, time\nfrom dynamicpo.runs.local import run_locks"
    code = f"{imports}\n{enter}\n print(flush=True)\n time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    assert [run["state"] for run in summary.list_local_runs(tmp_path)] == ["running"]
    message = refused(capsys, "long", "--folder", str(tmp_path))
    assert "long: must be a run that succeeded, but it is 'running'. Wait for its end." in message
    process.kill()
    process.wait()
    assert [run["state"] for run in summary.list_local_runs(tmp_path)] == ["killed"]
    assert "but it is 'killed'. Run it again." in refused(capsys, "long", "--folder", str(tmp_path))
    with run_locks.at_work(folder):
        assert summary.read(folder)["state"] == "running"
    assert [path.name for path in folder.glob(".*")] == [".at-work"]


def test_a_run_without_metrics_is_refused(tmp_path: Path, capsys: Capture):
    write_run(tmp_path / "empty", [])
    assert "empty: must have evaluated at least one model" in refused(
        capsys, "empty", "--folder", str(tmp_path)
    )


def test_an_evaluation_that_is_not_finished_is_refused(tmp_path: Path, capsys: Capture):
    (tmp_path / "half").mkdir()
    assert "half: must be the finished output of evaluate" in refused(
        capsys, str(tmp_path / "half")
    )


@pytest.mark.parametrize("changed", ["rows", "candidates"])
def test_other_rows_and_other_candidates_are_refused(
    changed: str, root: Path, tmp_path: Path, capsys: Capture
):
    rows = {
        split: preference_rows(split, seed=1 if changed == "rows" else 0)
        for split in ("train", "test")
    }
    if changed == "candidates":
        for row in rows["test"]:
            row["candidates"] = row["candidates"][::-1]
    preferences = write_preferences(tmp_path / "preferences", rows)
    evaluate(preferences, {"x": root / "data" / "model-sft"}, tmp_path / "other", CONFIG)
    message = refused(
        capsys,
        "monday",
        str(tmp_path / "other"),
        "--folder",
        str(root),
        "--output",
        str(tmp_path / "out"),
    )
    assert "must have the same rows and protocol" in message and "differ in rows (" in message
    assert not (tmp_path / "out").exists()


def test_one_user_has_no_interval_and_is_told_so(root: Path, tmp_path: Path, capsys: Capture):
    rows = {"train": preference_rows("train"), "test": preference_rows("test", num_users=1)}
    preferences = write_preferences(tmp_path / "preferences", rows)
    for seed, name in enumerate("ab"):
        model = write_model(tmp_path / f"model-{name}", seed=seed)
        evaluate(preferences, {name: model}, tmp_path / name, CONFIG)
    argv = [str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")]
    code, out, _ = compare(capsys, *argv)
    assert code == 0 and "interval not available" in out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "All rows are of one user: intervals are not available." in page
    assert "can&#39;t be told apart" not in page


def test_scores_that_are_nan_are_warned_of(root: Path, tmp_path: Path, capsys: Capture):
    broken = write_model(tmp_path / "model")
    weights = {
        name: value * float("nan")
        for name, value in load_file(broken / "model.safetensors").items()
    }
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    manifest = read_manifest(broken)
    manifest.files["model.safetensors"] = file_checksum(broken / "model.safetensors")
    write_json(broken / "manifest.json", dataclasses.asdict(manifest))
    evaluate(root / "data" / "preferences", {"broken": broken}, tmp_path / "nan", CONFIG)
    argv = [
        "monday",
        str(tmp_path / "nan"),
        "--folder",
        str(root),
        "--output",
        str(tmp_path / "out"),
        "--json",
    ]
    code, out, err = compare(capsys, *argv)
    assert code == 0, err
    metrics = json.loads(out)["metrics"]["broken"]
    assert metrics["test_nan_scores"] == metrics["test_rows"] * NUM_CANDIDATES
    assert metrics["test_mrr"] == pytest.approx(1 / NUM_CANDIDATES)
    number = f"{metrics['test_nan_scores']:.0f}"
    warning = f"{number} of {number} scores of broken are NaN; they rank worst."
    for name in ("report.html", "table.md"):
        assert warning in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_an_empty_split_can_not_be_evaluated(tmp_path: Path, capsys: Capture):
    preferences = write_preferences(
        tmp_path / "data", {"train": preference_rows("train"), "test": []}
    )
    argv = [
        "evaluate",
        "--preferences",
        str(preferences),
        "--model",
        f"a={write_model(tmp_path / 'a')}",
    ]
    assert main([*argv, "--output", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "must hold at least one row, got none" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_killed_before_it_had_a_length_is_listed(tmp_path: Path, capsys: Capture):
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "summary.json").write_text('{"pipeline": "training"}')
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == ["cut", "unknown", "–"]
