"""A chain of components on a small data set, called in this process with our code as it is."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kfp import dsl

from dynamicpo_components import readme
from tests.fixtures.tables import write_tables

KINDS = {
    f"system.{kind.__name__}@0.0.1": kind
    for kind in (dsl.Artifact, dsl.Dataset, dsl.HTML, dsl.Markdown)
}
KINDS |= {f"system.{kind.__name__}@0.0.1": kind for kind in (dsl.Metrics, dsl.Model)}
Call = Callable[..., SimpleNamespace]


def call_component(stage: str, folder: Path, given: dict[str, Any]) -> SimpleNamespace:
    """Call a stage's component as kfp does, with its outputs in a folder. Returns the outputs."""
    component = readme.load(stage)
    spec = component.component_spec
    made = {
        name: KINDS[item.type](name=name, uri=str(folder / name))
        for name, item in (spec.outputs or {}).items()
        if item.type in KINDS
    }
    defaults = {name: item.default for name, item in (spec.inputs or {}).items() if item.optional}
    returned = component.python_func(**made, **{**defaults, **given})
    return SimpleNamespace(**made, returned=returned)


@pytest.fixture(scope="session")
def call(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """A function that calls a stage's component, with its outputs in a folder of their own."""

    def run(stage: str, **given: Any) -> SimpleNamespace:
        return call_component(stage, tmp_path_factory.mktemp(stage), given)

    return run


@pytest.fixture(scope="session")
def prepared(call: Call, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    interactions, items = write_tables(tmp_path_factory.mktemp("tables"))
    return call("data_prep", interactions=interactions, items=items)


@pytest.fixture(scope="session")
def sampled(call: Call, prepared: SimpleNamespace) -> SimpleNamespace:
    return call("negative_sampling", examples=prepared.examples, num_candidates=6)


@pytest.fixture(scope="session")
def tuned(call: Call, sampled: SimpleNamespace) -> SimpleNamespace:
    return call("sft", preferences=sampled.preferences, max_steps=2, settings={"batch_size": 8.0})


@pytest.fixture(scope="session")
def evaluated(call: Call, sampled: SimpleNamespace, tuned: SimpleNamespace) -> SimpleNamespace:
    return call(
        "evaluation",
        preferences=sampled.preferences,
        model=tuned.model,
        name="sft",
        settings={"resamples": 100},
    )


def manifest_of(artifact: Any) -> Any:
    """The manifest of what a component made."""
    from dynamicpo.core.records.manifest import read_manifest

    return read_manifest(Path(artifact.path))
