"""Summaries of local runs: `summary.json`, `report.html` and the artifacts, in a run's folder."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

from dynamicpo.core.choices import BASELINES
from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.locks import is_locked, locked
from dynamicpo.runs.local.tasks import Artifact, Task, TaskState, file_name_of
from dynamicpo.runs.run_records import ListedRun, RunMetrics

if TYPE_CHECKING:
    from dynamicpo.reports.pages.comparisons import PairedComparison

RunState = Literal["running", "succeeded", "failed", "cancelled", "killed"]

_LOCK = ".at-work"


class TaskEntry(TypedDict):
    """A task in a summary.

    Attributes:
        task: Its name.
        state: Its state.
        seconds: Its duration.
        cached: Whether its outputs are those of an earlier run.
        log: Its log, relative to the run's folder; empty where it has none.
        outputs: Its output parameters, and its artifacts by their paths in the run's folder.
        metrics: The metrics that it logged.
        error: The message of a task that failed.
    """

    task: str
    state: TaskState
    seconds: float
    cached: bool
    log: str
    outputs: dict[str, object]
    metrics: dict[str, float]
    error: NotRequired[str]


class RunSettings(TypedDict):
    """A run as it was asked for.

    Attributes:
        pipeline: The pipeline's name.
        parameters: All its parameters.
        runner: `subprocess` or `docker`.
        package_version: Version of the dynamicpo that the tasks ran.
        commit: Its commit; empty where that is not known.
        image: The environment of the tasks, in words.
    """

    pipeline: str
    parameters: JsonObject
    runner: str
    package_version: str
    commit: str
    image: str


class StartedRun(RunSettings):
    """A run that was started, with its state."""

    state: RunState


class RunSummary(StartedRun):
    """The content of `summary.json`.

    Attributes:
        started: When it began, UTC.
        seconds: Its duration so far.
        tasks: Its tasks, in the order in which they began.
        metrics: Every model's metrics.
        report: Its page, relative to the run's folder; empty where it has none.
    """

    started: str
    seconds: float
    tasks: list[TaskEntry]
    metrics: RunMetrics
    report: str


class FinishedRun(RunSummary):
    """A run as whoever started it gets it: the summary, and its results at a glance.

    Attributes:
        folder: The run's folder.
        comparisons: The paired comparisons of its models.
        sentences: The verdict of its study.
    """

    folder: str
    comparisons: NotRequired["list[PairedComparison]"]
    sentences: NotRequired[list[str]]


def at_work(folder: Path) -> AbstractContextManager[None]:
    """Mark a run as going on.

    The mark is a lock: the kernel takes it back when the process ends, however that ends.
    """
    return locked(folder / _LOCK)


def write(folder: Path, run: StartedRun, started: float, tasks: Sequence[Task]) -> RunSummary:
    """Write `summary.json`, and take over the tasks' artifacts and the run's page.

    Args:
        folder: The run's folder.
        run: The run's settings and state.
        started: The time when the run began, epoch seconds.
        tasks: The tasks so far.
    """
    from dynamicpo.core.records.manifest import write_json

    entries = [_task_entry(folder, task) for task in tasks]
    summary: RunSummary = {
        **run,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "tasks": entries,
        "metrics": _evaluated_metrics(folder, entries),
        "report": _copy_report(folder, entries),
    }
    write_json(folder / "summary.json", summary)
    return summary


def _task_entry(folder: Path, task: Task) -> TaskEntry:
    metrics: dict[str, float] = {}
    for output in task.outputs.values():
        # By its name, because kfp is not imported to list runs.
        if isinstance(output, Artifact) and type(output).__name__ == "Metrics":
            metrics = dict(output.metadata)
    # A task from the cache has no output; a skipped one is from no cache.
    log_file = ""
    if task.log_path.exists():
        log_file = str(task.log_path.relative_to(folder))
    cached = task.cached and task.state == "succeeded"
    entry: TaskEntry = {
        "task": task.name,
        "state": task.state,
        "seconds": round(task.seconds, 2),
        "cached": cached,
        "log": log_file,
        "outputs": _link_outputs(folder, task),
        "metrics": metrics,
    }
    if task.state == "failed":
        entry["error"] = task.error
    return entry


def _link_outputs(folder: Path, task: Task) -> dict[str, object]:
    """A task's output parameters, and the paths of its artifacts in the run's folder."""
    outputs: dict[str, object] = {}
    target = folder / "artifacts" / file_name_of(task.name)
    for name, output in task.outputs.items():
        if not isinstance(output, Artifact):
            outputs[name] = output
            continue
        source = Path(output.uri)
        if source.exists():
            path = target / name
            _link(source, path)
            outputs[name] = str(path.relative_to(folder))
    return outputs


def _link(source: Path, target: Path) -> None:
    """Give files another name as well: they outlast the cache and take no space."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file, dirs_exist_ok=True)
    else:
        _link_file(str(source), str(target))


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    # The cache is on another disk, or its file system has no hard links.
    except OSError:
        shutil.copyfile(source, target)


def _copy_report(folder: Path, entries: Sequence[TaskEntry]) -> str:
    """Copy the run's page to the top of its folder: the comparison's, or else the last one."""
    reports = [entry for entry in entries if "report" in entry["outputs"]]
    if not reports:
        return ""
    # The sort is stable: without a comparison the last task stays last.
    reports.sort(key=lambda entry: entry["task"].startswith("compare"))
    report = str(reports[-1]["outputs"]["report"])
    shutil.copyfile(folder / report, folder / "report.html")
    return "report.html"


def _evaluated_metrics(folder: Path, entries: Sequence[TaskEntry]) -> RunMetrics:
    """Every model's metrics, from the evaluations."""
    metrics: RunMetrics = {}
    for entry in entries:
        evaluation = entry["outputs"].get("evaluation")
        if not isinstance(evaluation, str):
            continue
        for path in sorted((folder / evaluation).glob("*/metrics.json")):
            # Baselines are in the first evaluation only.
            content = json.loads(path.read_text(encoding="utf-8"))
            metrics.setdefault(path.parent.name, content)
    return metrics


def metrics_in_order(summary: RunSummary) -> RunMetrics:
    """Every model's metrics: baselines first, then SFT, then the objectives in the order given."""
    objectives = summary.get("parameters", {}).get("objectives", [])
    assert isinstance(objectives, list)
    metrics = summary.get("metrics", {})
    order = [*BASELINES, "sft"]
    for objective in objectives:
        order.append(objective["objective"])
    # Cells of a study are no objectives: they come last, by name.
    others = sorted(name for name in metrics if name not in order)
    names = [name for name in order if name in metrics]
    return {name: metrics[name] for name in [*names, *others]}


def read(folder: Path) -> RunSummary:
    """The summary of a run; the state of one whose process is gone before its end is "killed".

    Raises:
        DataError: The folder holds none, or one that can't be read.
    """
    # Asked before the summary is read: a run that ends in between is not taken for a killed one.
    is_at_work = is_locked(folder / _LOCK)
    path = folder / "summary.json"
    try:
        summary: RunSummary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: must be the summary of a run, but it can't be read ({error})."
        ) from error
    if summary.get("state") == "running" and not is_at_work:
        summary["state"] = "killed"
    return summary


def list_local_runs(folder: Path) -> list[ListedRun]:
    """The runs in a folder, oldest first.

    Raises:
        DataError: There is no such folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: must be a folder of runs, but it does not exist. "
            "Start a run or name another folder."
        )
    runs = [_listed_run(path.parent) for path in sorted(folder.glob("*/summary.json"))]
    return sorted(runs, key=lambda run: (run["started"] or "", run["run"]))


def _listed_run(folder: Path) -> ListedRun:
    summary = read(folder)
    hit_ratios = {}
    for model, metrics in metrics_in_order(summary).items():
        for name, value in metrics.items():
            if _is_headline(name):
                hit_ratios[model] = value
    return {
        "run": folder.name,
        # By `get`: a run that was killed at once may have written less.
        "pipeline": summary.get("pipeline"),
        "state": summary.get("state"),
        "started": summary.get("started"),
        "seconds": summary.get("seconds"),
        "hit_ratio_at_1": hit_ratios,
    }


def _is_headline(metric: str) -> bool:
    """Tell whether a metric is HitRatio@1 by scores, of whichever split."""
    # Measures of valid answers alone are left out; the split `validation` is none of them.
    return metric.endswith("hit_ratio_at_1") and "valid" not in metric.removeprefix("validation_")
