"""Runs of a Kubeflow installation to list and compare: from its API and from the object store.

The API has a run's state and times, but no metric and no image: these are in the run's record,
which names the evaluations by their URIs, too. Those of a run whose tasks came from KFP's cache lie
where an earlier run wrote them.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dynamicpo.core import storage
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.runs.cluster.kubeflow import Kubeflow
from dynamicpo.runs.cluster.record import ClusterRecord
from dynamicpo.runs.cluster.stored_records import (
    NoRecordError,
    StoredRun,
    read_stored_record,
    stored_run,
)
from dynamicpo.runs.run_records import (
    ComparedRun,
    ListedRun,
    check_evaluations,
    check_succeeded,
    evaluated_data,
    hit_ratios,
    number_equal_names,
)
from dynamicpo.runs.stored_runs import COMPARED_PARTS

if TYPE_CHECKING:
    from kfp_server_api import V2beta1Run

log = logging.getLogger(__name__)

# Records that are read at once: each takes a few requests, and nearly no time beside them.
_READERS = 8


class Figures(NamedTuple):
    """Figures of a run's models from its record, or the reason why there are none.

    Attributes:
        hit_ratio_at_1: HitRatio@1 of each model.
        problem: One line; empty where there is none.
        is_reached: Whether the store could be read at all.
    """

    hit_ratio_at_1: dict[str, float]
    problem: str = ""
    is_reached: bool = True


def fetch_runs(
    names: Sequence[str], kubeflow: Kubeflow, store: str, copies: storage.LocalCopies
) -> list[ComparedRun]:
    """Runs of an installation, with their evaluations copied to this machine.

    Args:
        names: Ids or names of runs; of several runs of one name the newest.
        kubeflow: The installation.
        store: The prefix below which pipelines write, for runs of which the API does not tell it.
        copies: What keeps the copies.

    Raises:
        ConfigError: No such installation or run; the message has the nearest.
        DataError: A run that has not succeeded or left no record, or artifacts that can't be read.
    """
    kubeflow.check()
    runs = [kubeflow.find_run(name, "compare: run") for name in names]
    # The same run may be named twice, by its id and by its name.
    unique = {run.run_id: run for run in runs}
    compared = [_fetch_run(run, kubeflow, store, copies) for run in unique.values()]
    return number_equal_names(compared)


def _fetch_run(
    run: "V2beta1Run", kubeflow: Kubeflow, store: str, copies: storage.LocalCopies
) -> ComparedRun:
    stored = stored_run(run, store)
    check_succeeded(stored.name, str(run.state))
    record = read_stored_record(stored)
    evaluations = _fetch_evaluations(record, copies)
    log.info("%s: %d evaluations in the store", stored.name, len(evaluations))
    check_evaluations(stored.name, evaluations)
    settings = {
        "pipeline version": _version_name(run, kubeflow),
        "images": record["images"],
        "package_version": record["package_version"],
        **evaluated_data(evaluations),
        **record["parameters"],
    }
    return ComparedRun(stored.name, evaluations, settings)


def _fetch_evaluations(record: ClusterRecord, copies: storage.LocalCopies) -> list[Path]:
    """Copies of a run's evaluations, that of SFT, which holds the baselines, first."""
    # The record's keys are sorted, so that its bytes don't depend on the order of writing.
    by_model = sorted(record["evaluations"].items(), key=lambda entry: (entry[0] != "sft", entry))
    return [copies.fetch(uri, COMPARED_PARTS) for _, uri in by_model]


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


def list_cluster_runs(kubeflow: Kubeflow, store: str = "") -> list[ListedRun]:
    """The newest runs of an installation, oldest first, with figures where the store has them.

    Args:
        kubeflow: The installation.
        store: The prefix below which pipelines write, for runs of which the API does not tell it.

    Raises:
        ConfigError: No such installation.
    """
    kubeflow.check()
    newest = kubeflow.newest_runs()
    succeeded = [stored_run(run, store) for run in newest if str(run.state) == "SUCCEEDED"]
    figures = _read_all_figures(succeeded)
    return [_listed_run(run, kubeflow, figures) for run in reversed(newest)]


def read_figures(run: StoredRun) -> Figures:
    """Figures of a run's models from its record, or the reason why it can't be read."""
    try:
        return Figures(hit_ratios(read_stored_record(run)))
    except NoRecordError as error:
        return Figures({}, str(error))
    except DataError as error:
        return Figures({}, " ".join(str(error).split()), is_reached=False)


def _read_all_figures(runs: Sequence[StoredRun]) -> dict[str, Figures]:
    """Figures of runs by their ids; a store that can't be read is asked once."""
    by_root: dict[str, list[StoredRun]] = {}
    for run in runs:
        by_root.setdefault(run.root, []).append(run)
    figures: dict[str, Figures] = {}
    for first, *others in by_root.values():
        answer = read_figures(first)
        figures[first.run_id] = answer
        if not answer.is_reached:
            figures |= {run.run_id: answer for run in others}
            continue
        with ThreadPoolExecutor(_READERS) as readers:
            answers = list(readers.map(read_figures, others))
        figures |= {run.run_id: answer for run, answer in zip(others, answers, strict=True)}
    return figures


def _listed_run(run: "V2beta1Run", kubeflow: Kubeflow, figures: Mapping[str, Figures]) -> ListedRun:
    created = run.created_at
    run_id = str(run.run_id)
    found = figures.get(run_id, Figures({}))
    listed: ListedRun = {
        "run": run_id,
        "name": str(run.display_name),
        "state": str(run.state).lower(),
        "started": created.strftime("%Y-%m-%dT%H:%M:%SZ") if created else None,
        "seconds": _duration_seconds(run),
        "link": kubeflow.link(run_id),
        "hit_ratio_at_1": found.hit_ratio_at_1,
    }
    if found.problem:
        listed["problem"] = found.problem
    return listed


def _duration_seconds(run: "V2beta1Run") -> float | None:
    """The run's duration; None while it goes on."""
    created = run.created_at
    finished = run.finished_at
    # For a run that goes on the API gives the year 1 or 1970.
    if not created or not finished or finished < created:
        return None
    duration = finished - created
    return float(duration.total_seconds())
