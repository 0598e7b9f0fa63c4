"""Pipelines by name, their parameters, and the checks of parameters. Nothing here imports kfp."""

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from dynamicpo.core.config import (
    DataConfig,
    DriftConfig,
    EvaluationConfig,
    GridConfig,
    NegativesConfig,
    PreferenceConfig,
    SFTConfig,
    StudyConfig,
)
from dynamicpo.core.config_fields import Checked, from_mapping
from dynamicpo.core.errors import ConfigError, unknown_name
from dynamicpo.core.json_values import JsonObject, JsonValue
from dynamicpo.runs.objectives import check_cells, parse_list, parse_objectives
from dynamicpo.runs.parameter_files import (
    INPUT_PARAMETERS,
    check_cluster_files,
    check_local_files,
    check_template_parameter,
)

# A pipeline's parameter is one of these prefixes, an underscore, and a field of the configuration.
CONFIGS_BY_PREFIX: dict[str, type[Checked]] = {
    "data": DataConfig,
    "negatives": NegativesConfig,
    "sft": SFTConfig,
    "preference": PreferenceConfig,
    "evaluation": EvaluationConfig,
    "drift": DriftConfig,
    "grid": GridConfig,
    "study": StudyConfig,
}


def pipeline_names() -> list[str]:
    """The names of all pipelines, sorted."""
    return sorted(path.parent.name for path in _pipelines_folder().glob("*/pipeline.py"))


def _pipelines_folder() -> Path:
    # Found, not imported: importing the package takes nothing, but its modules import kfp.
    spec = importlib.util.find_spec("dynamicpo_pipelines")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "pipelines: the package must be importable, but it is not. Install dynamicpo again."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def pipeline_parameters(name: str) -> JsonObject:
    """A pipeline's parameters and their defaults.

    Read from its source: importing the pipeline would import kfp, which takes a second, before a
    misspelt parameter could be named.

    Raises:
        ConfigError: There is no pipeline of this name.
    """
    if name not in pipeline_names():
        raise unknown_name("pipeline", name, pipeline_names())
    path = _pipelines_folder() / name / "pipeline.py"
    source = path.read_text(encoding="utf-8")
    arguments = _function(ast.parse(source), name).args
    names = [argument.arg for argument in arguments.args]
    defaults = [ast.literal_eval(default) for default in arguments.defaults]
    return dict(zip(names, defaults, strict=True))


def _function(module: ast.Module, name: str) -> ast.FunctionDef:
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise ConfigError(f"pipeline: {name} must be a function of its module, but there is none.")


def check_parameters(
    name: str, overrides: Mapping[str, object], mounted: Sequence[str] | None = None
) -> JsonObject:
    """All parameters of a run, checked as the stages would check them, before anything starts.

    Args:
        name: The pipeline.
        overrides: Some of its parameters; text is converted to the parameter's type.
        mounted: For a run on a cluster: the folders there that files may be in, beside gs://
            (default: a run on this machine).

    Raises:
        ConfigError: Unknown names, or values of a wrong type or out of their limits; a line each.
        DataError: A file that must be there is not.
    """
    parameters = pipeline_parameters(name)
    for key in overrides:
        if key not in parameters:
            raise unknown_name(f"{name}: parameter", key, parameters)
    problems: list[str] = []
    for prefix in CONFIGS_BY_PREFIX:
        with _collected(problems):
            _convert_stage(name, prefix, parameters, overrides)
    for key, value in overrides.items():
        with _collected(problems):
            _convert_other(key, value, parameters)
    with _collected(problems):
        _check_trainings(parameters, is_valid=not problems)
    with _collected(problems):
        check_template_parameter(parameters, mounted)
    if problems:
        raise ConfigError("\n".join(problems))
    if mounted is None:
        check_local_files(parameters)
    else:
        check_cluster_files(parameters, mounted)
    _check_across_stages(parameters)
    return parameters


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """Add a configuration's problem to a list and go on."""
    try:
        yield
    except ConfigError as error:
        problems.append(str(error))


def _convert_stage(
    name: str, prefix: str, parameters: JsonObject, overrides: Mapping[str, object]
) -> None:
    """Convert and check the parameters of one stage; messages name the parameter, not the field."""
    kind = CONFIGS_BY_PREFIX[prefix]
    keys = {}
    for field in kind.__dataclass_fields__:
        key = f"{prefix}_{field}"
        # A pipeline lacks the parameters that its loop sets.
        if key in parameters:
            keys[field] = key
    values = {field: overrides.get(key, parameters[key]) for field, key in keys.items()}
    try:
        config = from_mapping(kind, values, name)
    except ConfigError as error:
        # Lines begin with `field:`, or with `PIPELINE: field` where text can't be converted.
        named = re.sub(rf"(?m)^((?:{name}: )?)(\w+)", rf"\1{prefix}_\2", str(error))
        raise ConfigError(named) from error
    for field, key in keys.items():
        parameters[key] = getattr(config, field)


def _convert_other(key: str, value: object, parameters: JsonObject) -> None:
    """Convert a parameter that is no field of a configuration: a list, or a path."""
    if isinstance(parameters[key], list):
        parameters[key] = parse_list(key, value)
    elif key in INPUT_PARAMETERS:
        parameters[key] = str(value)


def _check_trainings(parameters: JsonObject, is_valid: bool) -> None:
    """Convert and check the trainings of a loop.

    Args:
        parameters: Those of the run.
        is_valid: Whether they have had no problem so far: the cells of a grid can be planned only
            then.
    """
    if "objectives" in parameters:
        parameters["objectives"] = cast(JsonValue, parse_objectives(parameters))
    if "grid_seeds" in parameters and is_valid:
        num_negatives = check_cells(parameters)
        _check_num_negatives("grid_num_negatives", num_negatives, parameters)


def _check_across_stages(parameters: Mapping[str, object]) -> None:
    """Check what no stage can see alone, or sees only after the one before it has run."""
    source = parameters.get("data_source")
    # `movielens` has a copy of its own, in the recbole wheel.
    required_by_source = {"table": INPUT_PARAMETERS, "published": INPUT_PARAMETERS[:1]}
    required = required_by_source.get(str(source), ())
    missing = [key for key in required if not parameters[key]]
    if missing:
        raise ConfigError(f"{' and '.join(missing)}: must be given for data_source {source!r}.")
    key = "preference_num_negatives"
    if key in parameters:
        _check_num_negatives(key, parameters[key], parameters)


def _check_num_negatives(key: str, requested: object, parameters: Mapping[str, object]) -> None:
    """Check that sampling gives every row as many negatives as a training asks for."""
    num_candidates = parameters.get("negatives_num_candidates", 0)
    # Published rows bring their own candidates: their number is known once they have been read.
    if parameters.get("negatives_strategy") in (None, "published"):
        return
    assert isinstance(num_candidates, int) and isinstance(requested, int)
    num_sampled = num_candidates - 1  # one candidate is the target
    if requested > num_sampled:
        raise ConfigError(
            f"{key}: must be <= negatives_num_candidates - 1 ({num_sampled}), got {requested}. "
            "Lower it or raise negatives_num_candidates."
        )
