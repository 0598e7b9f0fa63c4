"""The end of a run, explained: the tasks that failed, and the telling line of each one's log.

The API says neither: its errors are empty. So tasks come from the nodes of the run's workflow, and
lines from the logs in the object store.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from dynamicpo.runs.cluster.pod_logs import (
    DEFAULT_ARCHIVE,
    DEFAULT_NAMESPACE,
    PodLog,
    PodLogs,
    log_places,
)
from dynamicpo.runs.cluster.workflow_nodes import FailedTask, WorkflowNodes, read_workflow

if TYPE_CHECKING:
    from kfp_server_api import V2beta1Run

SUCCEEDED_STATES = ("SUCCEEDED", "SKIPPED")
FAILED_STATES = {"FAILED": "failed", "CANCELED": "was cancelled"}
_NODE_MESSAGES = r'{range .status.nodes.*}{.displayName}{"\t"}{.phase}{"\t"}{.message}{"\n"}{end}'


class Failure(TypedDict):
    """A task that failed.

    Attributes:
        task: Its name.
        about: Where it stands in a loop: the objective or cell that its log names, else the item.
        error: The telling line of its log, or why there is none.
        log: The URI of its log; empty where there is none.
    """

    task: str
    about: str
    error: str
    log: str


@dataclass(frozen=True, kw_only=True)
class LogSource:
    """The places of logs as a user names them; each is empty where a stock one holds.

    Attributes:
        root: The prefix below which pipelines write.
        archive: The prefix below which Argo keeps the logs of a namespace's pods.
        namespace: The user's namespace.
    """

    root: str = ""
    archive: str = ""
    namespace: str = ""


class RunEnd(TypedDict):
    """The explanation of a run's end.

    Attributes:
        failures: The tasks that failed.
        notes: What else there is to say, and where to look.
    """

    failures: list[Failure]
    notes: list[str]


def explain(run: "V2beta1Run", source: LogSource) -> RunEnd:
    """Explain the end of a run, or of its tasks so far.

    Args:
        run: The run as the API answers for it.
        source: Where logs are.
    """
    workflow = read_workflow(run)
    failed = workflow.failed_tasks()
    notes = []
    if run.error and run.error.message:
        notes.append(str(run.error.message))
    if run.state in FAILED_STATES:
        notes += _notes_on_early_end(run, workflow, failed, source)
    if not failed:
        return {"failures": [], "notes": notes}
    logs = run_logs(run, workflow, source)
    failures = list(_failures(failed, logs))
    if not all(failure["log"] for failure in failures):
        notes += _notes_on_missing_logs(workflow, logs, source)
    return {"failures": failures, "notes": notes}


def run_logs(run: "V2beta1Run", workflow: WorkflowNodes, source: LogSource) -> PodLogs:
    """The logs of a run's pods."""
    config = run.runtime_config
    root = source.root or (config.pipeline_root if config else "") or ""
    run_id = str(run.run_id)
    return PodLogs(log_places(workflow, run_id, root, source.archive, source.namespace))


def lines_of(end: RunEnd) -> list[str]:
    """The explanation as lines of text."""
    lines = []
    for failure in end["failures"]:
        about = f" ({failure['about']})" if failure["about"] else ""
        # A message of several lines stays together.
        error = failure["error"].replace("\n", "\n    ")
        lines.append(f"{failure['task']}{about}: {error}")
        if failure["log"]:
            lines.append(f"    log: {failure['log']}")
    return [*lines, *end["notes"]]


def _failures(failed: Sequence[FailedTask], logs: PodLogs) -> Iterator[Failure]:
    """Each failed task with its log: the archived one, which is its own, else a published one."""
    without: dict[str, list[FailedTask]] = defaultdict(list)
    subjects = set()
    for task in failed:
        log = _archived_log(task, logs)
        if log:
            subjects.add(log.subject)
            yield _failure(task, log)
        else:
            without[task.name if not task.is_driver else ""].append(task)
    for task in without.pop("", []):
        yield _failure(task, None)
    for name, tasks in without.items():
        # Nothing says which item of a loop published a log: the log itself names what it is about.
        published = _failed_logs(logs.published(name), subjects, in_loop=bool(tasks[0].loop))
        for number, task in enumerate(tasks):
            yield _failure(task, published[number] if number < len(published) else None)


def _archived_log(task: FailedTask, logs: PodLogs) -> PodLog | None:
    """The log of the last attempt that left one."""
    archived = logs.archived(task.pods)
    return archived[0] if archived else None


def _failed_logs(published: Sequence[PodLog], known: set[str], in_loop: bool) -> list[PodLog]:
    """The logs that end with an error, one for each objective or cell that is not known."""
    chosen: dict[str, PodLog] = {}
    for log in published:
        if log.error and not (in_loop and log.subject in known):
            chosen.setdefault(log.subject if in_loop else "", log)
    return list(chosen.values())


def _failure(task: FailedTask, log: PodLog | None) -> Failure:
    subject = log.subject if log and task.loop else ""
    about = subject or (f"item {task.item} of {task.loop}" if task.item else "")
    return {
        "task": f"{task.name}, its driver" if task.is_driver else task.name,
        "about": about,
        "error": _error(task, log),
        "log": log.uri if log else "",
    }


def _error(task: FailedTask, log: PodLog | None) -> str:
    """The telling line of a task's log, or the likely reasons why there is none."""
    if log and log.error:
        return log.error
    killed = "killed (out of memory, exit code 137), evicted, or lost with its node"
    if log:
        return f"failed without an error in its log: its pod was {killed}, after: {log.last_line}"
    if task.had_pod:
        return f"failed, and no log of it was found: its pod was {killed}, and left none."
    return (
        "failed before it had a pod, so there is no log: the service account is missing, or a "
        "quota or an admission policy refuses its pods."
    )


def _notes_on_early_end(
    run: "V2beta1Run", workflow: WorkflowNodes, failed: Sequence[FailedTask], source: LogSource
) -> list[str]:
    """Notes on a run in which no task failed, or none began."""
    if not workflow.name:
        return ["The API tells of none of its tasks."]
    if not workflow.began:
        account = run.service_account or "of the installation's default"
        namespace = _namespace(source)
        return [
            f"It ended before any task began. It was sent with the service account {account}: "
            "without that no pod starts. Make it, with its role, by `k8s/apply.sh OVERLAY` "
            f"(k8s/README.md); `kubectl -n {namespace} get serviceaccount {account}` shows whether "
            "it is there.",
            *([] if failed else [_kubectl_line(workflow, source)]),
        ]
    if failed:
        return []
    return [
        "No task of it failed: it was terminated, or its time was over.",
        _kubectl_line(workflow, source),
    ]


def _notes_on_missing_logs(workflow: WorkflowNodes, logs: PodLogs, source: LogSource) -> list[str]:
    notes = [
        f"Logs could not be read: {problem} Where logs are is said by --store and --archive."
        for problem in logs.problems
    ]
    return [*notes, _kubectl_line(workflow, source)]


def _kubectl_line(workflow: WorkflowNodes, source: LogSource) -> str:
    """The command that shows what Kubernetes said of the nodes."""
    return (
        "The nodes' own messages, while the workflow exists (a stock installation deletes it an "
        f"hour after its end): kubectl -n {_namespace(source)} get workflow {workflow.name} "
        f"-o jsonpath='{_NODE_MESSAGES}'"
    )


def _namespace(source: LogSource) -> str:
    """The namespace of a run's pods, as far as it is known.

    An installation for one user does not tell its own, but keeps logs below a folder of that name.
    """
    folder, _, name = source.archive.rstrip("/").rpartition("/")
    archived = name if folder == DEFAULT_ARCHIVE else ""
    return source.namespace or archived or DEFAULT_NAMESPACE
