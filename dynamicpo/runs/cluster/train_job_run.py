"""A `TrainJob` from its creation to its end: its state and its first node's log."""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from dynamicpo.core.errors import DynamicPOError, RunFailedError
from dynamicpo.runs.cluster.train_job_api import Condition, TrainJobs

log = logging.getLogger(__name__)

_POLL_SECONDS = 5.0
_SUCCEEDED, _FAILED = "Complete", "Failed"


def run_train_job(
    job: Mapping[str, object], name: str, jobs: TrainJobs, poll_seconds: float = _POLL_SECONDS
) -> None:
    """Create a job, follow it, and show what its first node logs.

    It is deleted when this process is stopped; when its pod is deleted, by its owner reference.

    Args:
        job: The job.
        name: Its name.
        jobs: The API server.
        poll_seconds: Wait between two looks at it.

    Raises:
        RunFailedError: It has failed, or was deleted.
        ConfigError: It can't be created or followed.
    """
    jobs.create(job)
    log.info("TrainJob %s/%s: created", jobs.namespace, name)
    try:
        _follow(name, jobs, poll_seconds)
    except BaseException:
        with suppress(DynamicPOError):
            jobs.delete(name)
        raise


def _follow(name: str, jobs: TrainJobs, poll_seconds: float) -> None:
    node_log = _NodeLog(name, jobs)
    told = ""
    while True:
        conditions = jobs.conditions(name)
        end = _true_condition(conditions, _SUCCEEDED) or _true_condition(conditions, _FAILED)
        # To the end of the log, as long as its pod runs.
        node_log.read_on()
        if end is not None:
            _tell(name, end)
            return
        state = ", ".join(item["type"] for item in conditions if item["status"] == "True")
        if state != told:
            log.info("TrainJob %s: %s", name, state or "waits")
            told = state
        time.sleep(poll_seconds)


def _true_condition(conditions: list[Condition], kind: str) -> Condition | None:
    for condition in conditions:
        if condition["type"] == kind and condition["status"] == "True":
            return condition
    return None


def _tell(name: str, end: Condition) -> None:
    if end["type"] == _SUCCEEDED:
        log.info("TrainJob %s: complete", name)
        return
    reason = f"{end.get('reason', '')}: {end.get('message', '')}"
    raise RunFailedError(
        f"TrainJob {name}: must be completed, but it has failed ({reason}). Its first node's log "
        "stands above. Started again, the training goes on from its last checkpoint."
    )


class _NodeLog:
    """The log of a job's first node, each line once."""

    def __init__(self, name: str, jobs: TrainJobs) -> None:
        """Start with no line."""
        self._name = name
        self._jobs = jobs
        self._pod = ""
        self._num_read = 0

    def read_on(self) -> None:
        """Show what has come, and what comes while the pod runs."""
        pod = self._jobs.first_node(self._name)
        if pod is None or pod.status.phase == "Pending":
            return
        # Another one after a failure, whose log begins anew.
        if pod.metadata.name != self._pod:
            self._pod = pod.metadata.name
            self._num_read = 0
        for number, line in enumerate(self._jobs.log_lines(self._pod)):
            if number >= self._num_read:
                log.info("node 0: %s", line)
                self._num_read = number + 1
