"""Texts that a compiled pipeline need not carry: docstrings and comments of its components.

KFP copies a component's source and description into the pipeline, and on a cluster into the state
of each of its tasks, several times: they count towards the size that a workflow may have. They
count for the cache, too: without them a task whose docstring was mended comes from the cache.
"""

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kfp.dsl.graph_component import GraphComponent
    from kfp.pipeline_spec.pipeline_spec_pb2 import ComponentSpec, PipelineSpec

_FUNCTION = "\ndef "


def strip_texts(pipeline: "GraphComponent") -> None:
    """Leave out of a pipeline what no run reads; its own parameters keep their descriptions."""
    spec: PipelineSpec = pipeline.pipeline_spec
    for component in spec.components.values():
        _strip_descriptions(component)
    for executor in spec.deployment_spec["executors"].values():
        command = executor["container"]["command"]
        for number, argument in enumerate(command):
            if _FUNCTION in argument:
                command[number] = without_docstrings(argument)


def _strip_descriptions(component: "ComponentSpec") -> None:
    for definitions in (component.input_definitions, component.output_definitions):
        for items in (definitions.parameters, definitions.artifacts):
            for item in items.values():
                item.ClearField("description")


def without_docstrings(source: str) -> str:
    """The same program without docstrings and comments."""
    module = ast.parse(source)
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            # A body can't be empty.
            node.body = node.body[1:] or [ast.Pass()]
    return f"\n{ast.unparse(module)}\n"
