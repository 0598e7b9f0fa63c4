"""What a run leaves in its folder: `summary.json`, `report.html` and its artifacts; and the list of runs."""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dynamicpo.core.choices import BASELINES
from dynamicpo.core.errors import DataError
from dynamicpo.core.locks import is_locked, locked
from dynamicpo.runs.local.task_runner import Task, plain

_LOCK = ".at-work"


def at_work(folder: Path) -> AbstractContextManager[None]:
    """Mark a run as going on. The mark is a lock, so that it goes with the process, however that ends."""
    return locked(folder / _LOCK)


def write(
    folder: Path, facts: Mapping[str, Any], started: float, tasks: Sequence[Task]
) -> dict[str, Any]:
    """Write `summary.json`, and take over what the tasks made: artifacts as hard links, the report as a copy.

    Args:
        folder: The run's folder.
        facts: What is known of the run: pipeline, parameters, state, versions.
        started: When the run began, epoch seconds.
        tasks: The tasks so far.

    Returns:
        The summary.
    """
    from dynamicpo.core.records.manifest import write_json

    entries = [_entry(folder, task) for task in tasks]
    summary = {
        **facts,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "tasks": entries,
        "metrics": _models(folder, entries),
        "report": _report(folder, entries),
    }
    write_json(folder / "summary.json", summary)
    return summary


def _entry(folder: Path, task: Task) -> dict[str, Any]:
    outputs, metrics = {}, {}
    place = folder / "artifacts" / plain(task.name)
    for name, value in task.outputs.items():
        if not hasattr(value, "uri"):
            outputs[name] = value
            continue
        if type(value).__name__ == "Metrics":
            metrics = dict(value.metadata)
        if Path(value.uri).exists():
            outputs[name] = str(_link(Path(value.uri), place / name).relative_to(folder))
    return {
        "task": task.name,
        "state": task.state,
        "seconds": round(task.seconds, 2),
        "cached": task.cached and task.state == "succeeded",
        "log": str(task.log_path.relative_to(folder)) if task.log_path.exists() else "",
        "outputs": outputs,
        "metrics": metrics,
        **({"error": task.error} if task.state == "failed" else {}),
    }


def _link(source: Path, target: Path) -> Path:
    """The same files under another name: they outlast the cache and cost no space (a copy on another disk)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file, dirs_exist_ok=True)
    else:
        _link_file(str(source), str(target))
    return target


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _report(folder: Path, entries: Sequence[Mapping[str, Any]]) -> str:
    """Put the run's page at a plain path: the comparison's, or else the last one that was made."""
    pages = [entry for entry in entries if "report" in entry["outputs"]]
    pages.sort(key=lambda entry: entry["task"].startswith("compare"))
    if not pages:
        return ""
    shutil.copyfile(folder / pages[-1]["outputs"]["report"], folder / "report.html")
    return "report.html"


def _models(folder: Path, entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Every model's metrics, from the evaluations."""
    models: dict[str, dict[str, float]] = {}
    for entry in entries:
        place = folder / entry["outputs"].get("evaluation", "none")
        for path in sorted(place.glob("*/metrics.json")):
            models.setdefault(path.parent.name, json.loads(path.read_text(encoding="utf-8")))
    return models


def models_of(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Every model's metrics: the baselines first, then SFT, then the objectives as they were given."""
    objectives = summary.get("parameters", {}).get("objectives", [])
    first = [*BASELINES, "sft", *(entry["objective"] for entry in objectives)]
    metrics: dict[str, dict[str, float]] = summary.get("metrics", {})
    order = sorted(
        metrics, key=lambda name: (first.index(name) if name in first else len(first), name)
    )
    return {name: metrics[name] for name in order}


def read(folder: Path) -> dict[str, Any]:
    """The summary of a run; the state of one whose process is gone before its end is "killed".

    Raises:
        DataError: The folder holds none, or one that can't be read.
    """
    going = is_locked(folder / _LOCK)  # before the summary is read: it may end in between
    path = folder / "summary.json"
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: must be the summary of a run, but it can't be read ({error})."
        ) from error
    if summary.get("state") == "running" and not going:
        summary["state"] = "killed"
    return summary


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs in a folder, oldest first: name, state, start, seconds and HitRatio@1 of each model.

    Raises:
        DataError: There is no such folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: must be a folder of runs, but it does not exist. Start a run or name another folder."
        )
    runs = []
    for path in sorted(folder.glob("*/summary.json")):
        found = read(path.parent)
        runs.append(
            {
                "run": path.parent.name,
                **{name: found.get(name) for name in ("pipeline", "state", "started", "seconds")},
                "hit_ratio_at_1": {
                    model: value
                    for model, values in models_of(found).items()
                    for name, value in values.items()
                    if name.endswith("hit_ratio_at_1")
                    and "valid" not in name.removeprefix("validation_")
                },
            }
        )
    return sorted(runs, key=lambda run: (run["started"] or "", run["run"]))
