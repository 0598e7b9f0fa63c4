"""The end of a run on a Kubeflow installation: awaited, and told with the tasks that failed."""

import logging
import time
from typing import TYPE_CHECKING

from dynamicpo.core.errors import ConfigError, RunFailedError
from dynamicpo.runs.cluster.kubeflow import Kubeflow, NoAnswerError
from dynamicpo.runs.cluster.run_end import (
    FAILED_STATES,
    SUCCEEDED_STATES,
    LogSource,
    explain,
    lines_of,
)

if TYPE_CHECKING:
    from kfp_server_api import V2beta1Run

log = logging.getLogger(__name__)

POLL_SECONDS = 15.0


def wait_for_end(kubeflow: Kubeflow, run_id: str, minutes: float, source: LogSource) -> str:
    """Wait for a run to end.

    Args:
        kubeflow: The installation.
        run_id: The run's id.
        minutes: The longest wait. The run goes on after that.
        source: Where the logs of its tasks are.

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
            if state in SUCCEEDED_STATES:
                return state.lower()
            if state in FAILED_STATES:
                raise RunFailedError(f"{_failure(run, source)}\n{kubeflow.link(run_id)}")
        if time.monotonic() + POLL_SECONDS > deadline:
            outcome = f"{state.lower() or 'not known'} after {minutes:g} minutes, and not ended"
            raise RunFailedError(
                f"the run is {outcome}.{problem} It goes on: {kubeflow.link(run_id)}"
            )
        time.sleep(POLL_SECONDS)


def _failure(run: "V2beta1Run", source: LogSource) -> str:
    """The end of a run that did not succeed, and lines for each task that failed."""
    end = explain(run, source)
    outcome = FAILED_STATES[str(run.state)]
    return "\n".join([f"the run {outcome}:", *lines_of(end)])
