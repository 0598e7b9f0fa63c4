"""Menus of the run form: the literals of parameters that are closed choices.

Kubeflow's form shows a menu for a parameter whose specification lists literals, which its SDK has
no way to write. The server then takes no other value, so that names which may also be a path, such
as a backbone, have none.
"""

from typing import TYPE_CHECKING

from dynamicpo.core.config_fields import choices_of
from dynamicpo.runs.signatures import field_of

if TYPE_CHECKING:
    from kfp.dsl.graph_component import GraphComponent
    from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec


def menu_of(parameter: str) -> tuple[str, ...]:
    """The values of a parameter that is a closed choice; empty for all others."""
    item = field_of(parameter)
    # A study's lists are choices with commas between them.
    is_list = parameter.startswith("grid_")
    return () if item is None or is_list else choices_of(item)


def add_menus(pipeline: "GraphComponent") -> None:
    """Write the menus into the specification of a pipeline."""
    spec: PipelineSpec = pipeline.pipeline_spec
    for name, parameter in spec.root.input_definitions.parameters.items():
        for value in menu_of(name):
            parameter.literals.add().string_value = value
