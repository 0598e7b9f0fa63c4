"""Presets of large models: the paper's settings, and pipelines that take them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamicpo.cli.main import main
from dynamicpo.core.config import NegativesConfig, PreferenceConfig, SFTConfig
from dynamicpo.core.config_fields import from_mapping
from dynamicpo.runs.parameters import check_parameters, pipeline_arguments, stage_settings
from dynamicpo.runs.signatures import pipelines_folder

DIGEST = "python@sha256:" + 64 * "a"
PAPER_PRESETS = {
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-3-8b-instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
    "qwen2.5-7b-instruct": "Qwen/Qwen2.5-7B-Instruct",
}
# arXiv 2605.00327, its experimental settings.
PAPER_SFT = {
    "tuning": "lora",
    "quantization": "4bit",
    "lora_modules": "all-linear",
    "lora_rank": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.1,
    "batch_size": 128,
    "learning_rate": 1e-5,
    "warmup_share": 0.05,
    "epochs": 5,
    "max_grad_norm": 0.3,
    "max_length": 512,
    "list_candidates": True,
    "sequences": False,
    "dropout": 0,
    "patience": 0,
    "rows": 0,
    "max_steps": 0,
}
PAPER_PREFERENCES = {
    "num_negatives": 15,
    "beta": 1.0,
    "sft_weight": 0,
    "dropout": False,
    "batch_size": 128,
    "learning_rate": 1e-5,
    "warmup_share": 0.05,
    "epochs": 3,
    "max_grad_norm": 0.3,
    "rows": 0,
    "max_steps": 0,
}


def preset(name: str) -> dict[str, Any]:
    path = pipelines_folder() / "training" / "presets" / f"{name}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    return check_parameters("training", values)


@pytest.mark.parametrize("name", PAPER_PRESETS)
def test_stages_get_the_settings_of_the_paper(name: str) -> None:
    settings = stage_settings("training", preset(name))
    sft = from_mapping(SFTConfig, settings["sft"], "sft")
    assert sft.backbone == PAPER_PRESETS[name]
    assert {field: getattr(sft, field) for field in PAPER_SFT} == PAPER_SFT
    preference = from_mapping(PreferenceConfig, settings["preference"], "preference")
    reached = {field: getattr(preference, field) for field in PAPER_PREFERENCES}
    assert reached == PAPER_PREFERENCES
    negatives = from_mapping(NegativesConfig, settings["negatives"], "negatives")
    assert (negatives.num_candidates, negatives.strategy) == (20, "uniform")
    # What bounds memory changes nothing else.
    for config in (sft, preference):
        assert config.gradient_checkpointing and config.batch_size % config.micro_batch_size == 0


def test_the_compiled_pipeline_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "training.yaml"
    assert main(["compile", "training", "--image", DIGEST, "-o", str(path)]) == 0
    spec = next(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    for name in PAPER_PRESETS:
        arguments = pipeline_arguments("training", preset(name))
        assert arguments.keys() == inputs.keys()
        for key, value in arguments.items():
            assert value in inputs[key].get("literals", [value]), (name, key)
        assert arguments["sft_settings"]["quantization"] == "4bit"
        assert [entry["dynamic"] for entry in arguments["objectives"]] == ["none", "full"]


def test_a_misspelt_setting_of_a_preset_would_be_seen() -> None:
    values = {"sft_lora_module": "all-linear"}
    with pytest.raises(ValueError, match="sft_lora_module"):
        check_parameters("training", values)
