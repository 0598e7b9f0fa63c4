"""The collapse study as a pipeline: what it compiles to, and that it runs, stops and goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamicpo.cli.main import main
from dynamicpo.core.config import GridConfig
from dynamicpo.runs.compile import load_pipeline
from dynamicpo.runs.local import run, summary
from dynamicpo.runs.objectives import planned_cells
from dynamicpo.runs.parameters import check_parameters
from dynamicpo.runs.signatures import pipeline_signature
from dynamicpo.study.grid import plan_cells
from tests.fixtures.tables import write_tables
from tests.pipelines.test_training import DIGEST, feeds, source_of

STUDIES = Path(__file__).parents[2] / "pipelines" / "negative_scaling" / "studies"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("compiled") / "study.yaml"
    argv = [
        "compile",
        "negative_scaling",
        "--image",
        DIGEST,
        "--place",
        "gpu_count=2",
        "-o",
        str(path),
    ]
    assert main(argv) == 0
    return dict(next(yaml.safe_load_all(path.read_text())))


def test_artifacts_go_where_they_belong(compiled: dict[str, Any]):
    tasks = compiled["root"]["dag"]["tasks"]
    assert feeds(tasks["fine-tune"], "preferences") == "sample-negatives"
    assert feeds(tasks["judge-collapse"], "baselines") == "evaluate"
    assert feeds(tasks["judge-collapse"], "evaluations") == "for-loop-1"
    assert (
        tasks["for-loop-1"]["parameterIterator"]["items"]["inputParameter"]
        == "pipelinechannel--plan-cells-Output"
    )
    loop = compiled["components"]["comp-for-loop-1"]["dag"]["tasks"]
    assert set(loop) == {"train-preferences", "evaluate-2"}
    assert feeds(loop["evaluate-2"], "model") == "train-preferences"


def test_every_parameter_is_checked_and_its_stage_takes_the_result(compiled: dict[str, Any]):
    outer = compiled["root"]["dag"]["tasks"]
    inner = compiled["components"]["comp-for-loop-1"]["dag"]["tasks"]
    given = outer["check-settings"]["inputs"]["parameters"]
    checked = {key: value.get("componentInputParameter") for key, value in given.items()}
    assert checked.pop("pipeline") is None
    assert checked == {key: key for key in pipeline_signature("negative_scaling")}
    stages = {
        "data": outer["prepare-data"],
        "negatives": outer["sample-negatives"],
        "sft": outer["fine-tune"],
        "grid": outer["plan-cells"],
        "evaluation": outer["evaluate"],
        "study": outer["judge-collapse"],
        "preference": inner["train-preferences"],
    }
    for stage, task in stages.items():
        assert source_of(task, "settings") == ("check-settings", stage)
    assert source_of(inner["evaluate-2"], "settings") == ("check-settings", "evaluation")


def test_a_cell_sets_all_of_its_settings(compiled: dict[str, Any]):
    tasks = compiled["components"]["comp-for-loop-1"]["dag"]["tasks"]
    (first, *_) = plan_cells(GridConfig())
    for name in first.keys() - {"cell"}:
        given = tasks["train-preferences"]["inputs"]["parameters"][name]
        assert given["parameterExpressionSelector"] == f'parseJson(string_value)["{name}"]'
    named = tasks["evaluate-2"]["inputs"]["parameters"]["name"]
    assert named["parameterExpressionSelector"] == 'parseJson(string_value)["cell"]'


def test_only_models_take_gpus(compiled: dict[str, Any]):
    containers = compiled["deploymentSpec"]["executors"]
    gpus = {
        name for name, item in containers.items() if "accelerator" in item["container"]["resources"]
    }
    evaluations = {"exec-evaluate-baselines", "exec-evaluate", "exec-evaluate-2"}
    assert gpus == {"exec-fine-tune", "exec-train-preferences", *evaluations}


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_parameters_are_valid(path: Path):
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    checked = check_parameters("negative_scaling", given)
    cells = planned_cells(checked)
    assert len(cells) == {"reproduce": 30, "full": 192, "text": 4}[path.stem]
    assert checked["evaluation_split"] == "test"
    total = run.task_count(load_pipeline("negative_scaling").pipeline_spec, checked)
    assert total == 8 + 2 * len(cells)


def test_more_negatives_than_candidates_offer_are_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = write_tables(tmp_path)
    argv = command(tmp_path / "run", data) + ["--param", "grid_num_negatives=1,6"]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert (
        "grid_num_negatives: must be <= negatives_num_candidates - 1 (5), got 6" in err
        and "Traceback" not in err
    )
    assert not (tmp_path / "run").exists()


TINY = {
    "data_source": "table",
    "data_k_core": "5",
    "negatives_num_candidates": "6",
    "sft_max_steps": "4",
    "sft_batch_size": "8",
    "grid_num_negatives": "1,3",
    "grid_variants": "none",
    "grid_seeds": "0,1",
    "preference_max_steps": "4",
    "preference_batch_size": "8",
    "evaluation_resamples": "100",
}
CELLS = [f"{name}-s{seed}" for seed in (0, 1) for name in ("dpo-k1", "dmpo-k3", "sdpo-k3")]


def command(folder: Path, data: tuple[str, str]) -> list[str]:
    given = {**TINY, "data_interactions": data[0], "data_items": data[1]}
    parameters = [word for name, value in given.items() for word in ("--param", f"{name}={value}")]
    return ["run", "negative_scaling", "--workers", "2", "--output", str(folder), *parameters]


@pytest.mark.pipeline
def test_an_interrupted_study_goes_on_and_ends_in_a_verdict(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = write_tables(tmp_path)
    program = [
        # In the background of a script children would ignore the signal.
        *("env", "--default-signal=INT"),
        sys.executable,
        "-c",
        "from dynamicpo.cli.main import main; raise SystemExit(main())",
    ]
    arguments = [*program, *command(tmp_path / "first", data)]
    with subprocess.Popen(
        arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if f"evaluate {CELLS[0]}: succeeded" in line:
                os.kill(process.pid, signal.SIGINT)
                break
        process.communicate(timeout=60)
    assert process.returncode == 130
    done = {
        task["task"]
        for task in summary.read(tmp_path / "first")["tasks"]
        if task["state"] == "succeeded"
    }

    assert main(command(tmp_path / "second", data)) == 0
    out, err = capfd.readouterr()
    found = json.loads((tmp_path / "second" / "summary.json").read_text())
    expected = {
        "check-settings",
        "prepare-data",
        "sample-negatives",
        "fine-tune",
        "evaluate-baselines",
        "evaluate sft",
        "plan-cells",
        "judge-collapse",
    }
    expected |= {f"{task} {cell}" for cell in CELLS for task in ("train-preferences", "evaluate")}
    assert {task["task"] for task in found["tasks"]} == expected
    assert {task["task"] for task in found["tasks"] if task["cached"]} == done
    assert f"evaluate {CELLS[0]}" in done and "judge-collapse" not in done
    assert f"[{len(expected)}/{len(expected)}] judge-collapse" in err
    check_verdict(tmp_path / "second", out)


def check_verdict(folder: Path, out: str) -> None:
    place = folder / "artifacts" / "judge-collapse"
    study = json.loads((place / "study" / "study.json").read_text())
    kinds = {(cell["loss"], cell["variant"], cell["num_negatives"]) for cell in study["cells"]}
    plain = {("dpo", "none", 1), ("dmpo", "none", 3), ("sdpo", "none", 3)}
    assert kinds == {*plain, ("sft", "none", 0)}
    assert study["seeds"] == [0, 1]
    assert len(study["comparisons"]) == 3  # two falls, and the plain objective against SFT
    assert study["sentences"][0] in out
    assert study["sentences"][0] in (place / "verdict").read_text()
    assert out.splitlines()[-1] == str(folder / "report.html")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert (
        "DMPO against the number of negatives" in page
        and "S-DPO against the number of negatives" in page
    )
