"""Runs as commands list and compare them, of this machine and of a Kubeflow installation alike.

A run of this machine leaves `summary.json` in its folder, one on a cluster `record.json` in the
store. What both hold has the same keys in both, and one reader here.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

from dynamicpo.core.choices import BASELINES
from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonObject, JsonValue
from dynamicpo.core.records.manifest import read_manifest

# From a model's name to its metrics.
RunMetrics = dict[str, dict[str, float]]


class RunOrigin(TypedDict):
    """The beginning of a run.

    Attributes:
        pipeline: The pipeline's name.
        parameters: All its parameters.
        package_version: Version of the dynamicpo that the tasks ran.
    """

    pipeline: str
    parameters: JsonObject
    package_version: str


class RunResults(TypedDict):
    """The results of a run.

    Attributes:
        metrics: Every model's metrics.
        report: Where its page is: in the run's folder or in the store; empty where it has none.
    """

    metrics: RunMetrics
    report: str


class KeptRun(RunOrigin, RunResults):
    """A run as it is kept, wherever it ran."""


class ListedRun(TypedDict):
    """A line in the list of runs.

    Attributes:
        run: The run's folder by name, or its id.
        name: Its display name; runs on a cluster only.
        pipeline: The pipeline's name; runs of this machine only.
        link: The URL of its page; runs on a cluster only.
        state: How it goes or how it ended, in lower case; None where that is not known.
        started: When it began, UTC; None where that is not known.
        seconds: How long it took; None while it goes on.
        hit_ratio_at_1: HitRatio@1 of each model.
        problem: Why there are no figures of a run that succeeded, in one line.
    """

    run: str
    name: NotRequired[str]
    pipeline: NotRequired[str | None]
    link: NotRequired[str]
    state: str | None
    started: str | None
    seconds: float | None
    hit_ratio_at_1: dict[str, float]
    problem: NotRequired[str]


class ComparedRun(NamedTuple):
    """A run's part in a comparison.

    Attributes:
        name: Its name in the comparison.
        evaluations: Folders of its evaluations, on this machine.
        settings: Parameters, data, image, commit: one value for each name.
    """

    name: str
    evaluations: Sequence[Path]
    settings: Mapping[str, JsonValue]


# The kinds of what readers rely on.
_KINDS = {"parameters": dict, "metrics": dict, "tasks": list, "started": str, "state": str}
_NUMBERS = (int, float, type(None))


def read_record(content: str | bytes, source: str) -> JsonObject:
    """The content of a run's `summary.json` or `record.json`.

    A run that was killed at once may have written less than `KeptRun` has.

    Args:
        content: The file's text.
        source: Where it is, for messages.

    Raises:
        DataError: It is no record of a run.
    """
    try:
        record = json.loads(content)
    # A RecursionError: brackets within brackets, thousands of them.
    except (ValueError, RecursionError) as error:
        raise _unreadable(source, error) from error
    if problem := _problem_of(record):
        raise _unreadable(source, problem)
    # Checked by the line above; mypy does not look into it.
    return record  # type: ignore[no-any-return]


def _problem_of(record: object) -> str:
    """The reason why a file's content is no record; empty where it is one."""
    if not isinstance(record, dict):
        return "it is no JSON object"
    for name, kind in _KINDS.items():
        if not isinstance(record.get(name, kind()), kind):
            return f"{name} is no {kind.__name__}"
    if not isinstance(record.get("seconds"), _NUMBERS):
        return "seconds is no number"
    for model, metrics in record.get("metrics", {}).items():
        if not isinstance(metrics, dict):
            return f"the metrics of {model} are no dict"
        if not all(isinstance(value, _NUMBERS) for value in metrics.values()):
            return f"the metrics of {model} are no numbers"
    return _task_problem(record.get("tasks", []))


def _task_problem(tasks: Sequence[object]) -> str:
    for task in tasks:
        if not isinstance(task, dict) or not isinstance(task.get("outputs"), dict):
            return "a task has no outputs"
    return ""


def _unreadable(source: str, problem: object) -> DataError:
    return DataError(f"{source}: must be the record of a run, but it can't be read ({problem}).")


def evaluated_metrics(evaluations: Iterable[Path]) -> RunMetrics:
    """Every model's metrics, from the folders of a run's evaluations."""
    metrics: RunMetrics = {}
    for folder in evaluations:
        for path in sorted(folder.glob("*/metrics.json")):
            model = path.parent.name
            text = path.read_text(encoding="utf-8")
            # Baselines are in the first evaluation only.
            metrics.setdefault(model, json.loads(text))
    return metrics


def metrics_in_order(record: Mapping[str, object]) -> RunMetrics:
    """Every model's metrics: baselines first, then SFT, then the objectives in the order given."""
    metrics = record.get("metrics")
    if not isinstance(metrics, dict):
        return {}
    order = [*BASELINES, "sft", *_objective_names(record.get("parameters"))]
    # Cells of a study are no objectives: they come last, by name.
    others = sorted(name for name in metrics if name not in order)
    names = [name for name in order if name in metrics]
    return {name: metrics[name] for name in [*names, *others]}


def _objective_names(parameters: object) -> list[str]:
    objectives = parameters.get("objectives") if isinstance(parameters, dict) else None
    if not isinstance(objectives, list):
        return []
    names = [entry.get("objective") for entry in objectives if isinstance(entry, dict)]
    return [name for name in names if isinstance(name, str)]


def hit_ratios(record: Mapping[str, object]) -> dict[str, float]:
    """HitRatio@1 of each model of a run."""
    ratios = {}
    for model, metrics in metrics_in_order(record).items():
        for name, value in metrics.items():
            if _is_headline(name) and value is not None:
                ratios[model] = value
    return ratios


def _is_headline(metric: str) -> bool:
    """Tell whether a metric is HitRatio@1 by scores, of whichever split."""
    # Measures of valid answers alone are left out; the split `validation` is none of them.
    return metric.endswith("hit_ratio_at_1") and "valid" not in metric.removeprefix("validation_")


def number_equal_names(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """The same runs, with a number behind each name that several have."""
    names = [run.name for run in runs]
    numbered = []
    for number, run in enumerate(runs, start=1):
        if names.count(run.name) > 1:
            run = run._replace(name=f"{run.name} {number}")
        numbered.append(run)
    return numbered


def check_succeeded(name: str, state: str) -> None:
    """Refuse a run that has not succeeded.

    Raises:
        DataError: It is still running, or has failed.
    """
    state = state.lower()
    if state == "succeeded":
        return
    goes_on = state in ("running", "pending")
    remedy = "Wait for its end" if goes_on else "Run it again"
    raise DataError(f"{name}: must be a run that succeeded, but it is {state!r}. {remedy}.")


def check_evaluations(name: str, evaluations: Sequence[Path]) -> None:
    """Refuse a run without metrics.

    Raises:
        DataError: It made no evaluation.
    """
    if not evaluations:
        raise DataError(
            f"{name}: must have evaluated at least one model, but has no evaluation. "
            "Compare other runs."
        )


def evaluated_data(evaluations: Sequence[Path]) -> dict[str, str]:
    """The names of the data that were evaluated, as a setting of the run."""
    fingerprints = [read_manifest(path, "evaluate").inputs["preferences"] for path in evaluations]
    # A run's evaluations share their rows as a rule; a dict drops equal ones and keeps the order.
    return {"preference rows": ", ".join(dict.fromkeys(fingerprints))}
