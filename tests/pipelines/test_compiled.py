"""What Kubeflow and Argo ask of compiled pipelines: both of them, with every placement of k8s/."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamicpo.runs.compile import compile_pipeline, kubeflow_name, load_placement
from dynamicpo_pipelines.placement import Placement
from tests.conftest import ROOT

IMAGE = "registry.invalid/dynamicpo@sha256:" + 64 * "a"
PLACEMENTS = sorted((ROOT / "k8s" / "overlays").glob("*/placement*.yaml"))
NAMES = sorted(path.parent.name for path in (ROOT / "pipelines").glob("*/pipeline.py"))
CASES = [(name, path) for name in NAMES for path in PLACEMENTS]
# What KFP fills in when a task starts; the compiler's own texts.
PLACEHOLDER = re.compile(r"\{\{\$[^{}]*\}\}")
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Compiled:
    """A compiled pipeline and the placement that it was compiled with."""

    def __init__(self, name: str, placement: Path, folder: Path) -> None:
        """Compile it."""
        file = folder / "pipeline.yaml"
        fields = yaml.safe_load(placement.read_text())
        compile_pipeline(name, file, IMAGE, fields)
        self.name = name
        self.text = file.read_text()
        self.placement: Placement = load_placement(fields)
        self.spec, platform = yaml.safe_load_all(self.text)
        self.placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]

    def tasks(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """All tasks that run a container, with their executor's label."""
        components = self.spec["components"]
        for graph in (self.spec["root"], *components.values()):
            for task in graph.get("dag", {}).get("tasks", {}).values():
                label = components[task["componentRef"]["name"]].get("executorLabel")
                if label:
                    yield label, task

    def container(self, label: str) -> dict[str, Any]:
        """What a task runs."""
        return dict(self.spec["deploymentSpec"]["executors"][label]["container"])


@pytest.fixture(
    scope="module",
    params=CASES,
    ids=lambda case: f"{case[0]}-{case[1].parent.name}-{case[1].stem}",
)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return Compiled(*request.param, tmp_path_factory.mktemp("compiled"))


def test_all_attempts_have_the_time_that_they_need(compiled: Compiled):
    placement = compiled.placement
    found = dict(compiled.tasks())
    assert found
    for label, task in found.items():
        seconds = int(compiled.placed[label]["activeDeadlineSeconds"])
        gpu = "dshm" in str(compiled.placed[label].get("emptyDirMounts"))
        hours = placement.gpu_timeout_hours if gpu else placement.task_timeout_hours
        assert seconds == hours * 3600
        if label == "exec-check-settings":
            assert "retryPolicy" not in task
            continue
        policy = task["retryPolicy"]
        attempts = policy["maxRetryCount"] + 1
        assert attempts == placement.retries + 1
        # Argo takes it for the time from the start of the first attempt to the end of the last.
        total = int(policy["backoffMaxDuration"].removesuffix("s"))
        wait = int(policy["backoffDuration"].removesuffix("s"))
        assert total >= attempts * seconds + placement.retries * wait
        assert total >= attempts * (seconds + placement.node_wait_hours * 3600)


def test_waits_grow_by_whole_factors(compiled: Compiled):
    """Argo reads the factor as an integer; a fraction ends the first retry."""
    factors = {
        task["retryPolicy"]["backoffFactor"]
        for _, task in compiled.tasks()
        if "retryPolicy" in task
    }
    assert factors and all(float(factor).is_integer() and factor >= 1 for factor in factors)


def test_names_are_what_kubernetes_takes(compiled: Compiled):
    name = compiled.spec["pipelineInfo"]["name"]
    assert name == kubeflow_name(compiled.name) and DNS_LABEL.fullmatch(name)
    for graph in (compiled.spec["root"], *compiled.spec["components"].values()):
        for task in graph.get("dag", {}).get("tasks", {}):
            assert DNS_LABEL.fullmatch(task), task


def test_every_task_runs_as_the_images_user(compiled: Compiled):
    assert set(compiled.placed) == set(compiled.spec["deploymentSpec"]["executors"])
    wanted = {"runAsUser": "10001", "runAsGroup": "0", "runAsNonRoot": True}
    assert all(item["securityContext"] == wanted for item in compiled.placed.values())


def test_images_are_named_by_digest_and_nothing_else_is_left_of_local_names(compiled: Compiled):
    images = {compiled.container(label)["image"] for label, _ in compiled.tasks()}
    assert images == {IMAGE}
    assert "dynamicpo-python" not in compiled.text


def test_placeholders_reach_the_tasks(compiled: Compiled):
    for label, _ in compiled.tasks():
        arguments = compiled.container(label)["args"]
        assert arguments[arguments.index("--executor_input") + 1] == "{{$}}"
    # No other braces that nobody would fill in.
    left = set(PLACEHOLDER.findall(compiled.text)) - {"{{$}}"}
    assert all(text.startswith("{{$.pipeline_job_") for text in left), left


def test_programs_are_whole_and_carry_no_docstrings(compiled: Compiled):
    for label, _ in compiled.tasks():
        container = compiled.container(label)
        (program,) = [text for text in container["command"] if "\ndef " in text]
        arguments = container["args"]
        function = arguments[arguments.index("--function_to_execute") + 1]
        assert f"\ndef {function}(" in program and '"""' not in program
        compile(program, label, "exec")


def test_a_compiled_pipeline_stays_small(compiled: Compiled):
    # A retraining has four more tasks than a training, and settings of retraining and gate.
    assert len(compiled.text) < 130_000
