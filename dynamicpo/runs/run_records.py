"""Runs as commands list and compare them, of this machine and of a Kubeflow installation alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonValue
from dynamicpo.core.records.manifest import read_manifest

# From a model's name to its metrics.
RunMetrics = dict[str, dict[str, float]]


class ListedRun(TypedDict):
    """A line in the list of runs.

    Attributes:
        run: The run's folder by name, or its id.
        name: Its display name; runs on a cluster only.
        pipeline: The pipeline's name; runs of this machine only.
        state: How it goes or how it ended, in lower case; None where that is not known.
        started: When it began, UTC; None where that is not known.
        seconds: How long it took; None while it goes on.
        hit_ratio_at_1: HitRatio@1 of each model.
    """

    run: str
    name: NotRequired[str]
    pipeline: NotRequired[str | None]
    state: str | None
    started: str | None
    seconds: float | None
    hit_ratio_at_1: dict[str, float]


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
    remedy = "Wait for its end" if state in ("running", "pending") else "Run it again"
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
