"""READMEs of components, pipelines and placements: `python -m dynamicpo_components.readme`."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import docstring_parser
from kfp.dsl import base_component

from dynamicpo.runs.compile import load_pipeline
from dynamicpo.runs.pipeline_texts import parameter_table, setting_texts
from dynamicpo.runs.signatures import pipeline_names
from dynamicpo_pipelines.description import description_of
from dynamicpo_pipelines.placement import Placement
from dynamicpo_pipelines.signatures import MAIN_PARAMETERS

FOLDER = Path(__file__).parent
PIPELINES = FOLDER.parent / "pipelines"


def stages() -> list[str]:
    """The folders that hold a component, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob("*/component.py"))


def load(stage: str) -> Any:
    """The component of a folder."""
    module = importlib.import_module(f"dynamicpo_components.{stage}.component")
    return next(
        value for value in vars(module).values() if isinstance(value, base_component.BaseComponent)
    )


def documents() -> dict[Path, str]:
    """Every README with its text."""
    components = {FOLDER / stage: load(stage) for stage in stages()}
    graphs = {PIPELINES / name: load_pipeline(name) for name in pipeline_names()}
    made = {
        path / "README.md": readme(component)
        for path, component in {**components, **graphs}.items()
    }
    return {**made, PIPELINES / "README.md": placements()}


def placements() -> str:
    """The README of the values of `--placement` and `--place`."""
    rows = [
        _row(item.name, str(item.type.__name__), f"`{item.default!r}`", item.metadata["help"])
        for item in dataclasses.fields(Placement)
    ]
    parts = [
        "# Placement",
        "Where on a cluster a pipeline's tasks run, and what they may take: `dynamicpo compile` "
        "and `dynamicpo submit` with `--placement FILE` "
        "(YAML; `k8s/overlays/*/placement*.yaml`) and "
        "`--place NAME=VALUE`.",
        (Placement.__doc__ or "").partition("\n\n")[2].strip(),
        _table("Fields", ("Name", "Type", "Default", "Meaning"), rows),
        "<!-- Made from pipelines/placement.py by `python -m dynamicpo_components.readme`. -->",
    ]
    return "\n\n".join(parts) + "\n"


def readme(component: Any) -> str:
    """The README of a component or a pipeline."""
    function = getattr(component, "pipeline_func", None)
    if function is not None:
        return _pipeline_readme(function.__name__)
    spec, function = component.component_spec, component.python_func
    doc = docstring_parser.parse(function.__doc__)
    texts = {item.arg_name: item.description for item in doc.params}
    inputs, made = spec.inputs or {}, spec.outputs or {}
    # A single output has no name in the docstring; several are parsed by kfp.
    texts |= {name: item.description for name, item in made.items() if item.description}
    if "Output" in made:
        texts["Output"] = doc.returns.description
    artifacts = [
        _row(name, _kind(item), texts[name]) for name, item in inputs.items() if _is_artifact(item)
    ]
    outputs = [_row(name, _kind(item), texts[name]) for name, item in made.items()]
    parameters = [
        _row(name, _kind(item), _default_of(item), texts[name])
        for name, item in inputs.items()
        if not _is_artifact(item)
    ]
    parts = [
        f"# {function.__name__}",
        doc.short_description,
        " ".join((doc.long_description or "").split()),
        _table("Inputs", ("Name", "Type", "Content"), artifacts),
        _table("Outputs", ("Name", "Type", "Content"), outputs),
        _table("Parameters", ("Name", "Type", "Default", "Meaning"), parameters),
        _settings_of(_folder(component)),
        "<!-- Made from the docstring and the configuration by "
        "`python -m dynamicpo_components.readme`. -->",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _folder(component: Any) -> str:
    return str(component.python_func.__module__.split(".")[1])


def _default_of(item: Any) -> str:
    if not item.optional:
        return "required"
    return "that of the settings" if item.default is None else f"`{item.default!r}`"


def _settings_of(stage: str) -> str:
    """All settings of a component's stage, its main parameters among them."""
    if stage not in MAIN_PARAMETERS:
        return ""
    config_name, _ = MAIN_PARAMETERS[stage]
    explanation = (
        "What `settings` may hold. Those that are parameters, too, may be given as either; the "
        "parameter wins."
    )
    table = parameter_table(setting_texts(config_name))
    return f"## Settings\n\n{explanation}\n\n{table}"


def _pipeline_readme(name: str) -> str:
    """The README of a pipeline: the description that Kubeflow shows, and how to run it."""
    explanation = (
        f"`dynamicpo run {name} --param NAME=VALUE` takes every parameter, and every field of the "
        "settings under its stage's name: `--param sft_lora_rank=8`."
    )
    parts = [
        f"# {name}",
        description_of(name).strip(),
        explanation,
        "<!-- Made from the signature and the configuration by "
        "`python -m dynamicpo_components.readme`. -->",
    ]
    return "\n\n".join(parts) + "\n"


def _is_artifact(item: Any) -> bool:
    return "@" in str(item.type)


def _kind(item: Any) -> str:
    name = str(item.type).removeprefix("system.").partition("@")[0]
    name = f"list of {name}" if item.is_artifact_list else name
    return f"{name}, optional" if _is_artifact(item) and getattr(item, "optional", False) else name


def _row(name: str, *cells: str) -> str:
    return (
        " | ".join([f"| `{name}`", *(" ".join(cell.split()).replace("|", "\\|") for cell in cells)])
        + " |"
    )


def _table(title: str, heads: tuple[str, ...], rows: list[str]) -> str:
    if not rows:
        return ""
    return "\n".join(
        [f"## {title}", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *rows]
    )


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
