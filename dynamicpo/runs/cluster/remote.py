"""Runs of a Kubeflow installation to list and compare: from its API and from the object store.

The API has a run's state and parameters, but no metric. Tasks write below
`PIPELINE ROOT/PIPELINE/RUN/`: each evaluation is a folder there, and the `summary.json` of the exit
handler names the images that ran.
"""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynamicpo.core import storage
from dynamicpo.core.errors import ConfigError, DataError, unknown_name
from dynamicpo.runs.cluster.kubeflow import Kubeflow
from dynamicpo.runs.parameters import pipeline_names
from dynamicpo.runs.run_records import (
    ComparedRun,
    ListedRun,
    check_evaluations,
    check_succeeded,
    evaluated_data,
    number_equal_names,
)

if TYPE_CHECKING:
    from kfp_server_api import V2beta1Run

log = logging.getLogger(__name__)

_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EVALUATION = re.compile(r"(?P<folder>.*/evaluation)/manifest\.json")
_SUMMARY = re.compile(r".*/summary/summary\.json")
_ORIGIN = ("images", "package_version")


def fetch_runs(
    names: Sequence[str], kubeflow: Kubeflow, store: str, scratch: Path
) -> list[ComparedRun]:
    """Runs of an installation, with their evaluations copied to this machine.

    Args:
        names: Ids or names of runs; of several runs of one name the newest.
        kubeflow: The installation.
        store: The prefix below which pipelines write, for runs whose record does not hold it.
        scratch: Folder for the copies.

    Raises:
        ConfigError: No such installation or run (the message has the nearest), or no store.
        DataError: A run that has not succeeded or made no evaluation, or artifacts that can't be
            read.
    """
    kubeflow.check()
    runs = [_find_run(name, kubeflow) for name in names]
    # The same run may be named twice, by its id and by its name.
    unique = {run.run_id: run for run in runs}
    compared = [_fetch_run(run, kubeflow, store, scratch) for run in unique.values()]
    return number_equal_names(compared)


def list_cluster_runs(kubeflow: Kubeflow) -> list[ListedRun]:
    """The newest runs of an installation, oldest first.

    They have no metrics here: those are in the store, which only a comparison reads.

    Raises:
        ConfigError: No such installation.
    """
    kubeflow.check()
    return [_listed_run(run) for run in reversed(kubeflow.newest_runs())]


def _listed_run(run: "V2beta1Run") -> ListedRun:
    created = run.created_at
    return {
        "run": str(run.run_id),
        "name": str(run.display_name),
        "state": str(run.state).lower(),
        "started": created.strftime("%Y-%m-%dT%H:%M:%SZ") if created else None,
        "seconds": _duration_seconds(run),
        "hit_ratio_at_1": {},
    }


def _duration_seconds(run: "V2beta1Run") -> float | None:
    """The run's duration; None while it goes on."""
    created = run.created_at
    finished = run.finished_at
    # For a run that goes on the API gives the year 1 or 1970.
    if not created or not finished or finished < created:
        return None
    return float((finished - created).total_seconds())


def _find_run(name: str, kubeflow: Kubeflow) -> "V2beta1Run":
    if _RUN_ID.fullmatch(name):
        return kubeflow.run(name)
    newest = kubeflow.newest_runs()
    for run in newest:
        if name in (run.run_id, run.display_name):
            return run
    raise unknown_name("compare: run", name, {run.display_name for run in newest})


def _fetch_run(run: "V2beta1Run", kubeflow: Kubeflow, store: str, scratch: Path) -> ComparedRun:
    name = str(run.display_name)
    check_succeeded(name, str(run.state))
    files = storage.list_files(_run_prefix(run, store))
    folder = scratch / run.run_id
    evaluations = _fetch_evaluations(files, folder)
    log.info("%s: %d evaluations in the store", name, len(evaluations))
    check_evaluations(name, evaluations)
    config = run.runtime_config
    parameters = dict(config.parameters or {}) if config else {}
    settings = {
        "pipeline version": _version_name(run, kubeflow),
        **_read_origin(files, folder / "summary"),
        **evaluated_data(evaluations),
        **parameters,
    }
    return ComparedRun(name, evaluations, settings)


def _fetch_evaluations(files: Sequence[str], scratch: Path) -> list[Path]:
    """Copies of the evaluations among the files of a run."""
    folders = set()
    for file in files:
        match = _EVALUATION.fullmatch(file)
        if match:
            folders.add(match["folder"])
    evaluations = []
    # All of them are called `evaluation`: each copy needs a folder of its own.
    for number, folder in enumerate(sorted(folders)):
        evaluations.append(storage.fetch(folder, scratch / str(number)))
    return evaluations


def _read_origin(files: Sequence[str], scratch: Path) -> dict[str, object]:
    """The images and the version that ran, from the exit handler's summary."""
    origin: dict[str, object] = {}
    for file in files:
        if _SUMMARY.fullmatch(file):
            summary = _read_summary(file, scratch)
            for key in _ORIGIN:
                if key in summary:
                    origin[key] = summary[key]
    return origin


def _read_summary(file: str, scratch: Path) -> dict[str, object]:
    path = storage.fetch(file, scratch)
    try:
        summary: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file}: must be the summary of a run, but it can't be read ({error})."
        ) from error
    return summary


def _version_name(run: "V2beta1Run", kubeflow: Kubeflow) -> str | None:
    """The name of the version that ran, or its id where it has been deleted since.

    None for a run that was started from a file, without a version.
    """
    reference = run.pipeline_version_reference
    if not reference or not reference.pipeline_version_id:
        return None
    try:
        return kubeflow.version_name(reference.pipeline_id, reference.pipeline_version_id)
    except ConfigError as error:
        log.warning("%s: %s", run.display_name, error)
        return str(reference.pipeline_version_id)


def _run_prefix(run: "V2beta1Run", store: str) -> str:
    """The prefix or folder below which a run's tasks wrote."""
    config = run.runtime_config
    recorded = config.pipeline_root if config else ""
    root = (store or recorded or "").rstrip("/")
    if not root:
        raise ConfigError(
            f"--store: must be given, because {run.display_name} does not say where it wrote. Give "
            "the prefix below which pipelines write, such as gs://bucket/pipelines."
        )
    # The record of a run does not name its pipeline, whose name is part of the prefix.
    folders = [name.replace("_", "-") for name in pipeline_names()]
    prefixes = [f"{root}/{folder}/{run.run_id}" for folder in folders]
    for prefix in prefixes:
        if storage.exists(prefix):
            return prefix
    raise DataError(
        f"{run.display_name}: must have left its artifacts in one of {', '.join(prefixes)}, but "
        "nothing is there. Give the prefix below which pipelines write (--store)."
    )
