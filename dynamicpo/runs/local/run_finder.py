"""Runs of this machine to compare: by folder or name, or the folder of one evaluation."""

from collections.abc import Sequence
from pathlib import Path

from dynamicpo.core.errors import unknown_name
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.runs.local import summary
from dynamicpo.runs.run_records import (
    ComparedRun,
    check_evaluations,
    check_succeeded,
    evaluated_data,
    number_equal_names,
)


def find_runs(names: Sequence[str], folder: Path) -> list[ComparedRun]:
    """Runs of this machine.

    Args:
        names: Folders of runs or of evaluations, or names of runs in `folder`.
        folder: Folder of the runs.

    Raises:
        ConfigError: No run of that name; the message has the nearest.
        DataError: A run that has not succeeded, or made no evaluation.
    """
    runs: dict[Path, ComparedRun] = {}
    for name in names:
        path = _run_folder(name, folder)
        runs.setdefault(path.resolve(), _read_folder(path))
    return number_equal_names(list(runs.values()))


def _run_folder(name: str, folder: Path) -> Path:
    for path in (Path(name), folder / name):
        if path.is_dir():
            return path
    known = [path.parent.name for path in folder.glob("*/summary.json")]
    raise unknown_name("compare: run", name, known)


def _read_folder(path: Path) -> ComparedRun:
    is_run = (path / "summary.json").is_file()
    return _read_run(path) if is_run else _read_evaluation(path)


def _read_evaluation(path: Path) -> ComparedRun:
    manifest = read_manifest(path, "evaluate")
    # As a pipeline names these settings, so that runs and single evaluations can be compared.
    settings = {f"evaluation_{name}": value for name, value in manifest.config.items()}
    data = evaluated_data([path])
    name = path.resolve().name
    return ComparedRun(name, [path], {**data, **settings})


def _read_run(path: Path) -> ComparedRun:
    name = path.resolve().name
    run = summary.read(path)
    check_succeeded(name, str(run.get("state")))
    evaluations = []
    for task in run["tasks"]:
        if evaluation := summary.artifact_path(path, task, "evaluation"):
            evaluations.append(evaluation)
    check_evaluations(name, evaluations)
    origin: JsonObject = {
        "pipeline": run.get("pipeline"),
        "commit": run.get("commit"),
        "image": run.get("image"),
        "package_version": run.get("package_version"),
    }
    settings = {**origin, **evaluated_data(evaluations), **run["parameters"]}
    return ComparedRun(name, evaluations, settings)
