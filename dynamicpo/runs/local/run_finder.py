"""Runs to compare: on this machine by folder or name, or the folder of one evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynamicpo.core.errors import DataError, unknown_name
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.runs.local import summary


class Run(NamedTuple):
    """What a run left to compare.

    Attributes:
        name: What it is called.
        evaluations: Folders of its evaluations.
        facts: Parameters, data, image, commit: one value for each name.
    """

    name: str
    evaluations: Sequence[Path]
    facts: Mapping[str, Any]


def find_runs(given: Sequence[str], folder: Path) -> list[Run]:
    """Runs of this machine.

    Args:
        given: Folders of runs or of evaluations, or names of runs in `folder`.
        folder: Where runs are.

    Raises:
        ConfigError: No run of that name; the message has the nearest.
        DataError: A run that has not succeeded, or made no evaluation.
    """
    found: dict[Path, Run] = {}
    for text in given:
        place = Path(text) if Path(text).is_dir() else folder / text
        if not place.is_dir():
            raise unknown_name(
                "compare: run", text, [path.parent.name for path in folder.glob("*/summary.json")]
            )
        found.setdefault(place.resolve(), _read(place))
    return with_different_names([*found.values()])


def with_different_names(runs: Sequence[Run]) -> list[Run]:
    """Runs of one name are numbered."""
    names = [run.name for run in runs]
    return [
        run._replace(name=f"{run.name} {place + 1}") if names.count(run.name) > 1 else run
        for place, run in enumerate(runs)
    ]


def check_state(name: str, state: str) -> None:
    """Refuse a run that has not succeeded.

    Raises:
        DataError: It is at work, or has failed.
    """
    if state.lower() != "succeeded":
        going = state.lower() in ("running", "pending")
        what = "Wait for its end" if going else "Run it again"
        raise DataError(
            f"{name}: must be a run that succeeded, but it is {state.lower()!r}. {what}."
        )


def check_evaluations(name: str, evaluations: Sequence[Path]) -> None:
    """Refuse a run without metrics.

    Raises:
        DataError: It made no evaluation.
    """
    if not evaluations:
        raise DataError(
            f"{name}: must have evaluated at least one model, but has no evaluation. Compare other runs."
        )


def data_of(evaluations: Sequence[Path]) -> dict[str, str]:
    """What names the data that was evaluated."""
    marks = [read_manifest(path, "evaluate").inputs["preferences"] for path in evaluations]
    return {"preference rows": ", ".join(dict.fromkeys(marks))}


def _read(place: Path) -> Run:
    if not (place / "summary.json").is_file():
        manifest = read_manifest(place, "evaluate")
        settings = {f"evaluation_{name}": value for name, value in manifest.config.items()}
        return Run(place.resolve().name, [place], {**data_of([place]), **settings})
    found = summary.read(place)
    name = place.resolve().name
    check_state(name, str(found.get("state")))
    outputs = [task["outputs"] for task in found["tasks"]]
    evaluations = [place / made["evaluation"] for made in outputs if "evaluation" in made]
    check_evaluations(name, evaluations)
    origin = {key: found.get(key) for key in ("pipeline", "commit", "image", "package_version")}
    return Run(name, evaluations, {**origin, **data_of(evaluations), **found["parameters"]})
