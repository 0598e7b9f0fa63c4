"""The first task of a run, through kfp: numbers survive it, and every mistake is named."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kfp.local
import pytest
import yaml
from kfp import dsl

from dynamicpo.core.config import PreferenceConfig, SFTConfig
from dynamicpo.core.config_fields import LARGEST_EXACT, from_mapping
from dynamicpo.core.errors import ConfigError
from dynamicpo.runs.local import kfp_internals
from dynamicpo.runs.parameters import (
    check_parameters,
    pipeline_arguments,
    restored_parameters,
)
from dynamicpo.runs.settings_check import check_settings as check
from dynamicpo.runs.signatures import STORE, pipeline_names, pipeline_signature
from dynamicpo_components.settings_check.component import check_settings
from dynamicpo_pipelines.signatures import PRESETS

LONG_SEED = LARGEST_EXACT + 4


@dsl.component(base_image="python:local", install_kfp_package=False)
def echo(settings: dict) -> str:
    import json

    return json.dumps(settings)


@dsl.pipeline(name="through-kfp")
def through_kfp(sft_settings: dict, preference_settings: dict, sft_rows: int) -> str:
    checked = check_settings(
        pipeline="training",
        data_source="movielens",
        sft_rows=sft_rows,
        sft_settings=sft_settings,
        preference_settings=preference_settings,
    )
    sft = echo(settings=checked.outputs["sft"])
    echo(settings=checked.outputs["preference"])
    echo(settings=checked.outputs["parameters"])
    return sft.output


class Executed:
    """Hooks that execute every task in a process and keep its outputs."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []

    def execute(self, call: kfp_internals.TaskCall) -> kfp_internals.TaskResult:
        result = call.execute()
        self.outputs.append(dict(result.outputs))
        return result

    def run_process(self, command: list[str], environment: Any) -> int:
        return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode

    def run_container(self, *_: object, **__: object) -> int:
        raise AssertionError


def test_numbers_survive_kfp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whole numbers become floats in dictionaries, and a long seed goes as text."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    kfp.local.init(kfp.local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path))
    hooks = Executed()
    with kfp_internals.hooked(hooks):
        through_kfp(
            sft_settings={"lora_rank": 40, "lora_dropout": 0.1},
            preference_settings={"seed": str(LONG_SEED)},
            sft_rows=7,
        )
    received = [json.loads(outputs["Output"]) for outputs in hooks.outputs if "Output" in outputs]
    # kfp chooses the order of tasks that don't depend on each other.
    by_key = {key: settings for settings in received for key in settings}
    sft, preference, parameters = by_key["lora_rank"], by_key["margin"], by_key["sft_lora_rank"]
    assert isinstance(sft["lora_rank"], float)  # what this test is about
    config = from_mapping(SFTConfig, sft, "sft")
    assert (config.lora_rank, config.lora_dropout, config.rows) == (40, 0.1, 7)
    assert type(config.lora_rank) is int
    assert from_mapping(PreferenceConfig, preference, "preference").seed == LONG_SEED
    given = {"sft_rows": 7, "sft_lora_rank": 40, "sft_lora_dropout": 0.1}
    expected = check_parameters("training", {**given, "preference_seed": str(LONG_SEED)})
    assert restored_parameters(parameters) == expected


def test_a_long_seed_as_a_number_is_refused():
    for seed in (LARGEST_EXACT + 2, float(LARGEST_EXACT + 1)):
        with pytest.raises(ConfigError, match=r"^seed: must be text above 9007199254740991"):
            check_parameters("training", {"seed": seed})


@pytest.mark.parametrize("seed", [LONG_SEED, "9" * 5000], ids=["long", "thousands of digits"])
def test_a_long_seed_of_a_cell_is_refused(seed: object):
    """A cell is an item of a loop: its seed goes through Kubeflow as a number."""
    largest = {"grid_seeds": f"{LARGEST_EXACT},1"}
    assert check_parameters("negative_scaling", largest)["grid_seeds"] == f"{LARGEST_EXACT},1"
    with pytest.raises(
        ConfigError, match=r"^grid_seeds: must be whole numbers <= 9007199254740991"
    ):
        check_parameters("negative_scaling", {"grid_seeds": f"1,{seed}"})


def test_an_unknown_parameter_is_told_with_the_names_of_its_stage():
    """There are about a hundred names in all."""
    with pytest.raises(ConfigError, match="Did you mean 'sft_lora_rank'") as caught:
        check_parameters("training", {"sft_lora_rnk": 8})
    assert "sft_rows" in str(caught.value) and "preference_" not in str(caught.value)
    with pytest.raises(ConfigError, match="choose from data_interactions, .*, seed, ") as caught:
        check_parameters("training", {"epochs": 8})
    assert "sft_settings" in str(caught.value) and "lora" not in str(caught.value)
    with pytest.raises(ConfigError, match="Did you mean 'sft_lora_rank'"):
        check_parameters("training", {"lora_rank": 8})


def test_an_objective_whose_name_is_a_number_is_refused():
    entry = {"objective": 3.0, "loss": "dmpo", "dynamic": "none"}
    with pytest.raises(ConfigError, match=r"^objectives: a name must be up to 64 .*, got 3\.0"):
        check_parameters("training", {"objectives": [entry]})


def test_a_long_seed_as_text_goes_to_every_stage():
    parameters = check_parameters("training", {"seed": str(LONG_SEED)})
    arguments = pipeline_arguments("training", parameters)
    assert arguments["seed"] == 0
    assert arguments["sft_settings"] == {"seed": str(LONG_SEED)}
    again = check("training", arguments)
    assert again.sft["seed"] == again.drift["seed"] == str(LONG_SEED)


def test_every_mistake_is_named_with_the_nearest_right_name():
    arguments = {
        **pipeline_signature("training"),
        "sft_settings": {"lora_rnak": 8, "batch_size": 0.5, "rows": 3},
        "preference_settings": {"ablation": "none", "loss": "dmpo"},
        "preference_num_negatives": 25.0,
        "negatives_strategy": "unifrom",
        "data_k_core": 0,
        "objectives": [{"objective": "x", "loss": "dmop", "dynamic": False}, "sdop"],
    }
    with pytest.raises(ConfigError) as caught:
        check("training", {**arguments, "grid_seeds": None})
    text = str(caught.value)
    for part in (
        "sft_settings: unknown name 'lora_rnak'",
        "Did you mean 'lora_rank'",
        "sft_settings: rows is the parameter sft_rows. Give it there.",
        "sft_batch_size: must be a whole number, got 0.5",
        "preference_settings: unknown name 'ablation'",
        "preference_settings: unknown name 'loss'",
        "negatives_strategy: unknown name 'unifrom'",
        "data_k_core: must be >= 1, got 0",
        "objectives: x: loss: unknown name 'dmop'",
        "objectives: x: dynamic: unknown name 'False'; choose from beta, full, none, selection",
        "objectives: unknown name 'sdop'",
    ):
        assert part in text, text


def test_a_problem_between_stages_is_named_beside_another():
    given = {"preference_num_negatives": 25, "data_k_core": 0}
    with pytest.raises(
        ConfigError, match=r"(?s)data_k_core: .*preference_num_negatives: must be <="
    ):
        check_parameters("training", given)


def test_items_of_a_source_that_has_none_are_refused():
    with pytest.raises(ConfigError, match="data_items: must be empty for data_source 'movielens'"):
        check_parameters("training", {"data_items": "items.csv"})


@pytest.mark.parametrize("name", pipeline_names())
def test_defaults_are_those_of_the_preset(name: str):
    preset = yaml.safe_load(PRESETS[name].read_text(encoding="utf-8"))
    # Nobody but the user knows where versions are.
    given = {STORE: "versions"} if STORE in pipeline_signature(name) else {}
    parameters = check_parameters(name, {**preset, **given})
    assert parameters == check_parameters(name, given)
    # Settings hold what differs from the preset's, which the first task has from the signature.
    expected = {
        key: {} if key.endswith("_settings") else value
        for key, value in pipeline_signature(name).items()
    }
    assert pipeline_arguments(name, parameters) == {**expected, **given}


def test_a_retraining_without_a_store_is_refused():
    with pytest.raises(ConfigError, match="retrain_store: must be given"):
        check_parameters("retraining", {})


def test_settings_may_be_given_by_field_or_as_a_dictionary():
    by_field = check_parameters("training", {"sft_lora_rank": "8", "seed": "3"})
    assert by_field == check_parameters(
        "training", {"sft_settings": '{"lora_rank": 8.0}', "seed": 3}
    )
    assert pipeline_arguments("training", by_field)["sft_settings"] == {"lora_rank": 8}
    assert by_field["evaluation_seed"] == 3


SMOLLM2 = "smollm2-135m"


@pytest.mark.parametrize("name", ["training", "negative_scaling"])
@pytest.mark.parametrize(
    ("given", "tokenizer"),
    [
        ({}, ("", "main")),
        ({"sft_backbone": SMOLLM2}, (SMOLLM2, "main")),
        ({"sft_backbone": "a/b", "sft_settings": {"revision": "v2"}}, ("a/b", "v2")),
        ({"sft_backbone": SMOLLM2, "sft_settings": {"item_text": "token"}}, ("", "main")),
        ({"sft_backbone": "a/b", "sft_settings": {"trust_remote_code": True}}, ("", "main")),
        ({"sft_backbone": "a/b", "data_settings": {"tokenizer": "c/d"}}, ("c/d", "main")),
    ],
)
def test_data_preparation_counts_in_tokens_of_the_backbone(
    name: str, given: dict[str, Any], tokenizer: tuple[str, str]
):
    data = check(name, {"data_source": "movielens", **given}).data
    assert (data["tokenizer"], data["tokenizer_revision"]) == tokenizer


def test_the_check_needs_no_torch():
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None);"
        "from dynamicpo.runs.settings_check import check_settings as check;"
        "print(check('training', {}).sft['rows'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"{pipeline_signature('training')['sft_rows']}\n", done.stderr


@pytest.mark.parametrize(
    "given",
    [
        {"sft_revision": "{{$.pipeline_job_name}}"},
        {"sft_settings": {"revision": "a{{$.inputs.parameters['seed']}}"}},
        {"sft_settings": '{"revision": "{{workflow.name}}"}'},
        {"objectives": [{"objective": "{{$.pipeline_task_uuid}}", "loss": "dmpo"}]},
    ],
)
def test_placeholders_in_values_are_refused(given):
    """kfp's local runs put other texts in their place, Argo does on clusters."""
    with pytest.raises(ConfigError) as refused:
        check_parameters("training", given)
    lines = str(refused.value).splitlines()
    assert len(lines) == 1 and "must not hold '{{'" in lines[0]


def test_braces_alone_are_values():
    parameters = check_parameters("training", {"sft_revision": "{a} }} {"})
    assert parameters["sft_revision"] == "{a} }} {"
