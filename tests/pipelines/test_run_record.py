"""The record of a run on a cluster: what its task takes, and that nothing else is downloaded."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamicpo.runs.compile import compile_pipeline

CPU, GPU = (f"registry.invalid/{name}@sha256:" + 64 * "a" for name in ("cpu", "gpu"))
# Those that always come to their last task; tests/pipelines/test_retraining.py has the other.
LAST = {"training": "compare-evaluations", "negative_scaling": "judge-collapse"}
# Input of the last task -> the task and its output parameter.
URIS = {
    "rows_uri": ("sample-negatives", "preferences_uri"),
    "sft_uri": ("fine-tune", "model_uri"),
    "sft_report_uri": ("fine-tune", "report_uri"),
    "baselines_report_uri": ("evaluate", "report_uri"),
    "model_uris": ("train-preferences", "model_uri"),
    "training_report_uris": ("train-preferences", "report_uri"),
    "evaluation_report_uris": ("evaluate-2", "report_uri"),
}


def compiled(name: str, folder: Path, **placement: Any) -> dict[str, Any]:
    path = folder / "pipeline.yaml"
    compile_pipeline(name, path, CPU, placement)
    return dict(next(yaml.safe_load_all(path.read_text())))


def last_task(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return dict(spec["root"]["dag"]["tasks"][LAST[name]])


def constants(task: dict[str, Any]) -> dict[str, Any]:
    return {
        name: given["runtimeValue"]["constant"]
        for name, given in task["inputs"]["parameters"].items()
        if "runtimeValue" in given
    }


@pytest.mark.parametrize("name", LAST)
def test_what_others_made_comes_as_uris_and_not_as_artifacts(name: str, tmp_path: Path):
    """KFP's launcher downloads all of an artifact that is an input, models too."""
    spec = compiled(name, tmp_path)
    given = last_task(name, spec)["inputs"]
    assert set(given["artifacts"]) == {"baselines", "evaluations"}
    loop = spec["components"]["comp-for-loop-1"]["dag"]["outputs"]["parameters"]
    found = {}
    for key in URIS:
        output = given["parameters"][key]["taskOutputParameter"]
        source = (output["producerTask"], output["outputParameterKey"])
        if source[0] == "for-loop-1":
            selected = loop[source[1]]["valueFromParameter"]
            source = (selected["producerSubtask"], selected["outputParameterKey"])
        found[key] = source
    assert found == URIS


@pytest.mark.parametrize("name", LAST)
def test_the_record_is_never_an_earlier_runs_and_waits_for_no_drift(name: str, tmp_path: Path):
    spec = compiled(name, tmp_path)
    task = last_task(name, spec)
    assert task["cachingOptions"] == {} and "monitor-drift" not in task["dependentTasks"]
    others = {key: item for key, item in spec["root"]["dag"]["tasks"].items() if key != LAST[name]}
    assert all(
        item["cachingOptions"]["enableCache"] for key, item in others.items() if key != "for-loop-1"
    )


@pytest.mark.parametrize("name", LAST)
@pytest.mark.parametrize(
    ("placement", "images"),
    [
        ({}, [CPU]),
        ({"gpu_image": GPU}, [CPU, GPU]),
        ({"gpu_image": GPU, "gpu_count": 0}, [CPU]),
    ],
    ids=["one image", "two images", "no GPU"],
)
def test_facts_that_no_task_can_find_out_are_given(
    name: str, placement: dict[str, Any], images: list[str], tmp_path: Path
):
    spec = compiled(name, tmp_path, **placement)
    task = last_task(name, spec)
    assert constants(task) == {
        "run_id": "{{$.pipeline_job_uuid}}",
        "pipeline": name,
        "images": images,
    }
    ran = {item["container"]["image"] for item in spec["deploymentSpec"]["executors"].values()}
    assert ran == set(images)
    parameters = task["inputs"]["parameters"]["parameters"]["taskOutputParameter"]
    assert parameters == {"producerTask": "check-settings", "outputParameterKey": "parameters"}


@pytest.mark.parametrize("name", LAST)
def test_a_run_has_one_scorecard(name: str, tmp_path: Path):
    spec = compiled(name, tmp_path)
    found = {
        (component, output)
        for component, item in spec["components"].items()
        for output, made in item.get("outputDefinitions", {}).get("artifacts", {}).items()
        if made["artifactType"]["schemaTitle"] == "system.Metrics"
    }
    scorecards = [component for component, output in found if output == "scorecard"]
    assert scorecards == [f"comp-{LAST[name]}"]
    assert {output for _, output in found} == {"scorecard", "metrics"}


@pytest.mark.parametrize("name", LAST)
def test_tasks_of_a_loop_know_the_name_of_their_model(name: str, tmp_path: Path):
    spec = compiled(name, tmp_path)
    item = {"training": "objective", "negative_scaling": "cell"}[name]
    loop = spec["components"]["comp-for-loop-1"]["dag"]["tasks"]
    for task in ("train-preferences", "evaluate-2"):
        given = loop[task]["inputs"]["parameters"]["name"]
        assert given["parameterExpressionSelector"] == f'parseJson(string_value)["{item}"]'
