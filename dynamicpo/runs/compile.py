"""Pipelines as kfp makes them: loaded, placed on a cluster, and written as YAML."""

import importlib
import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dynamicpo.core.config_fields import from_mapping
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.runs.images import check_image_name
from dynamicpo.runs.menus import add_menus
from dynamicpo.runs.shipped_texts import strip_texts
from dynamicpo.runs.signatures import pipeline_signature

if TYPE_CHECKING:
    from kfp.dsl.graph_component import GraphComponent

    from dynamicpo_pipelines.placement import Placement


def load_pipeline(name: str) -> "GraphComponent":
    """A pipeline as the object that `@dsl.pipeline` makes; imports kfp."""
    module = importlib.import_module(f"dynamicpo_pipelines.{name}.pipeline")
    return getattr(module, name)


def kubeflow_name(name: str) -> str:
    """The name of a pipeline at Kubeflow, whose Kubernetes-native store takes DNS labels only."""
    return name.replace("_", "-")


def load_placement(settings: Mapping[str, object]) -> "Placement":
    """A checked placement, from some of its fields.

    Raises:
        ConfigError: Unknown fields, or values that can't be used.
    """
    from dynamicpo_pipelines.placement import Placement

    return from_mapping(Placement, settings, "placement")


def compile_pipeline(
    name: str,
    output: Path,
    image: str,
    placement: Mapping[str, object] | None = None,
    allow_tag: bool = False,
    menus: bool = True,
) -> None:
    """Write a pipeline as the YAML that a Kubeflow installation takes.

    The file depends on the sources, the placement and the images alone.

    Args:
        name: The pipeline.
        output: The file, .yaml or .yml.
        image: The image of every task, by digest (`name@sha256:...`).
        placement: Some of the fields of `dynamicpo_pipelines.placement.Placement`.
        allow_tag: Whether images may be named by tag.
        menus: Whether the run form shows menus of parameters that are closed choices.

    Raises:
        ConfigError: No such pipeline, not the name of an image, or a placement that can't be used.
        DataError: The file can't be written.
    """
    pipeline_signature(name)  # refuses an unknown name before kfp is imported
    if output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--output: must end in .yaml or .yml, got {str(output)!r}.")
    check_image_name("--image", image, allow_tag)
    checked_placement = load_placement(placement or {})
    gpu_image = checked_placement.gpu_image
    if gpu_image:
        check_image_name("gpu_image", gpu_image, allow_tag)
    text = _compiled_text(name, checked_placement, menus)

    from dynamicpo_components.image import IMAGE

    _write_text(output, text.replace(IMAGE, image))


def _compiled_text(name: str, placement: "Placement", menus: bool) -> str:
    from kfp import compiler

    from dynamicpo_pipelines.placement import placed

    pipeline = placed(load_pipeline(name), placement)
    strip_texts(pipeline)
    if menus:
        add_menus(pipeline)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    # The comment that kfp puts in front shows dictionaries in an order that changes from process
    # to process; without it the same sources give the same bytes.
    content = itertools.dropwhile(lambda line: line.startswith("#"), lines)
    return "".join(content)


def _write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise DataError(
            f"{path}: must be writable, but {error.strerror}. Choose another file."
        ) from error
