"""The settings of every stage, as a pipeline's runs have them by a file of parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dynamicpo.core.config import (
    DataConfig,
    EvaluationConfig,
    NegativesConfig,
    PreferenceConfig,
    SFTConfig,
)
from dynamicpo.core.config_fields import Checked, from_mapping
from dynamicpo.runs.parameters import check_parameters, stage_settings


class Configs(NamedTuple):
    """The settings of data preparation, sampling, both trainings and evaluation."""

    data: DataConfig
    negatives: NegativesConfig
    sft: SFTConfig
    preference: PreferenceConfig
    evaluation: EvaluationConfig


# Any: parameters of the pipeline, of several types.
def stage_configs(pipeline: str, preset: Path, changes: Mapping[str, Any]) -> Configs:
    """The settings of a preset, but for what is changed."""
    parameters = yaml.safe_load(preset.read_text(encoding="utf-8"))
    checked = check_parameters(pipeline, {**parameters, **changes})
    settings = stage_settings(pipeline, checked)

    def config(kind: type[Checked], stage: str) -> Any:
        return from_mapping(kind, settings[stage], stage)

    return Configs(
        config(DataConfig, "data"),
        config(NegativesConfig, "negatives"),
        config(SFTConfig, "sft"),
        config(PreferenceConfig, "preference"),
        config(EvaluationConfig, "evaluation"),
    )
