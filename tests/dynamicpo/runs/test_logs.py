"""The end of a run: `submit --wait` and `dynamicpo logs` name what failed and the telling line."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import kfp_server_api as api
import pytest

from dynamicpo.cli.main import main
from dynamicpo.core import stage_subjects
from dynamicpo.core.errors import DataError
from dynamicpo.runs.cluster import pod_logs, wait
from dynamicpo.runs.cluster.log_lines import error_in, last_line
from dynamicpo.runs.cluster.workflow_nodes import read_workflow
from tests.fixtures.kubeflow import Installation
from tests.fixtures.workflow_runs import SKIPPED, WorkflowRun, argo_hash, publish

IMAGE = "registry.invalid/dynamicpo@sha256:" + 64 * "a"
RECORDED = Path(__file__).parents[4] / "shared" / "cases" / "kubeflow"
Capture = pytest.CaptureFixture[str]

TASK_LOG = """\
I1126 23:11:50.102030      14 launcher_v2.go:193] publish success.
[KFP Executor 2026-11-26 23:12:20,481 INFO]: Looking for component `train_preferences`
[KFP Executor 2026-11-26 23:12:24,110 INFO]: {subject}
[KFP Executor 2026-11-26 23:12:25,001 INFO]: reference: 100 of 400 rows
Traceback (most recent call last):
  File "/usr/lib/python3.11/runpy.py", line 198, in _run_module_as_main
ValueError: caught before
The above exception was the direct cause of the following exception:
  File "/app/dynamicpo/training/trainer.py", line 12, in train
{error}
I1126 23:12:33.402030      14 launcher_v2.go:151] Executor failed
F1126 23:12:33.502030      14 main.go:58] failed to execute component: exit status 1
time="2026-11-26T23:12:33.601Z" level=info msg="sub-process exited" argo=true error="<nil>"
Error: exit status 1
"""
MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
DRIVER_LOG = """\
I1126 22:59:36.102030      15 main.go:108] input ComponentSpec:{
time="2026-11-26T22:59:36.601Z" level=info msg="capturing logs" argo=true
F1126 22:59:37.102030      15 main.go:79] KFP driver: driver.Container(pipelineName=training, \
task="monitor-drift", componentSpec) failed: rpc error: failed to lookup existing execution
time="2026-11-26T22:59:37.701Z" level=info msg="sub-process exited" argo=true error="<nil>"
"""


def task_log(subject: str = "", error: str = MEMORY) -> str:
    mark = f"this task is about {subject}" if subject else "reading"
    return TASK_LOG.format(subject=mark, error=error)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No waiting, and a stock installation's store is a folder."""
    monkeypatch.setattr(wait, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(pod_logs, "DEFAULT_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(pod_logs, "DEFAULT_ARCHIVE", str(tmp_path / "archive"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive" / "kubeflow"


@pytest.fixture
def kubeflow() -> Iterator[Installation]:
    with Installation().serving() as installation:
        yield installation


@pytest.fixture
def wait_for(kubeflow: Installation, capsys: Capture) -> "Waiting":
    return Waiting(kubeflow, capsys)


class Waiting:
    """`submit --wait` of a run, as the installation tells of it."""

    def __init__(self, kubeflow: Installation, capsys: Capture) -> None:
        self.kubeflow = kubeflow
        self.capsys = capsys

    def __call__(self, run: WorkflowRun, state: str = "FAILED", *more: str) -> list[str]:
        """The lines that it ends with, but for its first and the link."""
        fields = run.answer(state)
        self.kubeflow.runs.clear()
        self.kubeflow.states = ["RUNNING", fields.pop("state")]
        self.kubeflow.details = {name: fields[name] for name in fields if name != "run_id"}
        words = ["submit", "training", "--host", self.kubeflow.host, "--image", IMAGE]
        words += ["--no-image-check", "--param", "data_source=movielens", "--wait", "1", *more]
        assert main(words) == 4
        err = self.capsys.readouterr().err
        _, _, told = err.partition("dynamicpo: the run failed:\n")
        lines = told.splitlines()
        assert lines[-1] == f"{self.kubeflow.host}/#/runs/details/run-0"
        return lines[:-1]


def test_the_hash_is_the_one_of_argo():
    """Ids of nodes of real runs, with the names that Argo had for these nodes."""
    driver = "training-qdjst(0).root(0).exit-handler-1(0).monitor-drift-driver(0)"
    assert argo_hash(driver) == 1122202708
    assert argo_hash("training-wlpl2(2).root-driver(2)") == 2896825258


@pytest.mark.parametrize("retried", [True, False])
def test_a_failed_task_has_its_own_name_and_the_telling_line(
    wait_for: Waiting, archive: Path, retried: bool
):
    run = WorkflowRun(retried=retried)
    scope = run.start("FAILED")
    run.task(scope, "prepare-data", "SUCCEEDED")
    executor = run.task(scope, "fine-tune", "FAILED")
    run.task(scope, "compare-evaluations", driver="")
    file = run.archive(archive, executor, task_log())
    assert wait_for(run) == [f"fine-tune: {MEMORY}", f"    log: {file}"]


def test_a_driver_that_failed_is_named_with_its_task(wait_for: Waiting, archive: Path):
    run = WorkflowRun()
    scope = run.start("RUNNING")
    run.task(scope, "sample-negatives", "SUCCEEDED")
    run.task(scope, "monitor-drift", driver="FAILED")
    file = run.archive(archive, f"{scope}.monitor-drift-driver", DRIVER_LOG)
    reason = "rpc error: failed to lookup existing execution"
    assert wait_for(run) == [f"monitor-drift, its driver: {reason}", f"    log: {file}"]


def test_the_driver_of_a_loop_is_named_by_the_loop(wait_for: Waiting, archive: Path):
    run = WorkflowRun()
    scope = run.start("FAILED")
    run.task(scope, "fine-tune", "SUCCEEDED")
    run.driver(scope, "objectives", "SUCCEEDED")
    inside = run.node(scope, "objectives", "FAILED")
    run.driver(inside, "iteration", "FAILED")
    run.archive(archive, f"{inside}.iteration-driver", DRIVER_LOG)
    assert wait_for(run)[0].startswith("objectives, its driver: rpc error")


def test_attempts_that_a_later_one_made_good_do_not_count(wait_for: Waiting, archive: Path):
    run = WorkflowRun()
    scope = run.start("FAILED")
    good = run.task(scope, "train-preferences", "FAILED", "FAILED", "SUCCEEDED")
    executor = run.task(scope, "evaluate", "FAILED", "FAILED")
    run.archive(archive, good, task_log(error="RuntimeError: made good"))
    run.archive(archive, executor, task_log(error="RuntimeError: the first time"))
    last = run.archive(archive, executor, task_log(error="RuntimeError: the last time"), attempt=1)
    assert wait_for(run) == ["evaluate: RuntimeError: the last time", f"    log: {last}"]


# As text, 10 comes before 9.
@pytest.mark.parametrize("attempts", [(0, 1), (9, 10)])
def test_a_run_that_was_tried_again_as_a_whole_is_told_by_its_last_attempt(
    wait_for: Waiting, attempts: tuple[int, int]
):
    run = WorkflowRun()
    run.task(run.start("FAILED", attempt=attempts[0]), "prepare-data", "FAILED")
    run.last_parts.clear()
    scope = run.start("FAILED", attempt=attempts[1])
    run.task(scope, "prepare-data", "SUCCEEDED")
    run.task(scope, "fine-tune", "FAILED")
    failed = [line for line in wait_for(run) if ": failed" in line]
    assert [line.partition(":")[0] for line in failed] == ["fine-tune"]


def test_what_runs_or_waits_in_a_run_that_has_ended_does_not_count(wait_for: Waiting):
    """The API goes on to say so where it heard no more of them."""
    run = WorkflowRun()
    scope = run.start("RUNNING")
    run.task(scope, "fine-tune", "RUNNING")
    run.driver(scope, "evaluate", "RUNNING")
    run.task(scope, "monitor-drift", driver="FAILED")
    failed = [line for line in wait_for(run) if ": failed" in line]
    assert [line.partition(":")[0] for line in failed] == ["monitor-drift, its driver"]


def test_a_run_that_was_terminated_is_said_to_be_that(wait_for: Waiting):
    """Its state is FAILED."""
    run = WorkflowRun(workflow="negative-scaling-274pc")
    scope = run.start("RUNNING")
    run.task(scope, "prepare-data", "SUCCEEDED")
    run.task(scope, "fine-tune", "RUNNING")
    lines = wait_for(run)
    assert lines[0] == "No task of it failed: it was terminated, or its time was over."
    assert "kubectl -n kubeflow get workflow negative-scaling-274pc -o jsonpath=" in lines[1]
    assert len(lines) == 2


def test_the_namespace_of_an_installation_for_one_user_is_that_of_its_archive(wait_for: Waiting):
    """It tells its own nowhere, and takes no --namespace."""
    archive = "minio://mlpipeline/private-artifacts/pipelines/"
    run = WorkflowRun(workflow="training-274pc")
    run.task(run.start("RUNNING"), "prepare-data", "SUCCEEDED")
    assert "kubectl -n pipelines get workflow" in wait_for(run, "FAILED", "--archive", archive)[1]
    early = wait_for(no_service_account(), "FAILED", "--archive", archive)
    assert "kubectl -n pipelines get serviceaccount" in early[1]


def no_service_account() -> WorkflowRun:
    run = WorkflowRun("training-wlpl2")
    for attempt in range(3):
        top = run.node("", run.workflow, "FAILED", attempt)
        run.driver(top, "root", "FAILED", "FAILED", "FAILED", had_pod=False)
        run.omit(top, "root")
    return run


def test_a_run_that_ended_before_any_task_began_names_its_service_account(wait_for: Waiting):
    lines = wait_for(no_service_account())
    assert lines[0].startswith("training, its driver: failed before it had a pod")
    assert lines[1].startswith(
        "It ended before any task began. It was sent with the service account dynamicpo-pipeline:"
    )
    assert "k8s/apply.sh OVERLAY" in lines[1]
    assert "kubectl -n kubeflow get serviceaccount dynamicpo-pipeline" in lines[1]
    assert "kubectl -n kubeflow get workflow training-wlpl2 -o jsonpath=" in lines[2]
    assert len(lines) == 3


def test_a_task_without_a_log_has_likely_reasons_and_the_way_to_the_messages(
    wait_for: Waiting, archive: Path
):
    run = WorkflowRun()
    scope = run.start("FAILED")
    executor = run.task(scope, "fine-tune", "FAILED")
    # Of another pod: nothing of it may be said of this one.
    run.archive(archive, f"{executor}-other", task_log())
    lines = wait_for(run)
    assert lines[0].startswith("fine-tune: failed, and no log of it was found: its pod was killed")
    assert "137" in lines[0] and "evicted" in lines[0]
    assert "an hour" in lines[1] and "get workflow training-wql9p -o jsonpath='{range" in lines[1]
    assert len(lines) == 2


def test_a_task_that_was_killed_while_it_wrote_is_told_by_its_last_line(
    wait_for: Waiting, archive: Path
):
    run = WorkflowRun()
    executor = run.task(run.start("FAILED"), "fine-tune", "FAILED")
    progress = "[KFP Executor 2026-11-26 23:12:25,001 INFO]: SFT: 3 of 40 steps\n"
    file = run.archive(archive, executor, f"I1126 23:11:50.102030 14 main.go:1] x\n{progress}")
    (line, place) = wait_for(run)
    assert "killed (out of memory, exit code 137)" in line and line.endswith("3 of 40 steps")
    assert place == f"    log: {file}"


def test_a_log_that_was_published_serves_where_none_is_archived(wait_for: Waiting, tmp_path: Path):
    run = WorkflowRun()
    scope = run.start("FAILED")
    run.task(scope, "fine-tune", "FAILED", "FAILED")
    first = task_log(error="RuntimeError: the first time")
    publish(tmp_path / "root", "run-0", "fine-tune", "b1", first)
    last = publish(tmp_path / "root", "run-0", "fine-tune", "b1", task_log(), attempt=1)
    publish(tmp_path / "root", "run-0", "evaluate", "b2", first)
    assert wait_for(run) == [f"fine-tune: {MEMORY}", f"    log: {last}"]


def loop_run(*items: str) -> tuple[WorkflowRun, list[str]]:
    """A run with a loop, the items of which end in these states."""
    run = WorkflowRun()
    scope = run.start("FAILED")
    run.task(scope, "fine-tune", *SKIPPED)
    scopes = run.loop(scope, "objectives", items, "FAILED")
    executors = [
        run.task(item_scope, "train-preferences", state)
        for item_scope, state in zip(scopes, items, strict=True)
    ]
    for item_scope in scopes:
        run.driver(item_scope, "evaluate", "SUCCEEDED")
    return run, executors


def test_in_a_loop_the_objective_is_named_from_the_first_line_of_the_log(
    wait_for: Waiting, archive: Path
):
    run, executors = loop_run("SUCCEEDED", "FAILED", "FAILED")
    run.archive(archive, executors[0], task_log("DMPO"))
    files = [
        run.archive(archive, executors[1], task_log("DynamicPO-DMPO, seed 1", "ValueError: a")),
        run.archive(archive, executors[2], task_log("SDPO", "ValueError: b")),
    ]
    assert wait_for(run) == [
        "train-preferences (DynamicPO-DMPO, seed 1): ValueError: a",
        f"    log: {files[0]}",
        "train-preferences (SDPO): ValueError: b",
        f"    log: {files[1]}",
    ]


def test_published_logs_of_a_loop_name_the_objective_themselves(wait_for: Waiting, tmp_path: Path):
    """Their paths say which task, and not which item of the loop."""
    run, _ = loop_run("FAILED", "SUCCEEDED", "FAILED")
    root = tmp_path / "root"
    good = TASK_LOG.partition("Traceback")[0].format(subject="this task is about DMPO")
    publish(root, "run-0", "train-preferences", "b1", good)
    file = publish(root, "run-0", "train-preferences", "b2", task_log("SDPO"))
    lines = wait_for(run)
    assert lines[:2] == [f"train-preferences (SDPO): {MEMORY}", f"    log: {file}"]
    assert lines[2].startswith("train-preferences (item 3 of objectives): failed, and no log")


def test_a_published_log_is_not_told_twice(wait_for: Waiting, tmp_path: Path, archive: Path):
    run, executors = loop_run("FAILED", "FAILED")
    run.archive(archive, executors[1], task_log("SDPO"))
    publish(tmp_path / "root", "run-0", "train-preferences", "b2", task_log("SDPO"))
    lines = wait_for(run)
    assert lines[0] == f"train-preferences (SDPO): {MEMORY}"
    assert lines[2].startswith("train-preferences (item 1 of objectives): failed, and no log")


def test_places_of_logs_can_be_named(wait_for: Waiting, tmp_path: Path):
    run = WorkflowRun()
    executor = run.task(run.start("FAILED"), "fine-tune", "FAILED")
    file = run.archive(tmp_path / "elsewhere", executor, task_log())
    lines = wait_for(run, "FAILED", "--archive", str(tmp_path / "elsewhere"))
    assert lines == [f"fine-tune: {MEMORY}", f"    log: {file}"]
    shutil.rmtree(tmp_path / "elsewhere")
    file = publish(tmp_path / "mine", "run-0", "fine-tune", "b", task_log())
    lines = wait_for(run, "FAILED", "--store", str(tmp_path / "mine"))
    assert lines == [f"fine-tune: {MEMORY}", f"    log: {file}"]


def test_a_store_that_can_not_be_read_is_named_and_the_task_all_the_same(wait_for: Waiting):
    run = WorkflowRun()
    run.task(run.start("FAILED"), "fine-tune", "FAILED")
    lines = wait_for(run, "FAILED", "--archive", "ftp://store/logs")
    assert lines[0].startswith("fine-tune: failed")
    assert lines[1].startswith("Logs could not be read: ftp://store/logs")
    assert "--archive" in lines[1] and "kubectl" in lines[2]


def test_a_good_end_after_an_eviction_is_a_good_end(kubeflow: Installation, capsys: Capture):
    run = WorkflowRun()
    run.task(run.start("SUCCEEDED"), "train-preferences", "FAILED", "SUCCEEDED")
    kubeflow.earlier = [api.V2beta1Run(**run.answer("SUCCEEDED"))]
    assert main(["logs", "run-0", "--host", kubeflow.host]) == 0
    link = f"{kubeflow.host}/#/runs/details/run-0"
    expected = ["training 2026-11-26 23:06:34: succeeded", link]
    assert capsys.readouterr().out.splitlines() == expected


def test_logs_explains_a_run_by_its_name(kubeflow: Installation, capsys: Capture, archive: Path):
    run = WorkflowRun()
    executor = run.task(run.start("FAILED"), "fine-tune", "FAILED")
    file = run.archive(archive, executor, task_log())
    kubeflow.earlier = [api.V2beta1Run(**run.answer("FAILED"))]
    words = ["logs", "training 2026-11-26 23:06:34", "--host", kubeflow.host]
    assert main(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == [
        "training 2026-11-26 23:06:34: failed",
        f"fine-tune: {MEMORY}",
        f"    log: {file}",
    ]
    assert main([*words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["failures"] == [
        {"task": "fine-tune", "about": "", "error": MEMORY, "log": str(file)}
    ]
    assert main(["logs", "training 2026", "--host", kubeflow.host]) == 2
    assert "Did you mean 'training 2026-11-26 23:06:34'?" in capsys.readouterr().err


def test_logs_prints_all_that_a_task_wrote(kubeflow: Installation, capsys: Capture, archive: Path):
    run = WorkflowRun()
    scope = run.start("SUCCEEDED")
    executor = run.task(scope, "fine-tune", "FAILED", "SUCCEEDED")
    run.task(scope, "evaluate", *SKIPPED)
    run.archive(archive, executor, "first\n")
    run.archive(archive, executor, "second \x1b[31mred\n", attempt=1)
    kubeflow.earlier = [api.V2beta1Run(**run.answer("SUCCEEDED"))]
    words = ["logs", "run-0", "--host", kubeflow.host, "--task"]
    assert main([*words, "fine-tune"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and out.index("second") < out.index("first")
    assert main([*words, "evaluate"]) == 2
    assert "a task that came from the cache wrote none" in capsys.readouterr().err
    assert main([*words, "fine-tun"]) == 2
    assert "Did you mean 'fine-tune'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (task_log(), MEMORY),
        (
            task_log(error="dynamicpo.core.errors.DataError: rows.csv:3: must be a number\nand 4"),
            "rows.csv:3: must be a number\nand 4",
        ),
        (task_log(error="KeyboardInterrupt"), "KeyboardInterrupt"),
        (DRIVER_LOG, "rpc error: failed to lookup existing execution"),
        (
            "sh: 1: python3: not found\nF1126 23:12:33.5 14 main.go:58] failed: exit status 127",
            "sh: 1: python3: not found",
        ),
        ("I1126 23:12:33.502030      14 main.go:58] fine\n", ""),
        ("UserWarning: this is none\n[KFP Executor 2026-11-26 INFO]: ValueError: nor this\n", ""),
        ("", ""),
    ],
)
def test_the_telling_line_of_a_log(log: str, error: str):
    assert error_in(log) == error


def test_a_telling_line_is_short():
    assert len(error_in(f"ValueError: {'x' * 9999}\n")) == 600
    driver = f"F1126 22:59:37.102030 15 main.go:79] a(b) failed: {'x' * 9999}: the cause"
    assert len(error_in(driver)) == 600 and error_in(driver).endswith("the cause")
    assert last_line("one\ntime=now level=info\n") == "one"


def test_every_mistake_that_the_first_task_names_is_told():
    mistakes = [f"sft_{number}: must be one of {'many, ' * 30}got 1." for number in range(20)]
    own = "dynamicpo.core.errors.ConfigError: " + "\n".join(mistakes)
    assert error_in(f"{own}\nF1126 23:12:33.502030 14 main.go:58] exit status 1\n") == "\n".join(
        mistakes
    )


def test_the_stages_of_a_loop_say_what_they_are_about(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", logger="dynamicpo")
    stage_subjects.announce("DynamicPO-DMPO, 15 negatives, seed 0")
    line = f"[KFP Executor 2026-11-26 23:12:24,110 INFO]: {caplog.messages[0]}"
    assert stage_subjects.subject_in(f"x\n{line}\ny") == "DynamicPO-DMPO, 15 negatives, seed 0"
    assert stage_subjects.subject_in("nothing of it") == ""


def test_stages_say_it_before_anything_can_fail(caplog: pytest.LogCaptureFixture, tmp_path: Path):
    from dynamicpo.core.config import EvaluationConfig, PreferenceConfig
    from dynamicpo.evaluation.evaluate import evaluate
    from dynamicpo.training.preference_training import train_preferences

    caplog.set_level("INFO", logger="dynamicpo")
    missing, output = tmp_path / "missing", tmp_path / "output"
    with pytest.raises(DataError):
        train_preferences(missing, missing, output, PreferenceConfig(num_negatives=3, seed=1))
    with pytest.raises(DataError):
        evaluate(missing, {"dmpo-k3-s1": missing}, output, EvaluationConfig())
    found = [record for record in caplog.records if record.name.startswith("dynamicpo")]
    subjects = [stage_subjects.subject_in(record.getMessage()) for record in found]
    assert subjects == ["DynamicPO-DMPO, 3 negatives, seed 1", "dmpo-k3-s1"]


def test_a_large_study_is_read_in_a_moment_and_right():
    run = WorkflowRun(workflow="negative-scaling-274pc")
    scope = run.start("FAILED")
    states = ["FAILED" if number == 37 else "SUCCEEDED" for number in range(40)]
    for item_scope, state in zip(run.loop(scope, "cells", states, "FAILED"), states, strict=True):
        run.task(item_scope, "train-preferences", "SUCCEEDED")
        run.task(item_scope, "evaluate", state)
    workflow = read_workflow(api.V2beta1Run(**run.answer("FAILED")))
    (failed,) = workflow.failed_tasks()
    assert (failed.name, failed.loop, failed.item) == ("evaluate", "cells", 38)


@pytest.mark.skipif(not RECORDED.is_dir(), reason=f"needs the recorded answers in {RECORDED}")
@pytest.mark.parametrize(
    ("name", "failed", "began"),
    [
        ("failed-in-driver", [("monitor-drift", 0, True)], True),
        (
            "failed-evicted-not-retried",
            [
                ("train-preferences", 1, False),
                ("train-preferences", 2, False),
                ("monitor-drift", 0, False),
            ],
            True,
        ),
        ("failed-no-service-account", [("training", 0, True)], False),
        ("terminated", [], True),
        ("succeeded-after-an-eviction", [], True),
        ("succeeded-from-cache", [], True),
        ("succeeded-without-exit-handler", [], True),
    ],
)
def test_recorded_answers_of_a_real_installation(
    name: str, failed: list[tuple[str, int, bool]], began: bool
):
    class Answer:
        data = (RECORDED / f"run-{name}.json").read_text(encoding="utf-8")

    workflow = read_workflow(api.ApiClient().deserialize(Answer, "V2beta1Run"))
    tasks = [(task.name, task.item, task.is_driver) for task in workflow.failed_tasks()]
    assert (tasks, workflow.began) == (failed, began)
