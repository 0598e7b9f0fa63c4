"""Runs of a Kubeflow installation, to compare: what its API says of them, and what they left in the store.

The API tells state and parameters but no metric. Tasks write below PIPELINE ROOT/PIPELINE/RUN/: each evaluation is a
folder there, and the exit handler's `summary.json` says which images ran.
"""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynamicpo.core import storage
from dynamicpo.core.errors import ConfigError, DataError, unknown_name
from dynamicpo.runs.cluster.kubeflow import Kubeflow
from dynamicpo.runs.local.run_finder import (
    Run,
    check_evaluations,
    check_state,
    data_of,
    with_different_names,
)
from dynamicpo.runs.pipelines import pipeline_names

log = logging.getLogger(__name__)

_EVALUATION = re.compile(r"(?P<folder>.*/evaluation)/manifest\.json")
_SUMMARY = re.compile(r".*/summary/summary\.json")


def fetch_runs(given: Sequence[str], kubeflow: Kubeflow, store: str, scratch: Path) -> list[Run]:
    """Runs of an installation, with their evaluations copied to this machine.

    Args:
        given: Ids or names of runs; of several runs of one name the newest.
        kubeflow: Where they ran.
        store: The prefix below which pipelines write, for runs that do not say it themselves.
        scratch: Folder for what is copied.

    Raises:
        ConfigError: No such installation or run (the message has the nearest), or no store.
        DataError: A run that has not succeeded, or made no evaluation; or what it left can't be read.
    """
    kubeflow.check()
    runs = {run.run_id: run for run in (_find(text, kubeflow) for text in given)}
    return with_different_names([_fetch(run, kubeflow, store, scratch) for run in runs.values()])


def list_runs(kubeflow: Kubeflow) -> list[dict[str, Any]]:
    """The newest runs of an installation, oldest first, as those of this machine are listed.

    Their metrics stand in the store, which only a comparison reads; so there are none here.

    Raises:
        ConfigError: No such installation.
    """
    kubeflow.check()
    return [
        {
            "run": str(run.run_id),
            "name": str(run.display_name),
            "state": str(run.state).lower(),
            "started": run.created_at.strftime("%Y-%m-%dT%H:%M:%SZ") if run.created_at else None,
            "seconds": _seconds(run),
            "hit_ratio_at_1": {},
        }
        for run in reversed(kubeflow.newest_runs())
    ]


def _seconds(run: Any) -> float | None:
    """How long it took; None while it goes on (the API then gives the year 1 or 1970)."""
    if not run.created_at or not run.finished_at or run.finished_at < run.created_at:
        return None
    return float((run.finished_at - run.created_at).total_seconds())


def _find(text: str, kubeflow: Kubeflow) -> Any:
    """The run of an id or a name."""
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        return kubeflow.run(text)
    newest = kubeflow.newest_runs()
    for run in newest:
        if text in (run.run_id, run.display_name):
            return run
    raise unknown_name("compare: run", text, {run.display_name for run in newest})


def _fetch(run: Any, kubeflow: Kubeflow, store: str, scratch: Path) -> Run:
    name = str(run.display_name)
    check_state(name, str(run.state))
    files = storage.list_files(_place(run, store))
    folders = sorted({found["folder"] for file in files if (found := _EVALUATION.fullmatch(file))})
    log.info("%s: %d evaluations in the store", name, len(folders))
    evaluations = [
        storage.fetch(folder, scratch / run.run_id / str(number))
        for number, folder in enumerate(folders)
    ]
    check_evaluations(name, evaluations)
    summaries = [
        _read(file, scratch / run.run_id / "summary") for file in files if _SUMMARY.fullmatch(file)
    ]
    origin = {
        key: value for summary in summaries for key, value in summary.items() if key in _ORIGIN
    }
    parameters = dict(run.runtime_config.parameters or {}) if run.runtime_config else {}
    return Run(
        name,
        evaluations,
        {
            "pipeline version": _version(run, kubeflow),
            **origin,
            **data_of(evaluations),
            **parameters,
        },
    )


def _version(run: Any, kubeflow: Kubeflow) -> str | None:
    """What ran: the version's name, its id where it has been deleted since, None for a file that was not kept."""
    used = run.pipeline_version_reference
    if not used or not used.pipeline_version_id:
        return None
    try:
        return kubeflow.version_name(used.pipeline_id, used.pipeline_version_id)
    except ConfigError as error:
        log.warning("%s: %s", run.display_name, error)
        return str(used.pipeline_version_id)


_ORIGIN = ("images", "package_version")


def _place(run: Any, store: str) -> str:
    """Where a run's tasks wrote."""
    root = (store or (run.runtime_config.pipeline_root if run.runtime_config else "") or "").rstrip(
        "/"
    )
    if not root:
        raise ConfigError(
            f"--store: must be given, because {run.display_name} does not say where it wrote. Give the prefix below "
            "which pipelines write, such as gs://bucket/pipelines."
        )
    places = [f"{root}/{name.replace('_', '-')}/{run.run_id}" for name in pipeline_names()]
    for place in places:
        if storage.exists(place):
            return place
    raise DataError(
        f"{run.display_name}: must have left its artifacts in one of {', '.join(places)}, but nothing is there. "
        "Give the prefix below which pipelines write (--store)."
    )


def _read(file: str, scratch: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(storage.fetch(file, scratch).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file}: must be the summary of a run, but it can't be read ({error})."
        ) from error
    return found
