"""Texts on the parameters of pipelines, for their descriptions in Kubeflow and their READMEs."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from dynamicpo.core.choices import LOSSES, VARIANTS
from dynamicpo.core.config_fields import range_of, unit_of
from dynamicpo.core.json_values import JsonValue
from dynamicpo.runs.signatures import (
    STAGE_CONFIGS,
    STORE,
    field_of,
    pipeline_parameters,
    pipeline_signature,
    setting_name,
    settings_stage,
    stage_fields,
)

STAGE_NAMES: Mapping[str, str] = {
    "data": "data preparation",
    "negatives": "negative sampling",
    "sft": "supervised fine-tuning",
    "preference": "preference training",
    "evaluation": "evaluation",
    "drift": "drift monitoring",
    "grid": "the study's cells",
    "study": "the study's verdict",
    "retrain": "retraining",
    "gate": "the promotion gate",
}
# Parameters that are no field of a configuration.
OTHER_TEXTS: Mapping[str, str] = {
    "data_interactions": "file of interactions: user_id, item_id, timestamp, optional rating; CSV, "
    "TSV, JSONL or Parquet, local or in an object store. For 'movielens' a GroupLens zip or folder "
    "(empty: the copy in the recbole wheel); for 'published' a file or folder of rows",
    "data_items": "file of items: item_id, title, optional category. Only for 'table'",
    "objectives": "what to train side by side: names such as dmpo or dynamicpo-dmpo, or "
    f'{{"objective": a name, "loss": one of {", ".join(LOSSES)}, '
    f'"dynamic": one of {", ".join(VARIANTS)}}}',
}
# What KFP calls the types of parameters, in the words of its form.
_KINDS: Mapping[type, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    list: "JSON list",
    dict: "JSON dictionary",
}


class ParameterText(NamedTuple):
    """A row on one parameter or setting.

    Attributes:
        name: Its name.
        kind: Its type in words.
        unit: The unit of a number; empty where it has none.
        range: Its values; empty where any of the type will do.
        default: Its default.
        meaning: What it does.
    """

    name: str
    kind: str
    unit: str
    range: str
    default: JsonValue
    meaning: str


def parameter_texts(pipeline: str) -> list[ParameterText]:
    """The parameters of a pipeline's signature, in its order."""
    texts = []
    for key, default in pipeline_signature(pipeline).items():
        texts.append(_parameter_text(key, default))
    return texts


def _parameter_text(key: str, default: JsonValue) -> ParameterText:
    kind = _KINDS[type(default)]
    item = field_of(key)
    stage = settings_stage(key)
    if stage:
        meaning = f"other settings of {STAGE_NAMES[stage]}, listed below"
        return ParameterText(key, kind, "", "", default, meaning)
    if item is None:
        return ParameterText(key, kind, "", "", default, OTHER_TEXTS[key])
    return ParameterText(
        key, kind, unit_of(item), range_of(item), default, str(item.metadata["help"])
    )


def setting_texts(stage: str, names: Sequence[str] = ()) -> list[ParameterText]:
    """The settings of a stage.

    Args:
        stage: The stage.
        names: The fields to list (default: all).
    """
    texts = []
    for name, item in STAGE_CONFIGS[stage].__dataclass_fields__.items():
        if not names or name in names:
            kind, meaning = _KINDS[cast(type, item.type)], str(item.metadata["help"])
            default = cast(JsonValue, item.default)
            texts.append(ParameterText(name, kind, unit_of(item), range_of(item), default, meaning))
    return texts


def unnamed_settings(pipeline: str, stage: str) -> list[ParameterText]:
    """The fields of a stage that stand in its settings, as they are no parameter of their own."""
    signature = pipeline_signature(pipeline)
    names = []
    for field in stage_fields(stage, signature):
        if setting_name(stage, field) not in signature:
            names.append(field)
    defaults = pipeline_parameters(pipeline)
    return [
        text._replace(default=defaults[setting_name(stage, text.name)])
        for text in setting_texts(stage, names)
    ]


def pipeline_description(pipeline: str, summary: str, service_account: str) -> str:
    """The description that Kubeflow shows of a pipeline: Markdown.

    Args:
        pipeline: Its name.
        summary: What it does, the pipeline's docstring.
        service_account: The account that its runs need.
    """
    parts = [
        summary,
        f"Start a run with the service account `{service_account}`. {_defaults_text(pipeline)}",
        "## Parameters",
        parameter_table(parameter_texts(pipeline)),
    ]
    for key in pipeline_signature(pipeline):
        stage = settings_stage(key)
        if stage:
            parts += [f"## {key}", parameter_table(unnamed_settings(pipeline, stage))]
    return "\n\n".join(parts) + "\n"


def _defaults_text(pipeline: str) -> str:
    if STORE in pipeline_signature(pipeline):
        return f"Give `{STORE}`; all other defaults run as they are."
    return "Its defaults run as they are."


def default_text(value: JsonValue) -> str:
    """A default as one would write it into Kubeflow's form."""
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value)


def parameter_table(texts: Sequence[ParameterText]) -> str:
    """Rows on parameters as a table in Markdown."""
    heads = ("Name", "Type", "Unit", "Range", "Default", "Meaning")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for text in texts:
        default = f"`{default_text(text.default)}`"
        cells = [f"`{text.name}`", text.kind, text.unit, text.range, default, text.meaning]
        escaped = [" ".join(cell.split()).replace("|", "\\|") for cell in cells]
        lines.append(f"| {' | '.join(escaped)} |")
    return "\n".join(lines)
