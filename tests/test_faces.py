"""A stage's configuration, sub-command, component and pipeline parameters agree."""

import ast
import dataclasses
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any, get_args

import docstring_parser
import pytest

from dynamicpo.cli.commands.stages import STAGE_COMMANDS
from dynamicpo.cli.flags import flag_of, make_parser
from dynamicpo.core.choices import BACKBONES
from dynamicpo.core.config_fields import choices_of, range_of, unit_of
from dynamicpo.core.errors import ConfigError
from dynamicpo.runs import compile as pipeline_compiler
from dynamicpo.runs.menus import menu_of
from dynamicpo.runs.parameters import check_parameters, pipeline_arguments
from dynamicpo.runs.pipeline_texts import (
    default_text,
    parameter_texts,
    setting_texts,
    unnamed_settings,
)
from dynamicpo.runs.settings_check import check_settings
from dynamicpo.runs.signatures import (
    INPUT_PARAMETERS,
    STAGE_CONFIGS,
    field_of,
    pipeline_names,
    pipeline_parameters,
    pipeline_signature,
    settings_stage,
    stage_fields,
    stages_of,
)
from dynamicpo_components import readme
from dynamicpo_pipelines import signatures
from dynamicpo_pipelines.placement import SERVICE_ACCOUNT
from tests.conftest import ROOT

# stage folder -> command, component parameters that are no fields
FACES: dict[str, tuple[str, set[str]]] = {
    "data_prep": ("prepare-data", {"interactions", "items", "fingerprint"}),
    "negative_sampling": ("sample-negatives", set()),
    "sft": ("sft", {"start_from"}),
    "preference_training": ("train-preferences", {"name"}),
    "baselines": ("", set()),
    "evaluation": ("evaluate", {"name"}),
    "drift_monitoring": ("monitor-drift", set()),
    "study": ("judge-collapse", set()),
    "cell_plan": ("", set()),
    "retraining_plan": ("plan-retraining", {"interactions", "items", "data"}),
    "window_check": ("", {"plan"}),
    "challenge": ("", {"objectives", "plan", "evaluation_settings"}),
}
# Parameters of components that are no settings of theirs, but those of the run's record.
RECORDED = re.compile(r"parameters|.*_uris?|run_id|pipeline|images")
MOST_PARAMETERS = 20
faces = pytest.mark.parametrize("stage", FACES)
pipelines = pytest.mark.parametrize("pipeline", pipeline_names())


def config_of(stage: str) -> Any:
    return STAGE_CONFIGS[signatures.MAIN_PARAMETERS[stage][0]]


def fields(stage: str) -> dict[str, Any]:
    return {item.name: item for item in dataclasses.fields(config_of(stage))}


def parameters(stage: str) -> dict[str, inspect.Parameter]:
    component = readme.load(stage)
    inputs = component.component_spec.inputs or {}
    names = [name for name, item in inputs.items() if "@" not in str(item.type)]
    all_parameters = inspect.signature(component.python_func).parameters
    return {name: all_parameters[name] for name in names}


def test_every_component_with_settings_is_compared():
    assert set(readme.stages()) - set(FACES) == {"comparison", "settings_check"}
    assert set(signatures.MAIN_PARAMETERS) == set(FACES)


@faces
def test_a_component_has_its_main_parameters_and_settings(stage: str):
    given = {name: (item.annotation, item.default) for name, item in parameters(stage).items()}
    for extra in FACES[stage][1]:
        assert given.pop(extra)[0] in (str, dict, list)
    assert given.pop("settings") == (dict, {})
    own = {name: item for name, item in given.items() if not RECORDED.fullmatch(name)}
    _, names = signatures.MAIN_PARAMETERS[stage]
    expected = {name: (fields(stage)[name].type | None, None) for name in names}
    assert own == expected


@faces
def test_main_parameters_and_settings_reach_the_configuration(stage: str):
    """The body hands each of them on under its own name."""
    source = textwrap.dedent(inspect.getsource(readme.load(stage).python_func))
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if ast.unparse(call.func) == "config_of"]
    assert [ast.unparse(argument) for argument in call.args] == [
        config_of(stage).__name__,
        "settings",
    ]
    handed_on = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert handed_on == {name: name for name in signatures.MAIN_PARAMETERS[stage][1]}


@faces
def test_flags_are_the_fields(stage: str):
    command = FACES[stage][0]
    if not command:
        return  # a step of the pipeline alone
    assert STAGE_COMMANDS[command].config_class is config_of(stage)
    _, parsers = make_parser()
    flags = {flag for action in parsers[command]._actions for flag in action.option_strings}
    for name, item in fields(stage).items():
        assert flag_of(name) in flags
        assert (f"--no-{name.replace('_', '-')}" in flags) == (item.type is bool)


def test_every_number_has_a_unit():
    for config in STAGE_CONFIGS.values():
        for item in dataclasses.fields(config):
            assert (
                bool(unit_of(item)) == (item.type in (int, float))
                or config is STAGE_CONFIGS["grid"]
            )


def test_generated_signatures_are_up_to_date(capsys: pytest.CaptureFixture[str]):
    assert signatures.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_signature_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    preset = tmp_path / "compact.yaml"
    text = signatures.PRESETS["training"].read_text(encoding="utf-8")
    preset.write_text(text.replace("sft_rows: 0", "sft_rows: 5001"))
    presets = {**signatures.PRESETS, "training": preset}
    monkeypatch.setattr(signatures, "PRESETS", presets)
    assert signatures.main(["--check"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pipelines/training/pipeline.py: run `python -m dynamicpo_pipelines.signatures`" in line


@pipelines
def test_a_pipeline_has_few_parameters_and_settings_of_its_stages(pipeline: str):
    signature = pipeline_signature(pipeline)
    named = [key for key in signature if not settings_stage(key)]
    assert len(named) <= MOST_PARAMETERS
    settings = {key: value for key, value in signature.items() if settings_stage(key)}
    assert settings
    for key, fields in settings.items():
        stage = settings_stage(key)
        # Defaults of a preset that are no parameters of their own.
        given = {f"{stage}_{field}" for field in fields}
        assert given <= {*pipeline_parameters(pipeline)} - {*named}
    others = {*INPUT_PARAMETERS, "objectives"}
    assert {key for key in named if field_of(key) is None} <= others


def test_a_preset_gives_settings_their_defaults_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    preset = tmp_path / "compact.yaml"
    monkeypatch.setattr(signatures, "PRESETS", {**signatures.PRESETS, "training": preset})
    preset.write_text("sft_rows: 7\nsft_dropout: 1\n", encoding="utf-8")
    defaults = signatures.pipeline_defaults("training")
    assert (defaults["sft_rows"], defaults["sft_settings"]) == (7, {"dropout": 1.0})
    preset.write_text("sft_dropuot: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="sft_dropuot must be a parameter of training, or"):
        signatures.pipeline_defaults("training")


def test_settings_that_are_not_named_keep_the_pipelines_defaults():
    shipped = pipeline_signature("training")["sft_settings"]
    assert shipped["sequences"] is True
    parameters = check_parameters("training", {"sft_settings": {"lora_rank": 4}})
    assert parameters["sft_sequences"] is True and parameters["sft_lora_rank"] == 4
    # What equals the default is not handed over, whoever's default it is; what differs is.
    assert pipeline_arguments("training", parameters)["sft_settings"] == {"lora_rank": 4}
    changed = check_parameters("training", {"sft_sequences": False})
    assert pipeline_arguments("training", changed)["sft_settings"] == {"sequences": False}
    sft = check_settings("training", {"sft_settings": {"sequences": False}}).sft
    assert sft["sequences"] is False and sft["dropout"] == shipped["dropout"]


@pipelines
def test_every_field_can_be_set_but_those_of_the_loop(pipeline: str):
    signature = pipeline_signature(pipeline)
    looped = {
        "training": {"preference_loss", "preference_dynamic"},
        "negative_scaling": {
            f"preference_{name}" for name in ("loss", "dynamic", "num_negatives", "seed")
        },
        "retraining": {
            *("preference_loss", "preference_dynamic", "data_split", "data_data_from"),
            *("data_train_until", "data_validation_until", "data_data_until"),
            *("drift_store", "drift_version", "gate_store", "gate_challenger"),
        },
    }[pipeline]
    every_field = {
        f"{stage}_{name}"
        for stage in stages_of(signature)
        for name in STAGE_CONFIGS[stage].__dataclass_fields__
    }
    given = set(pipeline_parameters(pipeline)) - {*INPUT_PARAMETERS, "objectives", "seed"}
    assert given == every_field - looped


@pipelines
def test_unnamed_settings_have_the_defaults_of_the_configuration(pipeline: str):
    signature = pipeline_signature(pipeline)
    defaults = pipeline_parameters(pipeline)
    for stage in stages_of(signature):
        for name, item in stage_fields(stage, signature).items():
            is_preset = name in signature.get(f"{stage}_settings", {})
            if f"{stage}_{name}" not in signature and not is_preset:
                assert defaults[f"{stage}_{name}"] == item.default


@faces
def test_component_explains_its_parameters_with_the_words_of_the_flag(stage: str):
    texts = documented(readme.load(stage).python_func)
    for name in signatures.MAIN_PARAMETERS[stage][1]:
        text, item = texts[name].lower(), fields(stage)[name]
        assert item.metadata["help"].lower() in text
        assert all(choice in text for choice in choices_of(item))


@faces
def test_readme_lists_all_settings_with_unit_range_and_default(stage: str):
    page = (ROOT / "components" / stage / "README.md").read_text(encoding="utf-8")
    settings = page.partition("## Settings")[2]
    for name, item in fields(stage).items():
        (row,) = re.findall(rf"(?m)^\| `{name}` \| .*$", settings)
        cells = row.split(" | ")
        assert cells[2:5] == [unit_of(item), range_of(item), f"`{default_text(item.default)}`"]


@pipelines
def test_the_description_names_every_parameter_and_the_service_account(pipeline: str):
    description = pipeline_compiler.load_pipeline(pipeline).description
    assert f"service account `{SERVICE_ACCOUNT}`" in description
    for text in parameter_texts(pipeline):
        assert f"| `{text.name}` | {text.kind} | {text.unit} | {text.range} |" in description
    for key in pipeline_signature(pipeline):
        stage = settings_stage(key)
        if stage:
            section = description.partition(f"## {key}\n")[2].partition("\n## ")[0]
            named = {name for name in re.findall(r"(?m)^\| `(\w+)` \|", section)}
            assert named == {text.name for text in unnamed_settings(pipeline, stage)}


@pipelines
def test_the_description_is_markdown_that_renders_as_tables(pipeline: str):
    description = pipeline_compiler.load_pipeline(pipeline).description
    rows = [line for line in description.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}


@pipelines
def test_menus_are_closed_choices_that_hold_the_default(pipeline: str):
    menus = {key: menu_of(key) for key in pipeline_signature(pipeline)}
    shown = {key: menu for key, menu in menus.items() if menu}
    assert {"data_source", "sft_loss_on"} <= set(shown)
    # They take paths as well, or several names with commas.
    assert not {"sft_backbone", "grid_variants", "grid_objectives"} & set(shown)
    for key, menu in shown.items():
        assert pipeline_signature(pipeline)[key] in menu


def test_a_backbone_is_no_closed_choice():
    assert BACKBONES and not choices_of(field_of("sft_backbone"))


def test_setting_texts_name_types_in_words():
    kinds = {text.name: text.kind for text in setting_texts("evaluation", ("rows", "base"))}
    assert kinds == {"rows": "whole number", "base": "true or false"}


def documented(function: Any) -> dict[str, str]:
    doc = docstring_parser.parse(function.__doc__)
    return {item.arg_name: " ".join((item.description or "").split()) for item in doc.params}


@pytest.mark.parametrize("stage", readme.stages())
def test_every_parameter_and_artifact_is_documented(stage: str):
    function = readme.load(stage).python_func
    assert set(documented(function)) == set(inspect.signature(function).parameters)


def test_the_check_takes_the_parameters_of_all_pipelines():
    given = {name: item.annotation for name, item in parameters("settings_check").items()}
    assert given.pop("pipeline") is str
    expected: dict[str, type] = {}
    for name in pipeline_names():
        for key, value in pipeline_signature(name).items():
            expected[key] = type(value)
    assert {name: get_args(kind)[0] for name, kind in given.items()} == expected
