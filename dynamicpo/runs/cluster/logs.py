"""`dynamicpo logs`: why a run failed, or what a task of it wrote."""

from typing import NotRequired, TypedDict

from dynamicpo.core.errors import DataError, unknown_name
from dynamicpo.runs.cluster.kubeflow import Kubeflow
from dynamicpo.runs.cluster.run_end import Failure, LogSource, explain, run_logs
from dynamicpo.runs.cluster.workflow_nodes import read_workflow


class TaskLog(TypedDict):
    """The log of one pod of a task.

    Attributes:
        log: Its URI.
        text: What it says.
    """

    log: str
    text: str


class RunLogs(TypedDict):
    """The result of `logs`.

    Attributes:
        run: The run's id.
        name: Its name.
        state: Its state, in lower case.
        link: The URL of its page.
        failures: The tasks that failed.
        notes: What else there is to say, and where to look.
        logs: The logs of the task that was asked for.
    """

    run: str
    name: str
    state: str
    link: str
    failures: list[Failure]
    notes: list[str]
    logs: NotRequired[list[TaskLog]]


def read_logs(name: str, kubeflow: Kubeflow, source: LogSource, task: str = "") -> RunLogs:
    """The end of a run, explained from its logs; with a task also all that this task wrote.

    Args:
        name: The run's id or name.
        kubeflow: The installation.
        source: Where logs are.
        task: The name of a task.

    Raises:
        ConfigError: There is no such run or task.
        DataError: The task left no log that can be read.
    """
    kubeflow.check()
    run = kubeflow.find_run(name, "logs: run")
    end = explain(run, source)
    result: RunLogs = {
        "run": str(run.run_id),
        "name": str(run.display_name),
        "state": str(run.state).lower(),
        "link": kubeflow.link(str(run.run_id)),
        "failures": end["failures"],
        "notes": end["notes"],
    }
    if not task:
        return result
    workflow = read_workflow(run)
    if task not in workflow.task_names:
        raise unknown_name("--task", task, workflow.task_names)
    logs = run_logs(run, workflow, source)
    found = logs.archived(workflow.pods(task)) or logs.published(task)
    if not found:
        problems = " ".join(logs.problems) or "a task that came from the cache wrote none"
        raise DataError(
            f"{task}: must have left a log, but none is there: {problems}. "
            "Where logs are is said by --store and --archive."
        )
    result["logs"] = [{"log": log.uri, "text": log.text} for log in found]
    return result
