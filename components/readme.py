"""Writes each component's README from its signature and docstring: `python -m components.readme`."""

import importlib
from pathlib import Path
from typing import Any

import docstring_parser
from kfp.dsl import base_component

FOLDER = Path(__file__).parent


def stages() -> list[str]:
    """The folders that hold a component, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob("*/component.py"))


def load(stage: str) -> Any:
    """The component of a folder."""
    module = importlib.import_module(f"components.{stage}.component")
    return next(value for value in vars(module).values() if isinstance(value, base_component.BaseComponent))


def readme(stage: str) -> str:
    """A component's README."""
    component = load(stage)
    spec, function = component.component_spec, component.python_func
    doc = docstring_parser.parse(function.__doc__)
    texts = {item.arg_name: item.description for item in doc.params}
    if doc.returns:
        texts["Output"] = doc.returns.description
    given = spec.inputs or {}
    artifacts = [_row(name, _kind(item), texts[name]) for name, item in given.items() if _is_artifact(item)]
    outputs = [_row(name, _kind(item), texts[name]) for name, item in spec.outputs.items()]
    settings = [
        _row(name, _kind(item), f"`{item.default!r}`" if item.optional else "required", texts[name])
        for name, item in given.items()
        if not _is_artifact(item)
    ]
    parts = [
        f"# {function.__name__}",
        doc.short_description,
        " ".join((doc.long_description or "").split()),
        _table("Inputs", ("Name", "Type", "Content"), artifacts),
        _table("Outputs", ("Name", "Type", "Content"), outputs),
        _table("Parameters", ("Name", "Type", "Default", "Meaning"), settings),
        "<!-- Made from component.py by `python -m components.readme`. -->",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _is_artifact(item: Any) -> bool:
    return "@" in str(item.type)


def _kind(item: Any) -> str:
    name = str(item.type).removeprefix("system.").partition("@")[0]
    name = f"list of {name}" if item.is_artifact_list else name
    return f"{name}, optional" if _is_artifact(item) and getattr(item, "optional", False) else name


def _row(name: str, *cells: str) -> str:
    return " | ".join([f"| `{name}`", *(" ".join(cell.split()).replace("|", "\\|") for cell in cells)]) + " |"


def _table(title: str, heads: tuple[str, ...], rows: list[str]) -> str:
    if not rows:
        return ""
    return "\n".join([f"## {title}", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *rows])


if __name__ == "__main__":
    for name in stages():
        (FOLDER / name / "README.md").write_text(readme(name), encoding="utf-8")
