"""The pipelines by name: parameters, their checks, and compilation. Only compilation imports kfp."""

import ast
import importlib
import importlib.util
import itertools
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynamicpo.core.choices import BASELINES, LOSSES
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
from dynamicpo.core.config_fields import from_mapping
from dynamicpo.core.errors import ConfigError, DataError, unknown_name
from dynamicpo.prompts.loader import load_template
from dynamicpo.runs import images
from dynamicpo.study.grid import PlannedCell, plan_cells

# A pipeline's parameter is one of these prefixes and a field of the configuration.
STAGES: dict[str, Any] = {
    "data": DataConfig,
    "negatives": NegativesConfig,
    "sft": SFTConfig,
    "preference": PreferenceConfig,
    "evaluation": EvaluationConfig,
    "drift": DriftConfig,
    "grid": GridConfig,
    "study": StudyConfig,
}
PATHS = ("data_interactions", "data_items")
TAKEN = sorted((*BASELINES, "sft"))


def pipeline_names() -> list[str]:
    """The names of all pipelines, sorted."""
    return sorted(path.parent.name for path in _folder().glob("*/pipeline.py"))


def _folder() -> Path:
    spec = importlib.util.find_spec("dynamicpo_pipelines")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "pipelines: the package must be importable, but it is not. Install dynamicpo again."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def pipeline_parameters(name: str) -> dict[str, Any]:
    """A pipeline's parameters and their defaults, read from its source.

    Raises:
        ConfigError: There is no pipeline of this name.
    """
    if name not in pipeline_names():
        raise unknown_name("pipeline", name, pipeline_names())
    source = ast.parse((_folder() / name / "pipeline.py").read_text(encoding="utf-8"))
    function = next(
        node for node in source.body if isinstance(node, ast.FunctionDef) and node.name == name
    )
    names = [argument.arg for argument in function.args.args]
    return dict(zip(names, map(ast.literal_eval, function.args.defaults), strict=True))


def load_pipeline(name: str) -> Any:
    """The pipeline itself, a kfp graph component."""
    return getattr(importlib.import_module(f"dynamicpo_pipelines.{name}.pipeline"), name)


def check_parameters(
    name: str, given: Mapping[str, Any], mounted: Sequence[str] | None = None
) -> dict[str, Any]:
    """All parameters of a run, checked as the stages would check them, before anything starts.

    Args:
        name: The pipeline.
        given: Some of its parameters; text is converted to the parameter's type.
        mounted: For a run on a cluster: the folders there that files may be in, beside gs:// (default: a run here).

    Raises:
        ConfigError: Unknown names, or values of a wrong type or out of their limits; a line for each.
        DataError: A file that must be there is not.
    """
    parameters = pipeline_parameters(name)
    for key in given:
        if key not in parameters:
            raise unknown_name(f"{name}: parameter", key, parameters)
    problems: list[str] = []
    for prefix in STAGES:
        with _collected(problems):
            _check_stage(name, prefix, parameters, given)
    for key in given:
        with _collected(problems):
            if isinstance(parameters[key], list):
                parameters[key] = _list(key, given[key])
            elif key in PATHS:
                parameters[key] = str(given[key])
    with _collected(problems):
        if "objectives" in parameters:
            parameters["objectives"] = _objectives(parameters)
        if "grid_seeds" in parameters and not problems:
            _check_cells(parameters)
    with _collected(problems):
        _check_template(parameters, mounted)
    if problems:
        raise ConfigError("\n".join(problems))
    _check_files(parameters, mounted)
    _check_together(parameters)
    return parameters


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """Put a configuration's problem into a list and go on."""
    try:
        yield
    except ConfigError as error:
        problems.append(str(error))


def _check_stage(
    name: str, prefix: str, parameters: dict[str, Any], given: Mapping[str, Any]
) -> None:
    """Convert and check the parameters of one stage; messages name the parameter, not the field."""
    fields = {f"{prefix}_{field}": field for field in STAGES[prefix].__dataclass_fields__}
    values = {
        field: {**parameters, **given}[key] for key, field in fields.items() if key in parameters
    }
    try:
        checked = from_mapping(STAGES[prefix], values, name)
    except ConfigError as error:
        text = re.sub(rf"(?m)^((?:{name}: )?)(\w+)", rf"\1{prefix}_\2", str(error))
        raise ConfigError(text) from error
    parameters.update(
        {key: getattr(checked, field) for key, field in fields.items() if key in parameters}
    )


def _list(key: str, value: Any) -> list[Any]:
    """A list as it is, as JSON, or as text with commas."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
        except ValueError as error:
            raise ConfigError(
                f"{key}: must be a JSON list or names with commas, got {value!r}."
            ) from error
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{key}: must be a list with at least one entry, got {value!r}.")
    return value


def objective(name: str) -> dict[str, Any]:
    """An objective by its short name: a loss, or `dynamicpo-` and a loss."""
    loss = name.removeprefix("dynamicpo-")
    if loss not in LOSSES:
        raise unknown_name("objectives", name, [*LOSSES, *(f"dynamicpo-{loss}" for loss in LOSSES)])
    return {"objective": name, "loss": loss, "dynamic": loss != name}


def cells_of(parameters: Mapping[str, Any]) -> list[PlannedCell]:
    """The cells of a study's parameters."""
    fields = GridConfig.__dataclass_fields__
    return plan_cells(GridConfig(**{field: parameters[f"grid_{field}"] for field in fields}))


def _check_cells(parameters: Mapping[str, Any]) -> None:
    """Refuse cells that preference training would refuse, or that have more negatives than there are candidates."""
    shared = _shared(parameters)
    for cell in cells_of(parameters):
        PreferenceConfig(
            **{**shared, **{name: value for name, value in cell.items() if name != "cell"}}
        )
    most = max(cell["num_negatives"] for cell in cells_of(parameters))
    _check_negatives("grid_num_negatives", most, parameters)


def _shared(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that all trainings of a run have in common."""
    fields = PreferenceConfig.__dataclass_fields__
    return {
        field: parameters[key] for field in fields if (key := f"preference_{field}") in parameters
    }


def _objectives(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The objectives to train side by side, each with a name, a loss, and whether DynamicPO is on."""
    shared = _shared(parameters)
    entries = [
        objective(entry.strip()) if isinstance(entry, str) else entry
        for entry in parameters["objectives"]
    ]
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"objective", "loss", "dynamic"}:
            raise ConfigError(
                f'objectives: an entry must have "objective", "loss" and "dynamic", got {entry!r}.'
            )
        name = entry["objective"]
        if (
            not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", str(name), re.ASCII)
            or str(name).casefold() in TAKEN
        ):
            what = f"up to 64 letters, digits, '-', '_', '.' and not one of {', '.join(TAKEN)}"
            raise ConfigError(f"objectives: a name must be {what}, got {name!r}.")
        try:
            PreferenceConfig(**{**shared, "loss": entry["loss"], "dynamic": entry["dynamic"]})
        except ConfigError as error:
            raise ConfigError(f"objectives: {name}: {error}") from error
    names = [entry["objective"] for entry in entries]
    if len({name.casefold() for name in names}) < len(names):
        raise ConfigError(f"objectives: names must differ, got {', '.join(names)}.")
    return entries


def _check_template(parameters: Mapping[str, Any], mounted: Sequence[str] | None) -> None:
    """Whether the template can be used, where this machine sees it."""
    if "sft_template" not in parameters or (
        mounted is not None and _is_path("sft_template", parameters)
    ):
        return
    try:
        load_template(parameters["sft_template"], list_candidates=parameters["sft_list_candidates"])
    except ConfigError as error:
        raise ConfigError(f"sft_template: {error}") from error


def _is_path(key: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a text can only be meant as a file or folder."""
    path = str(parameters[key])
    return "://" in path or path.startswith(("/", ".", "~")) or path.endswith((".yaml", ".yml"))


def _check_files(parameters: Mapping[str, Any], mounted: Sequence[str] | None) -> None:
    """Whether tasks will find the files that parameters name."""
    for key, value in parameters.items():
        path = str(value) if isinstance(value, str) else ""
        if mounted is None:
            if key in PATHS and path and "://" not in path and not Path(path).exists():
                raise DataError(
                    f"{key}: must be a file or folder, but {path!r} does not exist. Give the right path."
                )
        elif (key in PATHS and path) or (path and _is_path(key, parameters)):
            places = ("gs://", *mounted)
            if not path.startswith(places):
                raise ConfigError(
                    f"{key}: must begin with {' or '.join(places)}, got {path!r}: a cluster sees no files of this "
                    "machine. Put it into the bucket, or into a volume (--place data_claim=NAME mounts one at /data)."
                )


def _check_together(parameters: Mapping[str, Any]) -> None:
    """What no stage can see alone, or sees only after the one before it has run."""
    if parameters.get("data_source") in ("table", "published"):
        needed = PATHS if parameters["data_source"] == "table" else PATHS[:1]
        missing = [key for key in needed if not parameters[key]]
        if missing:
            raise ConfigError(
                f"{' and '.join(missing)}: must be given for data_source {parameters['data_source']!r}."
            )
    _check_negatives(
        "preference_num_negatives", parameters.get("preference_num_negatives", 0), parameters
    )


def _check_negatives(key: str, wanted: int, parameters: Mapping[str, Any]) -> None:
    offered = parameters.get("negatives_num_candidates", 0) - 1
    if parameters.get("negatives_strategy") not in (None, "published") and wanted > offered:
        raise ConfigError(
            f"{key}: must be <= negatives_num_candidates - 1 ({offered}), got {wanted}. "
            "Lower it or raise negatives_num_candidates."
        )


def load_placement(given: Mapping[str, Any]) -> Any:
    """A checked `pipelines.placement.Placement`, from some of its fields."""
    from dynamicpo_pipelines.placement import Placement

    return from_mapping(Placement, given, "placement")


def compile_pipeline(
    name: str,
    output: Path,
    image: str,
    placement: Mapping[str, Any] | None = None,
    allow_tag: bool = False,
) -> None:
    """Write a pipeline as the YAML that a Kubeflow installation takes. It depends on the sources and the images alone.

    Args:
        name: The pipeline.
        output: The file, .yaml or .yml.
        image: The image of every task, by digest (`name@sha256:...`).
        placement: Where the tasks run: some of the fields of `pipelines.placement.Placement`.
        allow_tag: Whether images may be named by tag.

    Raises:
        ConfigError: No such pipeline, not the name of an image, or a placement that can't be used.
        DataError: The file can't be written.
    """
    pipeline_parameters(name)
    if output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--output: must end in .yaml or .yml, got {str(output)!r}.")
    images.check_name("--image", image, allow_tag)
    from kfp import compiler

    from dynamicpo_components import IMAGE
    from dynamicpo_pipelines.placement import placed

    where = load_placement(placement or {})
    if where.gpu_image:
        images.check_name("gpu_image", where.gpu_image, allow_tag)
    pipeline = placed(load_pipeline(name), where)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(source))
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    # kfp's comment in front shows dictionaries in an order that changes from process to process
    text = "".join(itertools.dropwhile(lambda line: line.startswith("#"), lines)).replace(
        IMAGE, image
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_name(f".{output.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(output)
    except OSError as error:
        raise DataError(
            f"{output}: must be writable, but {error.strerror}. Choose another file."
        ) from error
