"""The pods of a run on a cluster: their ends, and the last lines of their logs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api, V1ContainerStateTerminated, V1Pod

log = logging.getLogger(__name__)

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# Labels and annotations that KFP and its Argo Workflows put on a run's pods.
RUN_LABEL = "pipeline/runid"
TASK_ANNOTATION = "workflows.argoproj.io/node-name"
# The container of a pod that the task runs in; others are KFP's own.
_TASK_CONTAINER = "main"
TAIL_LINES = 50
TAIL_BYTES = 20_000
_MAX_PODS = 500
_MESSAGE_CHARACTERS = 500


class PodEntry(TypedDict):
    """A pod in the summary of a run."""

    pod: str
    task: str
    node: str
    phase: str
    reason: str
    exit_code: int | None


@dataclass(frozen=True)
class PodRecord:
    """A pod of a run.

    Attributes:
        entry: Its part in the summary.
        image: The image of its task.
        tail: The last lines of its log.
    """

    entry: PodEntry
    image: str
    tail: str

    @property
    def failed(self) -> bool:
        """Tell whether it failed, or was taken away."""
        return bool(self.entry["reason"]) or self.entry["phase"] == "Failed"


def read_pods(run_id: str, api: "CoreV1Api | None") -> tuple[list[PodRecord], str]:
    """The run's pods, and the problem that kept them from being read.

    Args:
        run_id: The run's id.
        api: The Kubernetes API (default: that of the cluster this runs in).
    """
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError

    try:
        if api is None:
            config.load_incluster_config()
            api = client.CoreV1Api()
        namespace = _namespace()
        selector = f"{RUN_LABEL}={run_id}"
        listed = api.list_namespaced_pod(namespace, label_selector=selector, limit=_MAX_PODS)
        pods = sorted(listed.items, key=lambda pod: str(pod.metadata.name))
        return [_read_pod(pod, api, namespace) for pod in pods], ""
    except (client.ApiException, config.ConfigException, HTTPError, OSError) as error:
        problem = f"The pods could not be read: {short_message(error)}"
        log.warning(problem)
        return [], problem


def short_message(error: Exception) -> str:
    """An error's text in one line of limited length."""
    return " ".join(str(error).split())[:_MESSAGE_CHARACTERS]


def _namespace() -> str:
    if not NAMESPACE_FILE.exists():
        return "default"
    return NAMESPACE_FILE.read_text(encoding="utf-8").strip()


def _read_pod(pod: "V1Pod", api: "CoreV1Api", namespace: str) -> PodRecord:
    terminated = _termination(pod)
    # The pod's own reason (Evicted, preempted by a spot node's end) says more than its container's,
    # which after a good end is `Completed`.
    reason = pod.status.reason or ""
    exit_code = None
    if terminated:
        exit_code = terminated.exit_code
        if exit_code and not reason:
            reason = terminated.reason or ""
    annotations = pod.metadata.annotations or {}
    entry: PodEntry = {
        "pod": pod.metadata.name,
        "task": annotations.get(TASK_ANNOTATION, ""),
        "node": pod.spec.node_name or "",
        "phase": pod.status.phase,
        "reason": reason,
        "exit_code": exit_code,
    }
    return PodRecord(entry, _task_image(pod), _read_tail(pod.metadata.name, api, namespace))


def _termination(pod: "V1Pod") -> "V1ContainerStateTerminated | None":
    """The end of a pod's task; None while it runs."""
    for status in pod.status.container_statuses or []:
        if status.name == _TASK_CONTAINER:
            return status.state.terminated
    return None


def _task_image(pod: "V1Pod") -> str:
    for container in pod.spec.containers:
        if container.name == _TASK_CONTAINER:
            return str(container.image)
    return ""


def _read_tail(pod: str, api: "CoreV1Api", namespace: str) -> str:
    from kubernetes import client
    from urllib3.exceptions import HTTPError

    try:
        text = api.read_namespaced_pod_log(
            pod,
            namespace,
            container=_TASK_CONTAINER,
            tail_lines=TAIL_LINES,
            limit_bytes=TAIL_BYTES,
        )
    # A pod that is gone has no log; the others' are worth having all the same.
    except (client.ApiException, HTTPError) as error:
        return f"(no log: {getattr(error, 'reason', '') or error})"
    return str(text)


def pod_images(pods: Sequence[PodRecord]) -> list[str]:
    """The images of the tasks, each once, sorted."""
    return sorted({pod.image for pod in pods if pod.image})
