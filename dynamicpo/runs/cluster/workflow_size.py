"""Size of the workflow that a compiled pipeline becomes on a cluster, before it is started.

Argo keeps a workflow and the state of all its nodes in one object. It compresses the nodes when
that exceeds 1 MiB, and refuses to go on when this was not enough: a large study then fails half
way. Here the nodes of a whole run are made of the texts of the compiled pipeline, as KFP's compiler
and driver put them there (2.17), and compressed.
"""

import base64
import gzip
import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict, cast

from dynamicpo.core.errors import ConfigError
from dynamicpo.core.json_values import JsonObject, JsonValue
from dynamicpo.runs.objectives import planned_cells

# What Argo's controller takes, unless it was told otherwise (MAX_WORKFLOW_SIZE).
LIMIT_BYTES = 1024 * 1024
# Measured on KFP 2.17 with Argo 4.0; beside it what is computed here for the same nodes of the same
# compiled pipelines:
# - `training`, two objectives, 78 nodes: 126 KB of compressed nodes; computed 93 KB.
# - `negative_scaling`, 30 cells, half of them started, 328 nodes: 230 KB of compressed nodes, and
#   147 KB for the rest; computed 207 KB and 121 KB.
# Real nodes also hold times, resources and the artifacts' metadata; the rest, KFP's own templates
# and labels. Of the two factors it is the larger, 126/93.
NODES_FACTOR = 1.35
OTHER_BYTES = 26_000
# Argo hands a pod its template in an environment variable. It would put a longer one into a
# ConfigMap, which the controller of Kubeflow Pipelines has no right to make: the pod then fails.
TEMPLATE_LIMIT_BYTES = 128 * 1024
# What the specification of a pod has for each artifact beside its name and URI: its type, its name
# once more, and how its store is reached; in text within text, so that quotes count fourfold.
_ARTIFACT_BYTES = 500
# A pipeline root that is longer than a stock installation's.
_LONGER_ROOT_BYTES = 40
# All parameters of a run, and what KFP adds to each pod.
_OTHER_TEMPLATE_BYTES = 10_000
# The values of a run that the compiled pipeline does not hold: text, and all settings of a stage.
_TEXT = "a value, a name"
_SETTINGS = {f"name_of_a_setting_{number}": 0.05 for number in range(24)}


class _Definition(TypedDict, total=False):
    parameterType: str
    isArtifactList: bool


class _Definitions(TypedDict, total=False):
    parameters: Mapping[str, _Definition]
    artifacts: Mapping[str, _Definition]


class _Reference(TypedDict):
    name: str


class _Task(TypedDict, total=False):
    componentRef: _Reference
    parameterIterator: JsonObject


class _Graph(TypedDict):
    tasks: Mapping[str, _Task]


class _Component(TypedDict, total=False):
    dag: _Graph
    executorLabel: str
    inputDefinitions: _Definitions
    outputDefinitions: _Definitions


class _Executor(TypedDict):
    container: JsonObject


class _Executors(TypedDict):
    executors: Mapping[str, _Executor]


class _Pipeline(TypedDict):
    """The first document of a compiled pipeline."""

    root: _Component
    components: Mapping[str, _Component]
    deploymentSpec: _Executors


class _Node(NamedTuple):
    """The state of a node, as far as it takes room."""

    name: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def check_size(compiled: Path, name: str, parameters: JsonObject) -> None:
    """Refuse a run that would become too large.

    Args:
        compiled: The compiled pipeline.
        name: The pipeline's name.
        parameters: All parameters of the run, checked.

    Raises:
        ConfigError: Its workflow would exceed what Argo takes.
    """
    workflow = Workflow(compiled)
    what, hint = "cells", "Split the grid into several runs, for example by grid_seeds."
    if "objectives" in parameters:
        what, hint = "objectives", "Train them in several runs."
    count = _loop_count(parameters)
    if workflow.filled_share(count) <= 1:
        return
    # Sizes grow with the number: the first one that is too large ends those that fit.
    num_within = bisect_right(range(count), 1.0, key=workflow.filled_share)
    fitting = max(num_within - 1, 0)
    size, template = workflow.estimate_bytes(count), workflow.template_bytes(count)
    raise ConfigError(
        f"{name}: a run must fit into one workflow of Argo ({LIMIT_BYTES // 1024} KiB), and what "
        f"its last task gets into one variable ({TEMPLATE_LIMIT_BYTES // 1024} KiB), but those of "
        f"{count} {what} come to about {size // 1024} and {template // 1024} KiB. "
        f"At most {fitting} {what} fit. {hint}"
    )


def _loop_count(parameters: JsonObject) -> int:
    objectives = parameters.get("objectives")
    return len(objectives) if isinstance(objectives, list) else len(planned_cells(parameters))


class Workflow:
    """The workflow of a compiled pipeline.

    Args:
        compiled: The file.
    """

    def __init__(self, compiled: Path) -> None:
        """Read the file."""
        import yaml

        documents = list(yaml.safe_load_all(compiled.read_text(encoding="utf-8")))
        self._pipeline = cast(_Pipeline, documents[0])
        # An unplaced pipeline has no second document.
        platform = documents[1]["platforms"]["kubernetes"] if len(documents) > 1 else {}
        self._placements: Mapping[str, JsonObject] = platform.get("deploymentSpec", {}).get(
            "executors", {}
        )

    def estimate_bytes(self, count: int) -> int:
        """The size of the workflow at the end of a run in which nothing came from the cache.

        Args:
            count: How often its loop runs.
        """
        compressed = compressed_bytes(self.nodes(count))
        return self.specification_bytes() + OTHER_BYTES + round(NODES_FACTOR * compressed)

    def template_bytes(self, count: int) -> int:
        """The size of the longest template of a pod: that of the task that gets all of a loop.

        Args:
            count: How often its loop runs.
        """
        sizes = []
        for name, component in self._pipeline["components"].items():
            if "executorLabel" in component:
                container = self._executors[component["executorLabel"]]["container"]
                # A text within the template.
                patch = _json(_pod_patch(name, component, container, count))
                sizes.append(len(patch) + _bytes_of_references(component, count))
        return max(sizes) + _OTHER_TEMPLATE_BYTES

    def filled_share(self, count: int) -> float:
        """The share of what Argo takes that a run needs, of the workflow or of a template.

        Args:
            count: How often its loop runs.
        """
        workflow = self.estimate_bytes(count) / LIMIT_BYTES
        template = self.template_bytes(count) / TEMPLATE_LIMIT_BYTES
        return max(workflow, template)

    def specification_bytes(self) -> int:
        """The size of what KFP's compiler makes of components, containers and tasks, each once."""
        texts = [_json(self._pipeline["root"])]
        for component in self._pipeline["components"].values():
            texts.append(_json(component))
            texts += [_json(task) for task in _tasks(component).values()]
        texts += [_json(task) for task in _tasks(self._pipeline["root"]).values()]
        texts += [_json(item["container"]) for item in self._executors.values()]
        texts += [_json(item) for item in self._placements.values()]
        return len(_json(texts))

    @property
    def _executors(self) -> Mapping[str, _Executor]:
        return self._pipeline["deploymentSpec"]["executors"]

    def nodes(self, count: int) -> Iterator[_Node]:
        """The nodes of a run in which every task ran once.

        Args:
            count: How often its loop runs.
        """
        root = self._pipeline["root"]
        yield from _retried("", {})
        yield from _retried("root-driver", {"component": _json(root)})
        yield from _retried("root", {})
        yield from self._graph_nodes(root, count)

    def _graph_nodes(self, component: _Component, count: int) -> Iterator[_Node]:
        for name, task in _tasks(component).items():
            child = self._pipeline["components"][task["componentRef"]["name"]]
            if "dag" not in child:
                yield from self._container_nodes(name, task, child, count)
                continue
            driver = {"component": _json(child), "task": _json(task), "task-name": name}
            if "parameterIterator" in task:
                yield from _retried(name, {})
                yield from _retried("iteration-driver", driver)
                yield _Node("iterations", {}, {})
            for number in range(count if "parameterIterator" in task else 1):
                if "parameterIterator" in task:
                    yield from _retried("iterations", {"iteration-index": str(number)})
                yield from _retried(f"{name}-driver", driver)
                yield from _retried(name, {})
                yield from self._graph_nodes(child, count)

    def _container_nodes(
        self, name: str, task: _Task, component: _Component, count: int
    ) -> Iterator[_Node]:
        """The nodes of one task: its driver, and its pod in a graph of its own."""
        label = component["executorLabel"]
        container = self._executors[label]["container"]
        driver = {
            "component": _json(component),
            "task": _json(task),
            "container": _json(container),
            "kubernetes-config": _json(self._placements.get(label, {})),
        }
        # The driver makes of these the specification of the pod: an output of its own, and an input
        # of the pod's nodes.
        patch = {"pod-spec-patch": _pod_patch(name, component, container, count)}
        yield from _retried(f"{name}-driver", driver, patch)
        yield from _retried(name, patch)
        yield from _retried("executor", patch)


def compressed_bytes(nodes: Iterator[_Node]) -> int:
    """The size of nodes as Argo keeps them in a large workflow."""
    states = {}
    for number, node in enumerate(nodes):
        # The order is that of the ids, which are hashes: what is alike stands far apart.
        identity = f"workflow-{_digest(number)}"
        states[identity] = {
            "id": identity,
            "name": f"workflow(0).root(0).{node.name}.{number}",
            "displayName": node.name,
            "boundaryID": f"workflow-{_digest(number, 'boundary')}",
            "children": [f"workflow-{_digest(number, 'child')}"],
            "startedAt": _digest(number, "start"),
            "finishedAt": _digest(number, "end"),
            "phase": "Succeeded",
            "inputs": _parameters(node.inputs),
            "outputs": {
                **_parameters(node.outputs),
                "artifacts": [{"name": "main-logs", "key": f"private-artifacts/{identity}"}],
            },
        }
    compressed = gzip.compress(_json(dict(sorted(states.items()))).encode(), mtime=0)
    return len(base64.b64encode(compressed))


def _retried(
    name: str, inputs: Mapping[str, str], outputs: Mapping[str, str] | None = None
) -> Iterator[_Node]:
    """A node and its first attempt: the controller's defaults give every template retries."""
    node = _Node(name, inputs, outputs or {})
    yield node
    yield node


def _pod_patch(name: str, component: _Component, container: JsonObject, count: int) -> str:
    """The part of a pod's specification that differs from task to task."""
    inputs = component.get("inputDefinitions", {})
    outputs = component.get("outputDefinitions", {})
    executor_input = {
        "inputs": {
            "parameterValues": {
                key: _value(name, key, definition, count)
                for key, definition in inputs.get("parameters", {}).items()
            },
            "artifacts": _artifacts(name, inputs, count),
        },
        "outputs": {"artifacts": _artifacts(name, outputs, count)},
    }
    launcher = ["--executor_input", _json(executor_input), "--component_spec", _json(component)]
    # What the container would have run comes after what the launcher needs.
    main = {**container, "name": "main", "launcher": launcher}
    return _json({"containers": [main]})


def _value(task: str, key: str, definition: _Definition, count: int) -> JsonValue:
    kind = definition.get("parameterType")
    if kind == "LIST":
        # The stages of a loop hand on where their outputs lie.
        return [_uri(task, f"{key}-{number}") for number in range(count)]
    return _SETTINGS if kind == "STRUCT" else _TEXT


def _artifacts(task: str, definitions: _Definitions, count: int) -> JsonObject:
    artifacts: JsonObject = {}
    for key, definition in definitions.get("artifacts", {}).items():
        length = count if definition.get("isArtifactList") else 1
        artifacts[key] = [
            {"name": _digest(task, key, number), "uri": _uri(task, f"{key}-{number}")}
            for number in range(length)
        ]
    return artifacts


def _bytes_of_references(component: _Component, count: int) -> int:
    """Characters by which a reference to an artifact or a place is longer than its stand-in."""
    num_artifacts, num_places = 0, 0
    for definitions in (
        component.get("inputDefinitions", {}),
        component.get("outputDefinitions", {}),
    ):
        for item in definitions.get("artifacts", {}).values():
            num_artifacts += count if item.get("isArtifactList") else 1
        for item in definitions.get("parameters", {}).values():
            num_places += count if item.get("parameterType") == "LIST" else 1
    longer_roots = (num_artifacts + num_places) * _LONGER_ROOT_BYTES
    return num_artifacts * _ARTIFACT_BYTES + longer_roots


def _uri(task: str, key: str) -> str:
    run, execution = _digest("run") * 4, _digest(task, key) * 4
    return f"minio://mlpipeline/v2/artifacts/pipeline/{run}/{task}/{execution}/{key}"


def _tasks(component: _Component) -> Mapping[str, _Task]:
    return component["dag"]["tasks"] if "dag" in component else {}


def _parameters(values: Mapping[str, str]) -> JsonObject:
    return {"parameters": [{"name": name, "value": value} for name, value in values.items()]}


def _digest(*parts: object) -> str:
    """A text as unlike others as Argo's and KFP's ids."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
