"""Summary of a run on a cluster: its end, the models' metrics, its pods and their last log lines.

Logs are lost with their pods (a spot node, Argo's clean-up), so the pipeline's exit handler keeps
them as artifacts.
"""

import json
import logging
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from dynamicpo import __version__
from dynamicpo.core import storage
from dynamicpo.core.errors import DynamicPOError
from dynamicpo.core.records.manifest import write_json
from dynamicpo.runs.cluster.pods import PodEntry, PodRecord, pod_images, read_pods, short_message
from dynamicpo.runs.run_records import RunMetrics

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

log = logging.getLogger(__name__)

_METRICS_FILE = re.compile(r".*/evaluation/(?P<model>[^/]+)/metrics\.json")


class RunStatus(TypedDict):
    """The end of a run, as KFP gives it to the exit handler."""

    state: str
    error_message: str


class ClusterRunSummary(RunStatus):
    """The content of a cluster run's `summary.json`.

    Attributes:
        run: The run's id.
        package_version: The version of dynamicpo in the image of the exit handler.
        images: The tasks' images.
        metrics: Every model's metrics.
        pods: The run's pods.
        problem: What could not be read.
    """

    run: str
    package_version: str
    images: list[str]
    metrics: RunMetrics
    pods: list[PodEntry]
    problem: NotRequired[str]


def summarize_run(
    run_id: str,
    status: RunStatus,
    summary_folder: Path,
    log_file: Path,
    api: "CoreV1Api | None" = None,
    summary_uri: str = "",
) -> None:
    """Write `summary.json` into a folder, and the pods' last lines as Markdown.

    This runs when something else may have failed already: what can't be read is named in both
    files, not raised.

    Args:
        run_id: The run's id.
        status: State and error message of the run.
        summary_folder: Folder to make.
        log_file: File to write.
        api: The Kubernetes API (default: that of the cluster this runs in).
        summary_uri: The summary's URI in the store, below the run's own prefix: the models' metrics
            are read from there.
    """
    pods, pod_problem = read_pods(run_id, api)
    metrics, metric_problem = _read_metrics(run_id, summary_uri)
    problem = "\n\n".join(text for text in (pod_problem, metric_problem) if text)
    summary: ClusterRunSummary = {
        "run": run_id,
        "state": status["state"],
        "error_message": status["error_message"],
        "package_version": __version__,
        "images": pod_images(pods),
        "metrics": metrics,
        "pods": [pod.entry for pod in pods],
    }
    if problem:
        summary["problem"] = problem
    summary_folder.mkdir(parents=True, exist_ok=True)
    write_json(summary_folder / "summary.json", summary)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.write_text(_logs_as_markdown(summary, pods), encoding="utf-8")


def _read_metrics(run_id: str, summary_uri: str) -> tuple[RunMetrics, str]:
    """Every model's metrics from the evaluations in the store, and a problem in reading them."""
    parent, separator, _ = summary_uri.partition(f"/{run_id}/")
    if not separator:
        return {}, ""
    metrics: RunMetrics = {}
    try:
        _add_metrics(metrics, parent + separator)
    except (DynamicPOError, OSError, ValueError) as error:
        problem = f"The metrics could not be read: {short_message(error)}"
        log.warning(problem)
        return metrics, problem
    return metrics, ""


def _add_metrics(metrics: RunMetrics, prefix: str) -> None:
    """Add the metrics of every evaluation below a prefix; those read before an error remain."""
    with tempfile.TemporaryDirectory() as scratch:
        for number, file in enumerate(storage.list_files(prefix)):
            match = _METRICS_FILE.fullmatch(file)
            if not match:
                continue
            # All files are called `metrics.json`: each copy needs a folder of its own.
            folder = Path(scratch) / str(number)
            path = storage.fetch(file, folder)
            content = json.loads(path.read_text(encoding="utf-8"))
            # Baselines are in the evaluation of the SFT model alone.
            metrics.setdefault(match["model"], content)


def _logs_as_markdown(summary: ClusterRunSummary, pods: Sequence[PodRecord]) -> str:
    run_id = summary["run"]
    state = summary["state"]
    title = f"# Run {run_id}: {state}"
    # Stable: failed pods come first, and keep their order.
    failed_first = sorted(pods, key=lambda pod: not pod.failed)
    sections = [_pod_section(pod) for pod in failed_first]
    error_message = summary["error_message"]
    problem = summary.get("problem", "")
    parts = [title, error_message, problem, *sections]
    return "\n\n".join(part for part in parts if part) + "\n"


def _pod_section(pod: PodRecord) -> str:
    entry = pod.entry
    heading = entry["task"] or entry["pod"]
    details = [entry["phase"], entry["reason"]]
    exit_code = entry["exit_code"]
    if exit_code:
        details.append(f"exit code {exit_code}")
    details.append(entry["node"])
    end = ", ".join(detail for detail in details if detail)
    # Lines are indented, not fenced: no line of a log can end the block or bring in HTML.
    lines = "\n".join(f"    {line}" for line in pod.tail.splitlines())
    return f"## {heading}\n\n{end}\n\n{lines}"
