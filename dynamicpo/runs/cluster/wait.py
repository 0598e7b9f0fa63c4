"""The end of a run on a Kubeflow installation: awaited, and told with the tasks that failed."""

import logging
import time
from typing import TYPE_CHECKING

from dynamicpo.core.errors import ConfigError, RunFailedError
from dynamicpo.runs.cluster.kubeflow import Kubeflow, NoAnswerError

if TYPE_CHECKING:
    from kfp_server_api import V2beta1PipelineTaskDetail, V2beta1Run

log = logging.getLogger(__name__)

POLL_SECONDS = 15.0
_GOOD_STATES = ("SUCCEEDED", "SKIPPED")
_BAD_STATES = {"FAILED": "failed", "CANCELED": "was cancelled"}


def wait_for_end(kubeflow: Kubeflow, run_id: str, minutes: float) -> str:
    """Wait for a run to end.

    Args:
        kubeflow: The installation.
        run_id: The run's id.
        minutes: The longest wait. The run goes on after that.

    Returns:
        Its state, if that is a good one.

    Raises:
        RunFailedError: It failed, was cancelled, or goes on; or its state can't be read.
    """
    deadline = time.monotonic() + minutes * 60
    state = ""
    while True:
        problem = ""
        try:
            run = kubeflow.run(run_id)
        # A proxy that restarts must not fail a run of hours.
        except NoAnswerError as error:
            log.info("%s", error)
            problem = f" {error}"
        except ConfigError as error:
            raise RunFailedError(
                f"the run can't be watched: {error} It goes on: {kubeflow.link(run_id)}"
            ) from error
        else:
            if run.state != state:
                log.info("%s", str(run.state).lower())
            state = str(run.state)
            if state in _GOOD_STATES:
                return state.lower()
            if state in _BAD_STATES:
                raise RunFailedError(f"the run {_failure(run)}\n{kubeflow.link(run_id)}")
        if time.monotonic() + POLL_SECONDS > deadline:
            outcome = f"{state.lower() or 'not known'} after {minutes:g} minutes, and not ended"
            raise RunFailedError(
                f"the run is {outcome}.{problem} It goes on: {kubeflow.link(run_id)}"
            )
        time.sleep(POLL_SECONDS)


def _failure(run: "V2beta1Run") -> str:
    """The end of a run that did not succeed, and a line for each task that failed."""
    lines = []
    if run.error and run.error.message:
        lines.append(run.error.message)
    for task in _failed_tasks(run):
        error = task.error
        message = (error.message if error else "") or "failed"
        lines.append(f"{task.display_name}: {message}")
    outcome = _BAD_STATES[run.state]
    return "\n".join([f"{outcome}:", *lines]) if lines else f"{outcome}."


def _failed_tasks(run: "V2beta1Run") -> "list[V2beta1PipelineTaskDetail]":
    details = run.run_details.task_details if run.run_details else None
    # A loop fails with a task in it, and says less of it than the task itself.
    return [task for task in details or [] if task.state == "FAILED" and not task.child_tasks]
