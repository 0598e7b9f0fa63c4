"""Summaries of local runs: `summary.json`, `report.html` and the artifacts, in a run's folder."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict, cast

from dynamicpo.core.errors import DataError
from dynamicpo.runs.local.copies import copy_tree
from dynamicpo.runs.local.run_locks import is_at_work
from dynamicpo.runs.local.tasks import Artifact, Task, TaskState, file_name_of
from dynamicpo.runs.run_records import (
    ListedRun,
    RunOrigin,
    RunResults,
    evaluated_metrics,
    hit_ratios,
    read_record,
)

if TYPE_CHECKING:
    from dynamicpo.reports.pages.comparisons import PairedComparison

RunState = Literal["running", "succeeded", "failed", "cancelled", "killed"]

log = logging.getLogger(__name__)


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


class RunSettings(RunOrigin):
    """A run as it was asked for.

    Attributes:
        runner: `subprocess` or `docker`.
        commit: The commit of the dynamicpo that the tasks ran; empty where that is not known.
        image: The environment of the tasks, in words.
    """

    runner: str
    commit: str
    image: str


class StartedRun(RunSettings):
    """A run that was started, with its state."""

    state: RunState


class RunSummary(StartedRun, RunResults):
    """The content of `summary.json`.

    Attributes:
        started: When it began, UTC.
        seconds: Its duration so far.
        tasks: Its tasks, in the order in which they began.
    """

    started: str
    seconds: float
    tasks: list[TaskEntry]


class FinishedRun(RunSummary):
    """A run as whoever started it gets it: the summary, and its results at a glance.

    Attributes:
        folder: The run's folder.
        comparisons: The paired comparisons of its models.
        sentences: The verdict of its study, or the decisions of its retraining.
    """

    folder: str
    comparisons: NotRequired["list[PairedComparison]"]
    sentences: NotRequired[list[str]]


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
        "metrics": evaluated_metrics(_evaluations(folder, entries)),
        "report": _copy_report(folder, entries),
    }
    write_json(folder / "summary.json", summary)
    return summary


def _task_entry(folder: Path, task: Task) -> TaskEntry:
    metrics: dict[str, float] = {}
    for output in task.outputs.values():
        # By its name, because kfp is not imported to list runs.
        if isinstance(output, Artifact) and type(output).__name__ == "Metrics":
            # The model's name stands among them, as text.
            numbers = output.metadata.items()
            metrics = {name: value for name, value in numbers if not isinstance(value, str)}
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
            copy_tree(source, path)
            outputs[name] = str(path.relative_to(folder))
    return outputs


def _copy_report(folder: Path, entries: Sequence[TaskEntry]) -> str:
    """Copy the run's page to the top of its folder: the comparison's, or else the last one.

    What recommending cost is added, which differs from run to run.
    """
    reports = [entry for entry in entries if "report" in entry["outputs"]]
    if not reports:
        return ""
    # The sort is stable: without a comparison the last task stays last.
    reports.sort(key=lambda entry: entry["task"].startswith("compare"))
    report = str(reports[-1]["outputs"]["report"])
    page = (folder / report).read_text(encoding="utf-8")
    with_added = _with_costs(page, _evaluations(folder, entries))
    (folder / "report.html").write_text(with_added, encoding="utf-8")
    return "report.html"


def _with_costs(page: str, evaluations: Sequence[Path]) -> str:
    from dynamicpo.evaluation.costs import read_costs
    from dynamicpo.reports.pages.costs import CostsByModel, with_costs

    costs: CostsByModel = {}
    for evaluation in evaluations:
        try:
            costs |= read_costs(evaluation)
        except DataError as error:
            # The result is whole without them.
            log.warning("%s", error)
    return with_costs(page, costs)


def _evaluations(folder: Path, entries: Sequence[TaskEntry]) -> list[Path]:
    evaluations = []
    for entry in entries:
        if evaluation := artifact_path(folder, entry, "evaluation"):
            evaluations.append(evaluation)
    return evaluations


def artifact_path(folder: Path, entry: TaskEntry, name: str) -> Path | None:
    """The path of an artifact of a task; None where it has none of this name."""
    path = entry["outputs"].get(name)
    # Parameters have names of their own: `check_settings` gives each stage's settings by its name.
    return folder / path if isinstance(path, str) else None


def read(folder: Path) -> RunSummary:
    """The summary of a run; the state of one whose process is gone before its end is "killed".

    Raises:
        DataError: The folder holds none, or one that can't be read.
    """
    # Asked before the summary is read: a run that ends in between is not taken for a killed one.
    has_process = is_at_work(folder)
    path = folder / "summary.json"
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: must be the record of a run, but it can't be read ({error})."
        ) from error
    summary = cast(RunSummary, read_record(content, str(path)))
    if summary.get("state") == "running" and not has_process:
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
    runs = []
    for path in sorted(folder.glob("*/summary.json")):
        try:
            runs.append(_listed_run(path.parent))
        except DataError as error:
            # One damaged run must not hide the others.
            log.warning("%s", error)
            runs.append(_unreadable_run(path.parent))
    return sorted(runs, key=lambda run: (run["started"] or "", run["run"]))


def _listed_run(folder: Path) -> ListedRun:
    summary = read(folder)
    return {
        "run": folder.name,
        # By `get`: a run that was killed at once may have written less.
        "pipeline": summary.get("pipeline"),
        "state": summary.get("state"),
        "started": summary.get("started"),
        "seconds": summary.get("seconds"),
        "hit_ratio_at_1": hit_ratios(summary),
    }


def _unreadable_run(folder: Path) -> ListedRun:
    return {
        "run": folder.name,
        "pipeline": None,
        "state": "unreadable",
        "started": None,
        "seconds": None,
        "hit_ratio_at_1": {},
    }
