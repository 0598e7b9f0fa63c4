"""The tasks of a run, from the nodes of its workflow as the API tells of them.

The API names a node's children by their ids and not the node itself, and calls every leaf of a task
`executor(0)`. Argo makes a node's id of its whole name, by a hash: so names are tried from the root
on, and those are right whose ids the API knows. Attempts at a node `NAME` are nodes `NAME(0)`,
`NAME(1)`; what an item of a loop runs is in a node `iteration-iterations(0:...)`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kfp_server_api import V2beta1PipelineTaskDetail, V2beta1Run

# FNV-1a of 32 bits.
_HASH_START = 0x811C9DC5
_HASH_PRIME = 0x01000193
_HASH_MASK = 0xFFFFFFFF
_ATTEMPT = re.compile(r"\((\d+)\)")
_LOOP_ITEM = re.compile(r"\.iteration-iterations\((\d+):")
# KFP's names: what runs a task, what prepares it, the two parts of a loop, the whole.
_EXECUTOR = "executor"
_DRIVER = "-driver"
_LOOP_PARTS = ("iteration", "iteration-item")
_ROOT = "root"
_FAILED = "FAILED"
_SUCCEEDED = "SUCCEEDED"
_WITH_POD = {"PENDING", "RUNNING", _SUCCEEDED}


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of a workflow.

    Attributes:
        name: Its whole name, from the workflow's on.
        display_name: The last part of that.
        hash_value: The hash of its name, which ends its id and its pod's name.
        scope: The name of the node that it is a part of.
        attempt_of: The name of the node that it is an attempt at, where it is one.
        state: Its state; empty where the API gives none.
        had_pod: Whether it ever came as far as a pod.
    """

    name: str
    display_name: str
    hash_value: int
    scope: str = ""
    attempt_of: str = ""
    state: str = ""
    had_pod: bool = False

    @property
    def attempts(self) -> tuple[int, ...]:
        """The numbers of the attempts that it belongs to, outermost first."""
        return tuple(int(number) for number in _ATTEMPT.findall(self.name))

    @property
    def name_without_attempts(self) -> str:
        """The name that all attempts at the same thing share."""
        return _ATTEMPT.sub("", self.name)


@dataclass(frozen=True, kw_only=True)
class FailedTask:
    """A task that failed, or whose driver did: the pod that prepares a task.

    Attributes:
        name: The task's name; that of a loop, or of the pipeline, where its driver failed.
        loop: The name of the loop that it stands in; empty outside of loops.
        item: The number of the loop's item that it was for, from 1; 0 outside of loops.
        is_driver: Whether it is the driver: the task itself never began.
        pods: The hashes of its pods, the last attempt's first.
        had_pod: Whether it ever came as far as a pod.
    """

    name: str
    loop: str
    item: int
    is_driver: bool
    pods: Sequence[int]
    had_pod: bool


class WorkflowNodes:
    """The workflow of a run.

    Args:
        name: Its name in the cluster; empty where the API knows nothing of it.
        nodes: Its nodes.
    """

    def __init__(self, name: str = "", nodes: Iterable[Node] = ()) -> None:
        """Sort the nodes by what they belong to."""
        self.name = name
        self._nodes = list(nodes)
        self._attempts: dict[str, list[Node]] = defaultdict(list)
        self._parts: dict[str, list[Node]] = defaultdict(list)
        for node in self._nodes:
            if node.attempt_of:
                self._attempts[node.attempt_of].append(node)
            else:
                self._parts[node.scope].append(node)

    @property
    def pipeline(self) -> str:
        """The pipeline's name, with which the workflow's begins."""
        return self.name.rpartition("-")[0]

    @property
    def began(self) -> bool:
        """Tell whether anything in it came to a good end."""
        return any(node.state == _SUCCEEDED for node in self._nodes)

    @property
    def task_names(self) -> list[str]:
        """The names of its tasks."""
        return sorted({node.display_name for node in self._nodes if self._executors(node)})

    def failed_tasks(self) -> list[FailedTask]:
        """The tasks that failed, sorted by their place in the pipeline.

        What a later attempt made good doesn't count. Nor does what runs or waits: in a run that has
        ended nothing does, though the API may still say so.
        """
        last_attempts: dict[str, Node] = {}
        for node in self._nodes:
            is_driver = node.display_name.endswith(_DRIVER)
            if not is_driver and not self._executors(node):
                continue
            name = node.name_without_attempts
            other = last_attempts.setdefault(name, node)
            is_later = node.attempts > other.attempts
            if is_later:
                last_attempts[name] = node
        failed = []
        for name in sorted(last_attempts):
            node = last_attempts[name]
            if node.state == _FAILED:
                failed.append(self._failed_task(node))
        return failed

    def pods(self, task: str) -> list[int]:
        """The hashes of all pods of the tasks of a name; the last attempts' come first."""
        executors = []
        for node in self._nodes:
            if node.display_name == task:
                executors.extend(self._executors(node))
        return _hashes(pod for executor in executors for pod in self._pods(executor))

    def _failed_task(self, node: Node) -> FailedTask:
        executors = self._executors(node)
        pods = []
        for executor in executors or [node]:
            pods.extend(self._pods(executor))
        loop, item = _loop_and_item(node)
        name = node.display_name
        if not executors:
            name = name.removesuffix(_DRIVER)
            if name in _LOOP_PARTS:
                name = loop or node.scope.rpartition(".")[2]
            elif name == _ROOT:
                name = self.pipeline
        had_pod = any(part.had_pod for part in (*executors, *pods) or (node,))
        return FailedTask(
            name=_ATTEMPT.sub("", name),
            loop=loop,
            item=item,
            is_driver=not executors,
            pods=_hashes(pods),
            had_pod=had_pod,
        )

    def _executors(self, node: Node) -> list[Node]:
        """The nodes that run a task, one for each attempt; none where a node is no task."""
        if node.attempt_of:
            return []
        executors = []
        for scope in (node, *self._attempts[node.name]):
            for part in self._parts[scope.name]:
                if part.display_name == _EXECUTOR:
                    executors.append(part)
        return executors

    def _pods(self, node: Node) -> list[Node]:
        # Where the installation gives no retries, a node is its pod itself.
        return self._attempts[node.name] or [node]


def read_workflow(run: "V2beta1Run") -> WorkflowNodes:
    """The workflow of a run as the API answers for it."""
    listed = run.run_details.task_details if run.run_details else None
    # Those without a name are executions as the metadata store knows them.
    details = [detail for detail in listed or [] if detail.display_name]
    children: set[str] = set()
    display_names: set[str] = set()
    for detail in details:
        children.update(_children(detail))
        display_names.add(str(detail.display_name))
    if not children:
        return WorkflowNodes()
    # A node's id is the workflow's name and a hash.
    workflow = min(children).rpartition("-")[0]
    hashes = {_hash_in(child) for child in children}
    nodes = _find_nodes(workflow, hashes, sorted(display_names))
    return WorkflowNodes(workflow, _with_states(nodes, details))


def _find_nodes(workflow: str, hashes: set[int], display_names: Sequence[str]) -> list[Node]:
    """The nodes of which the API knows the ids, by trying names."""
    root = Node(name=workflow, display_name=workflow, hash_value=_hash(workflow))
    found = {workflow: root}
    new = [root]
    while new:
        parent = new.pop()
        for display_name in display_names:
            for node in _possible_nodes(parent, display_name):
                if node.hash_value in hashes and node.name not in found:
                    found[node.name] = node
                    new.append(node)
    return list(found.values())


def _possible_nodes(parent: Node, display_name: str) -> list[Node]:
    """The node of a display name that may come from a parent: its part, or what extends it."""
    # No task's name has these, but names of attempts, items and exit handlers do.
    if "(" not in display_name and "." not in display_name:
        return [_child(parent, f".{display_name}", display_name, scope=parent.name)]
    extension = display_name.removeprefix(parent.display_name)
    if extension == display_name:
        return []
    attempt_of = parent.name if _ATTEMPT.fullmatch(extension) else ""
    return [_child(parent, extension, display_name, parent.scope, attempt_of)]


def _child(parent: Node, suffix: str, display_name: str, scope: str, attempt_of: str = "") -> Node:
    return Node(
        name=parent.name + suffix,
        display_name=display_name,
        # Of the suffix alone: with the whole name this would take seconds for a large study.
        hash_value=_hash(suffix, parent.hash_value),
        scope=scope,
        attempt_of=attempt_of,
    )


def _with_states(
    nodes: Sequence[Node], details: "Sequence[V2beta1PipelineTaskDetail]"
) -> list[Node]:
    """The nodes with what the API tells of each, as far as it is known which one it tells of."""
    candidates: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        candidates[node.display_name].append(node)
    scopes = {node.hash_value: node.scope for node in nodes}
    known = {node.name: node for node in nodes}
    for detail in details:
        matching = _matching(candidates[str(detail.display_name)], detail, scopes)
        if matching is not None:
            known[matching.name] = _with_state(matching, detail)
    return list(known.values())


def _matching(
    candidates: Sequence[Node], detail: "V2beta1PipelineTaskDetail", scopes: Mapping[int, str]
) -> Node | None:
    """The one node that a detail can be of, else None: leaves of a loop are alike."""
    if len(candidates) == 1:
        return candidates[0]
    child_scopes = {scopes.get(_hash_in(child)) for child in _children(detail)}
    matching = []
    for node in candidates:
        # A child is a part of the node, or stands beside it: the next task, or an attempt.
        if node.name in child_scopes or node.scope in child_scopes:
            matching.append(node)
    return matching[0] if len(matching) == 1 else None


def _with_state(node: Node, detail: "V2beta1PipelineTaskDetail") -> Node:
    state = str(detail.state or "")
    states = {state}
    for entry in detail.state_history or []:
        states.add(str(entry.state))
    had_pod = not states.isdisjoint(_WITH_POD)
    return replace(node, state=state, had_pod=had_pod)


def _children(detail: "V2beta1PipelineTaskDetail") -> list[str]:
    """The ids of a node's children, which the API calls names of pods."""
    return [str(child.pod_name) for child in detail.child_tasks or [] if child.pod_name]


def _hash_in(node_id: str) -> int:
    """The hash at the end of a node's id, which the workflow's own lacks."""
    number = node_id.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _hash(text: str, start: int = _HASH_START) -> int:
    """FNV-1a of a text, or of what came before and the text."""
    value = start
    for byte in text.encode():
        value = ((value ^ byte) * _HASH_PRIME) & _HASH_MASK
    return value


def _hashes(pods: Iterable[Node]) -> list[int]:
    latest_first = sorted(pods, key=lambda pod: pod.attempts, reverse=True)
    return [pod.hash_value for pod in latest_first]


def _loop_and_item(node: Node) -> tuple[str, int]:
    """The innermost loop that a node stands in, and the number of its item from 1."""
    matches = list(_LOOP_ITEM.finditer(node.name))
    if not matches:
        return "", 0
    innermost = matches[-1]
    loop_node = node.name[: innermost.start()]
    loop = loop_node.rpartition(".")[2]
    item = int(innermost[1])
    return _ATTEMPT.sub("", loop), item + 1
