"""The last word of a run on a cluster: how it and each of its pods ended, and the last lines of their logs.

Logs are lost with their pods (a spot node, Argo's clean-up), so the pipeline's exit handler keeps them as artifacts.
"""

import json
import logging
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamicpo import __version__
from dynamicpo.core import storage
from dynamicpo.core.errors import DynamicPOError
from dynamicpo.core.records.manifest import write_json

log = logging.getLogger(__name__)

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
RUN_LABEL = "pipeline/runid"
TASK_ANNOTATION = "workflows.argoproj.io/node-name"
TAIL_LINES = 50
TAIL_BYTES = 20_000
_METRICS = re.compile(r".*/evaluation/[^/]+/metrics\.json")


def summarize_run(
    run_id: str,
    status: Mapping[str, str],
    summary: Path,
    tails: Path,
    api: Any = None,
    place: str = "",
) -> None:
    """Write `summary.json` into a folder, and the pods' last lines as Markdown.

    What can't be read is named there, not raised: this runs when something else has failed already.

    Args:
        run_id: The run's id.
        status: What KFP says of the run: state and error message.
        summary: Folder to make.
        tails: File to write.
        api: A Kubernetes CoreV1Api (default: that of the cluster this runs in).
        place: Where the summary will be in the store, below the run's own prefix; the models' metrics are read there.
    """
    pods, problem = _pods(run_id, api)
    metrics, lost = _metrics(run_id, place)
    problem = "\n\n".join(text for text in (problem, lost) if text)
    failed = [pod for pod in pods if pod["reason"] or pod["phase"] == "Failed"]
    summary.mkdir(parents=True, exist_ok=True)
    found = {
        "run": run_id,
        **status,
        "package_version": __version__,
        "images": sorted({pod["image"] for pod in pods if pod["image"]}),
        "metrics": metrics,
        "pods": [
            {key: value for key, value in pod.items() if key not in ("tail", "image")}
            for pod in pods
        ],
    }
    write_json(summary / "summary.json", {**found, **({"problem": problem} if problem else {})})
    parts = [
        f"# Run {run_id}: {status.get('state', 'unknown')}",
        status.get("error_message", ""),
        problem,
    ]
    parts += [_tail(pod) for pod in [*failed, *(pod for pod in pods if pod not in failed)]]
    tails.parent.mkdir(parents=True, exist_ok=True)
    tails.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _metrics(run_id: str, place: str) -> tuple[dict[str, Any], str]:
    """Every model's metrics from the evaluations in the store, and what went wrong in reading them."""
    prefix, found, _ = place.partition(f"/{run_id}/")
    if not found:
        return {}, ""
    metrics: dict[str, Any] = {}
    try:
        files = [file for file in storage.list_files(prefix + found) if _METRICS.fullmatch(file)]
        with tempfile.TemporaryDirectory() as scratch:
            for number, file in enumerate(files):
                path = storage.fetch(file, Path(scratch) / str(number))
                metrics.setdefault(
                    file.split("/")[-2], json.loads(path.read_text(encoding="utf-8"))
                )
    except (DynamicPOError, OSError, ValueError) as error:
        text = f"The metrics could not be read: {' '.join(str(error).split())[:500]}"
        log.warning(text)
        return metrics, text
    return metrics, ""


def _pods(run_id: str, api: Any) -> tuple[list[dict[str, Any]], str]:
    """The run's pods with their last lines, and what went wrong in asking for them."""
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError

    try:
        if api is None:
            config.load_incluster_config()
            api = client.CoreV1Api()
        namespace = (
            NAMESPACE.read_text(encoding="utf-8").strip() if NAMESPACE.exists() else "default"
        )
        found = api.list_namespaced_pod(
            namespace, label_selector=f"{RUN_LABEL}={run_id}", limit=500
        )
        return [
            _pod(pod, api, namespace)
            for pod in sorted(found.items, key=lambda pod: str(pod.metadata.name))
        ], ""
    except (client.ApiException, config.ConfigException, HTTPError, OSError) as error:
        text = f"The pods could not be read: {' '.join(str(error).split())[:500]}"
        log.warning(text)
        return [], text


def _pod(pod: Any, api: Any, namespace: str) -> dict[str, Any]:
    states = {item.name: item.state.terminated for item in pod.status.container_statuses or []}
    ended = states.get("main")
    reason = pod.status.reason or (ended.reason if ended and ended.exit_code else "") or ""
    return {
        "pod": pod.metadata.name,
        "task": (pod.metadata.annotations or {}).get(TASK_ANNOTATION, ""),
        "node": pod.spec.node_name or "",
        "image": next((item.image for item in pod.spec.containers if item.name == "main"), ""),
        "phase": pod.status.phase,
        "reason": reason,
        "exit_code": ended.exit_code if ended else None,
        "tail": _log(pod.metadata.name, api, namespace),
    }


def _log(pod: str, api: Any, namespace: str) -> str:
    from kubernetes import client
    from urllib3.exceptions import HTTPError

    try:
        text = api.read_namespaced_pod_log(
            pod, namespace, container="main", tail_lines=TAIL_LINES, limit_bytes=TAIL_BYTES
        )
        return str(text)
    except (client.ApiException, HTTPError) as error:
        return f"(no log: {getattr(error, 'reason', '') or error})"


def _tail(pod: Mapping[str, Any]) -> str:
    """A pod's section. Its lines are indented: no log can end a block of code or bring in HTML."""
    facts = [
        pod["phase"],
        pod["reason"],
        f"exit code {pod['exit_code']}" if pod["exit_code"] else "",
        pod["node"],
    ]
    lines = "\n".join(f"    {line}" for line in pod["tail"].splitlines())
    return (
        f"## {pod['task'] or pod['pod']}\n\n{', '.join(fact for fact in facts if fact)}\n\n{lines}"
    )
