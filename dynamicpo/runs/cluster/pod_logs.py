"""The logs of a run's pods, in the object store.

They stay when pods and workflow are gone. KFP publishes what a task wrote as an artifact of the
task, `TASK/.../executor-logs-0`, a number for each attempt; Argo keeps the log of every pod, those
of drivers too, as `WORKFLOW/YEAR/MONTH/DAY/POD/main.log`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dynamicpo.core import storage
from dynamicpo.core.errors import DataError
from dynamicpo.core.stage_subjects import subject_in
from dynamicpo.runs.cluster.log_lines import error_in, last_line
from dynamicpo.runs.cluster.workflow_nodes import WorkflowNodes

# Of a stock installation.
DEFAULT_ROOT = "minio://mlpipeline/v2/artifacts"
DEFAULT_ARCHIVE = "minio://mlpipeline/private-artifacts"
DEFAULT_NAMESPACE = "kubeflow"
_PUBLISHED = re.compile(r".*/(?P<task>[^/]+)/[^/]+/executor-logs(?:-(?P<attempt>\d+))?")
_ARCHIVED = re.compile(r".*/(?P<pod>[^/]+)/main\.log")


class PodLog(NamedTuple):
    """The log of a pod.

    Attributes:
        uri: Where it is.
        text: What it says.
    """

    uri: str
    text: str

    @property
    def error(self) -> str:
        """The error that ended the pod; empty where the log names none."""
        return error_in(self.text)

    @property
    def last_line(self) -> str:
        """The last thing that the task wrote; empty where it wrote nothing."""
        return last_line(self.text)

    @property
    def subject(self) -> str:
        """The objective, or the cell, that the stage said it is about."""
        return subject_in(self.text)


@dataclass(frozen=True, kw_only=True)
class LogPlaces:
    """The places of the logs of a run.

    Attributes:
        published: The prefix below which the run's tasks write.
        archived: The prefix below which Argo keeps the logs of the workflow's pods.
    """

    published: str
    archived: str


def log_places(
    workflow: WorkflowNodes, run_id: str, root: str, archive: str, namespace: str
) -> LogPlaces:
    """The places of the logs of a run.

    Args:
        workflow: The run's workflow.
        run_id: The run's id.
        root: The prefix below which pipelines write; empty for that of a stock installation.
        archive: The prefix below which Argo keeps a namespace's logs; empty for a stock one's.
        namespace: The user's namespace; empty where there is one user.
    """
    root = (root or DEFAULT_ROOT).rstrip("/")
    archive = archive or f"{DEFAULT_ARCHIVE}/{namespace or DEFAULT_NAMESPACE}"
    return LogPlaces(
        published=f"{root}/{workflow.pipeline}/{run_id}",
        archived=f"{archive.rstrip('/')}/{workflow.name}",
    )


class PodLogs:
    """The logs of a run, as far as they can be read.

    Args:
        places: Where they are.

    Attributes:
        problems: Why some could not be read.
    """

    def __init__(self, places: LogPlaces) -> None:
        """List the logs; none is read yet."""
        self.problems: list[str] = []
        self._archived: dict[int, str] = {}
        self._published: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for uri in self._list(places.archived):
            match = _ARCHIVED.fullmatch(uri)
            if not match:
                continue
            # A pod is named WORKFLOW-TEMPLATE-HASH, with the template's name cut where long.
            number = match["pod"].rpartition("-")[2]
            if number.isdecimal():
                self._archived[int(number)] = uri
        for uri in self._list(places.published):
            match = _PUBLISHED.fullmatch(uri)
            if match:
                attempt = int(match["attempt"] or 0)
                self._published[match["task"]].append((attempt, uri))

    def archived(self, pods: Sequence[int]) -> list[PodLog]:
        """The logs that Argo kept of pods, by the hashes of their names, in that order."""
        return self._read(self._archived[pod] for pod in pods if pod in self._archived)

    def published(self, task: str) -> list[PodLog]:
        """The logs that the tasks of a name published, the last attempts' first."""
        last_first = sorted(self._published[task], reverse=True)
        return self._read(uri for _, uri in last_first)

    def _list(self, prefix: str) -> list[str]:
        try:
            return storage.list_files(prefix) if storage.exists(prefix) else []
        except (DataError, OSError) as error:
            self._note(error)
            return []

    def _read(self, uris: Iterable[str]) -> list[PodLog]:
        logs = []
        for uri in uris:
            try:
                content = storage.read_bytes(uri)
            except (DataError, OSError) as error:
                self._note(error)
            else:
                logs.append(PodLog(uri, content.decode("utf-8", errors="replace")))
        return logs

    def _note(self, error: Exception) -> None:
        problem = " ".join(str(error).split())
        # Both places are in one store as a rule, which fails in the same way each time.
        if problem not in self.problems:
            self.problems.append(problem)
