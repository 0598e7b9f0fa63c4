"""The requests to a cluster's API server that following a `TrainJob` takes, and their failures."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from dynamicpo.core.errors import ConfigError, RunFailedError
from dynamicpo.runs.cluster.train_job import GROUP, NODE, VERSION

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, V1Pod

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

_PLURAL = "trainjobs"
# An API server that restarts is back within minutes.
_ATTEMPTS = 10
_WAIT_SECONDS = 5.0
_FORBIDDEN, _MISSING, _TOO_MANY = 403, 404, 429
_SERVER_ERROR = 500


class Condition(TypedDict, total=False):
    """A condition of a job's status."""

    type: str
    status: str
    reason: str
    message: str


class TrainJobs:
    """The jobs of a namespace.

    Args:
        client: A client of the API server.
        namespace: The namespace.
        wait_seconds: Wait before a request is tried again.
    """

    def __init__(
        self, client: "ApiClient", namespace: str, wait_seconds: float = _WAIT_SECONDS
    ) -> None:
        """Ask nothing yet."""
        from kubernetes import client as kubernetes

        self.namespace = namespace
        self._objects = kubernetes.CustomObjectsApi(client)
        self._pods = kubernetes.CoreV1Api(client)
        self._place = (GROUP, VERSION, namespace, _PLURAL)
        self._wait_seconds = wait_seconds

    def create(self, job: Mapping[str, object]) -> None:
        """Create a job.

        Raises:
            ConfigError: The cluster has no Trainer, or refuses the job.
            RunFailedError: It doesn't answer.
        """
        with _explained("create"):
            self._objects.create_namespaced_custom_object(*self._place, dict(job))

    def conditions(self, name: str) -> list[Condition]:
        """The conditions of a job, none before Trainer has seen it.

        Raises:
            RunFailedError: It was deleted, or nobody answers.
            ConfigError: It may not be read.
        """
        place = (*self._place, name)
        job = self._tried_again(lambda: self._objects.get_namespaced_custom_object(*place))
        conditions: list[Condition] = job.get("status", {}).get("conditions", [])
        return conditions

    def delete(self, name: str) -> None:
        """Delete a job with its pods; nothing happens where it is gone."""
        with _explained("delete"):
            self._objects.delete_namespaced_custom_object(*self._place, name)

    def first_node(self, name: str) -> "V1Pod | None":
        """The newest pod of a job's first node."""
        labels = {
            "jobset.sigs.k8s.io/jobset-name": name,
            "batch.kubernetes.io/job-completion-index": "0",
        }
        selector = ",".join(f"{label}={value}" for label, value in labels.items())
        pods = self._tried_again(
            lambda: self._pods.list_namespaced_pod(self.namespace, label_selector=selector)
        )
        return max(pods.items, key=lambda pod: pod.metadata.creation_timestamp, default=None)

    def log_lines(self, pod: str) -> Iterator[str]:
        """The log of a pod from its start to its end, or to the end of the connection."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            response = self._pods.read_namespaced_pod_log(
                pod, self.namespace, container=NODE, follow=True, _preload_content=False
            )
        except ApiException as error:
            if error.status == _FORBIDDEN:
                raise _error_of("read", error.status, error.reason, error.body) from error
            # Its container has not started, or it is gone: the job's state tells more.
            log.info("%s: no log (%s)", pod, error.reason)
            return
        try:
            for line in response:
                yield line.decode(errors="replace").rstrip("\n")
        except HTTPError as error:
            log.info("%s: its log broke off (%s)", pod, type(error).__name__)

    # Any: answers of the client, which has no types.
    def _tried_again(self, request: Callable[[], Any]) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        for _ in range(_ATTEMPTS - 1):
            try:
                return request()
            except HTTPError as error:
                log.info("the API server doesn't answer: %s", type(error).__name__)
            except ApiException as error:
                if error.status < _SERVER_ERROR and error.status != _TOO_MANY:
                    break
                log.info("the API server answers with %s", error.status)
            time.sleep(self._wait_seconds)
        with _explained("read"):
            return request()


@contextmanager
def _explained(verb: str) -> Iterator[None]:
    """Turn failures of a request into errors that say what to do."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except HTTPError as error:
        raise RunFailedError(
            "the TrainJob: must be followed to its end, but the API server doesn't answer "
            f"({type(error).__name__})."
        ) from error
    except ApiException as error:
        raise _error_of(verb, error.status, error.reason, error.body) from error


def _error_of(verb: str, status: int, reason: str, body: object) -> ConfigError | RunFailedError:
    if status == _FORBIDDEN:
        return ConfigError(
            f"the step's service account: must be allowed to {verb} TrainJobs and to read their "
            "pods' logs, but it is not. Apply an overlay with components/gpu (k8s/README.md)."
        )
    if status == _MISSING and verb == "create":
        return ConfigError(
            "nodes: several need Kubeflow Trainer, but the cluster knows no TrainJob. Install it "
            "(k8s/README.md), or compile with nodes 1."
        )
    if status == _MISSING:
        return RunFailedError("the TrainJob: must live to its end, but it was deleted.")
    return ConfigError(
        f"the TrainJob: the API server refuses to {verb} it: {status} {reason} {body}"
    )
