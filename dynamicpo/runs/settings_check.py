"""The first task of a run: all parameters checked, and each stage's settings made of them."""

from collections.abc import Mapping
from typing import NamedTuple, cast

from dynamicpo.core.json_values import JsonObject, JsonValue
from dynamicpo.models.backbones import default_item_text
from dynamicpo.runs.parameters import check_parameters, exact_json, stage_settings
from dynamicpo.runs.signatures import pipeline_signature


class CheckedSettings(NamedTuple):
    """The outputs of the check: all settings of each stage, empty for stages that a run lacks.

    Attributes:
        data: Of data preparation.
        negatives: Of negative sampling.
        sft: Of supervised fine-tuning.
        preference: Of preference training, without what a loop sets.
        evaluation: Of evaluation.
        drift: Of drift monitoring.
        grid: The lists of a study's cells.
        study: Of a study's verdict.
        retrain: Of retraining.
        gate: Of the promotion gate.
        objectives: The trainings of the training pipeline.
        parameters: All of them by the names of the pipeline's parameters, for the run's record.
    """

    data: JsonObject
    negatives: JsonObject
    sft: JsonObject
    preference: JsonObject
    evaluation: JsonObject
    drift: JsonObject
    grid: JsonObject
    study: JsonObject
    retrain: JsonObject
    gate: JsonObject
    objectives: list[JsonValue]
    parameters: JsonObject


def check_settings(pipeline: str, arguments: Mapping[str, object]) -> CheckedSettings:
    """Check the arguments of a run, each by itself and with the others.

    Args:
        pipeline: The pipeline's name.
        arguments: The arguments as Kubeflow delivers them; those that are None or no parameters
            of this pipeline are left out.

    Raises:
        ConfigError: Mistakes, each on a line of its own.
        DataError: A file that must be there is not.
    """
    signature = pipeline_signature(pipeline)
    given = {}
    for key, value in arguments.items():
        if key in signature and value is not None:
            given[key] = value
    parameters = check_parameters(pipeline, given)
    settings = stage_settings(pipeline, parameters)
    _share_permissions(settings)
    _share_tokenizer(settings)
    return CheckedSettings(
        data=settings.get("data", {}),
        negatives=settings.get("negatives", {}),
        sft=settings.get("sft", {}),
        preference=settings.get("preference", {}),
        evaluation=settings.get("evaluation", {}),
        drift=settings.get("drift", {}),
        grid=settings.get("grid", {}),
        study=settings.get("study", {}),
        retrain=settings.get("retrain", {}),
        gate=settings.get("gate", {}),
        objectives=cast(list[JsonValue], parameters.get("objectives", [])),
        parameters={key: exact_json(value) for key, value in parameters.items()},
    )


def _share_permissions(settings: Mapping[str, JsonObject]) -> None:
    """Let the stages after fine-tuning read its model, as this run allowed fine-tuning to make it.

    The run itself names the base, so its later stages may fetch it; each is a machine of its own.
    """
    readers = ["preference", "evaluation"]
    if "retrain" in settings:
        # Its drift check scores rows with the champion.
        readers.append("drift")
    for stage in readers:
        if stage in settings:
            trusted = settings["sft"]["trust_remote_code"] or settings[stage]["trust_remote_code"]
            settings[stage]["trust_remote_code"] = trusted
            settings[stage]["allow_base_from_manifest"] = True


def _share_tokenizer(settings: Mapping[str, JsonObject]) -> None:
    """Let data preparation count the tokens of titles as the backbone to be tuned writes them."""
    data, sft = settings["data"], settings["sft"]
    backbone, item_text = str(sft["backbone"]), sft["item_text"]
    if item_text == "auto":
        item_text = default_item_text(backbone)
    # No code of a model runs where data are prepared, which such a tokenizer may need.
    if data["tokenizer"] or item_text == "token" or sft["trust_remote_code"]:
        return
    data["tokenizer"] = backbone
    data["tokenizer_revision"] = sft["revision"]
