"""A stage's configuration, sub-command, component and pipeline parameters agree."""

import dataclasses
import inspect
from typing import Any

import docstring_parser
import pytest

from dynamicpo.cli.commands.stages import STAGE_COMMANDS
from dynamicpo.cli.flags import flag_of, make_parser
from dynamicpo.core.config import GridConfig
from dynamicpo.runs import compile as pipeline_compiler
from dynamicpo.runs import parameter_files
from dynamicpo.runs import parameters as pipeline_source
from dynamicpo_components import readme

# Parameters of the component that writes a run's record.
RECORDED = {
    *("rows_uri", "sft_uri", "sft_report_uri", "baselines_report_uri"),
    *("model_uris", "training_report_uris", "evaluation_report_uris"),
    *("run_id", "pipeline", "images", "parameters"),
}
# stage folder -> command, prefix of the pipelines' parameters, component parameters that are no
# fields
FACES: dict[str, tuple[str, str, set[str]]] = {
    "data_prep": ("prepare-data", "data", {"interactions", "items"}),
    "negative_sampling": ("sample-negatives", "negatives", set()),
    "sft": ("sft", "sft", set()),
    "preference_training": ("train-preferences", "preference", {"name"}),
    "evaluation": ("evaluate", "evaluation", {"name"}),
    "drift_monitoring": ("monitor-drift", "drift", set()),
    "study": ("judge-collapse", "study", RECORDED),
    "cell_plan": ("", "grid", set()),
}
# what a pipeline's loop sets, its list of what the loop runs over, and the stages that it has
LOOPED: dict[str, tuple[set[str], set[str], set[str]]] = {
    "training": (
        {"preference_loss", "preference_dynamic"},
        {"objectives"},
        FACES.keys() - {"study", "cell_plan"},
    ),
    "negative_scaling": (
        {f"preference_{name}" for name in ("loss", "dynamic", "ablation", "num_negatives", "seed")},
        set(),
        FACES.keys() - {"drift_monitoring"},
    ),
}
faces = pytest.mark.parametrize("stage", FACES)
everywhere = pytest.mark.parametrize(
    ("pipeline", "stage"),
    [(name, stage) for name, (_, _, stages) in LOOPED.items() for stage in sorted(stages)],
)


def fields(stage: str) -> dict[str, Any]:
    command = FACES[stage][0]
    return {
        item.name: item
        for item in dataclasses.fields(
            STAGE_COMMANDS[command].config_class if command else GridConfig
        )
    }


def parameters(stage: str) -> dict[str, inspect.Parameter]:
    component = readme.load(stage)
    names = [
        name for name, item in component.component_spec.inputs.items() if "@" not in str(item.type)
    ]
    return {name: inspect.signature(component.python_func).parameters[name] for name in names}


def test_every_component_with_settings_is_compared():
    assert set(readme.stages()) - set(FACES) == {"comparison"}


@faces
def test_component_parameters_are_the_fields(stage: str):
    given = {name: (item.annotation, item.default) for name, item in parameters(stage).items()}
    for extra in FACES[stage][2]:
        assert given.pop(extra)[0] in (str, list, dict)
    assert given == {name: (item.type, item.default) for name, item in fields(stage).items()}


@faces
def test_flags_are_the_fields(stage: str):
    command = FACES[stage][0]
    if not command:
        return  # planning cells is a step of the pipeline alone
    _, parsers = make_parser()
    flags = {flag for action in parsers[command]._actions for flag in action.option_strings}
    for name, item in fields(stage).items():
        assert flag_of(name) in flags
        assert (f"--no-{name.replace('_', '-')}" in flags) == (item.type is bool)


def test_every_pipeline_is_compared():
    assert set(pipeline_source.pipeline_names()) == set(LOOPED)


@everywhere
def test_pipeline_parameters_are_the_fields(pipeline: str, stage: str):
    prefix, looped = FACES[stage][1], LOOPED[pipeline][0]
    expected = {f"{prefix}_{name}": item.default for name, item in fields(stage).items()}
    given = pipeline_source.pipeline_parameters(pipeline)
    assert {name: given[name] for name in expected.keys() - looped} == {
        name: value for name, value in expected.items() if name not in looped
    }
    assert not looped & given.keys()


@pytest.mark.parametrize("pipeline", LOOPED)
def test_pipeline_has_no_other_parameters(pipeline: str):
    prefixes = {prefix: stage for stage, (_, prefix, _) in FACES.items()}
    for name in pipeline_source.pipeline_parameters(pipeline).keys() - {
        *LOOPED[pipeline][1],
        *parameter_files.INPUT_PARAMETERS,
    }:
        prefix, _, field = name.partition("_")
        assert prefixes[prefix] in LOOPED[pipeline][2] and field in fields(prefixes[prefix])


@everywhere
def test_texts_say_the_same(pipeline: str, stage: str):
    """Component and pipeline explain a parameter with the words of the flag."""
    component = readme.load(stage).python_func
    whole = pipeline_compiler.load_pipeline(pipeline).pipeline_func
    for name, item in fields(stage).items():
        for function, argument in ((component, name), (whole, f"{FACES[stage][1]}_{name}")):
            if argument not in LOOPED[pipeline][0]:
                text = documented(function)[argument].lower()
                assert item.metadata["help"].lower() in text
                assert all(choice in text for choice in item.metadata["choices"])


def documented(function: Any) -> dict[str, str]:
    doc = docstring_parser.parse(function.__doc__)
    return {item.arg_name: " ".join((item.description or "").split()) for item in doc.params}


@pytest.mark.parametrize("stage", readme.stages())
def test_every_parameter_and_artifact_is_documented(stage: str):
    function = readme.load(stage).python_func
    assert list(documented(function)) == list(inspect.signature(function).parameters)


@pytest.mark.parametrize("pipeline", LOOPED)
def test_every_pipeline_parameter_is_documented(pipeline: str):
    function = pipeline_compiler.load_pipeline(pipeline).pipeline_func
    assert list(documented(function)) == list(pipeline_source.pipeline_parameters(pipeline))
