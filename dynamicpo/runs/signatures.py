"""Pipelines by name, and the parameters in their signatures. Nothing here imports kfp."""

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from dynamicpo.core.config import (
    DataConfig,
    DriftConfig,
    EvaluationConfig,
    GridConfig,
    NegativesConfig,
    PreferenceConfig,
    RunConfig,
    SFTConfig,
    StudyConfig,
)
from dynamicpo.core.config_fields import Checked, Field
from dynamicpo.core.config_gate import GateConfig
from dynamicpo.core.config_inputs import DATE_FIELDS
from dynamicpo.core.config_retraining import RetrainConfig
from dynamicpo.core.errors import ConfigError, unknown_name
from dynamicpo.core.json_values import JsonObject, JsonValue

# A setting of a stage is called by one of these names, an underscore, and a field.
STAGE_CONFIGS: dict[str, type[Checked]] = {
    "data": DataConfig,
    "negatives": NegativesConfig,
    "sft": SFTConfig,
    "preference": PreferenceConfig,
    "evaluation": EvaluationConfig,
    "drift": DriftConfig,
    "grid": GridConfig,
    "study": StudyConfig,
    "retrain": RetrainConfig,
    "gate": GateConfig,
}
INPUT_PARAMETERS = ("data_interactions", "data_items")
SEED = "seed"
# What a pipeline's loop sets for each preference training, by the parameter that it comes from.
_SET_BY_LOOP = {
    "objectives": ("loss", "dynamic"),
    "grid_seeds": ("loss", "dynamic", "num_negatives", "seed"),
}
# What the first tasks of a retraining find out, by stage.
_SET_BY_PLAN: Mapping[str, tuple[str, ...]] = {
    "data": ("split", *DATE_FIELDS),
    "drift": ("store", "version"),
    "gate": ("store", "challenger"),
}
STORE = "retrain_store"
_SETTINGS = "_settings"


def pipeline_names() -> list[str]:
    """The names of all pipelines, sorted."""
    return sorted(path.parent.name for path in pipelines_folder().glob("*/pipeline.py"))


def pipelines_folder() -> Path:
    """The folder of the pipelines' package."""
    # Found, not imported: importing the package takes nothing, but its modules import kfp.
    spec = importlib.util.find_spec("dynamicpo_pipelines")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "pipelines: the package must be importable, but it is not. Install dynamicpo again."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def pipeline_signature(name: str) -> JsonObject:
    """The parameters of a pipeline as Kubeflow shows them, with their defaults.

    Read from its source: importing the pipeline would import kfp, which takes a second, before a
    misspelt parameter could be named.

    Raises:
        ConfigError: There is no pipeline of this name.
    """
    arguments = _function(name).args
    names = [argument.arg for argument in arguments.args]
    defaults = [ast.literal_eval(default) for default in arguments.defaults]
    return dict(zip(names, defaults, strict=True))


def pipeline_summary(name: str) -> str:
    """The docstring of a pipeline.

    Raises:
        ConfigError: There is no pipeline of this name.
    """
    return ast.get_docstring(_function(name)) or ""


def _function(name: str) -> ast.FunctionDef:
    if name not in pipeline_names():
        raise unknown_name("pipeline", name, pipeline_names())
    path = pipelines_folder() / name / "pipeline.py"
    module = ast.parse(path.read_text(encoding="utf-8"))
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise ConfigError(f"pipeline: {name} must be a function of its module, but there is none.")


def pipeline_parameters(name: str) -> JsonObject:
    """All that can be set in a pipeline, the fields of its stages' settings too; with defaults.

    Raises:
        ConfigError: There is no pipeline of this name.
    """
    signature = pipeline_signature(name)
    parameters = {key: value for key, value in signature.items() if not key.endswith(_SETTINGS)}
    for stage in stages_of(signature):
        # Settings that are no parameters of their own have the pipeline's default as well.
        settings = cast(JsonObject, signature.get(f"{stage}{_SETTINGS}", {}))
        for field, item in stage_fields(stage, signature).items():
            default = settings.get(field, cast(JsonValue, item.default))
            parameters.setdefault(setting_name(stage, field), default)
    return parameters


def stages_of(signature: Mapping[str, object]) -> list[str]:
    """The stages of a pipeline: those that its parameters begin with."""
    prefixes = {key.partition("_")[0] for key in signature}
    return [stage for stage in STAGE_CONFIGS if stage in prefixes]


def stage_fields(stage: str, signature: Mapping[str, object]) -> dict[str, Field]:
    """The fields of a stage that a pipeline's parameters set; its tasks set the others."""
    fields = dict(STAGE_CONFIGS[stage].__dataclass_fields__)
    if STORE in signature:
        for name in _SET_BY_PLAN.get(stage, ()):
            del fields[name]
    if stage == "preference":
        for parameter, names in _SET_BY_LOOP.items():
            if parameter in signature:
                for name in names:
                    del fields[name]
    return fields


def settings_stage(key: str) -> str:
    """The stage whose settings a parameter holds; empty where it is another parameter."""
    stage = key.removesuffix(_SETTINGS)
    return stage if stage != key and stage in STAGE_CONFIGS else ""


def setting_name(stage: str, field: str) -> str:
    """The name of a stage's field among those of a whole pipeline."""
    return f"{stage}_{field}"


def field_of(key: str) -> Field | None:
    """The configuration's field that a parameter sets; None where it is no field."""
    if key == SEED:
        return RunConfig.__dataclass_fields__[SEED]
    stage, _, name = key.partition("_")
    fields = STAGE_CONFIGS[stage].__dataclass_fields__ if stage in STAGE_CONFIGS else {}
    return fields.get(name)
