"""The commands that run one stage: paths and settings from flags and a file."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dynamicpo.cli.commands.values import Values, read_yaml, result_of
from dynamicpo.core.config import (
    DataConfig,
    DriftConfig,
    EvaluationConfig,
    NegativesConfig,
    PreferenceConfig,
    SFTConfig,
    StudyConfig,
)
from dynamicpo.core.config_fields import from_mapping
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.model_names import check_model_names
from dynamicpo.prompts.loader import load_template


class Stage(NamedTuple):
    """A sub-command that runs one stage.

    Attributes:
        help: What it does.
        kind: The stage's configuration.
        required: Paths that must be given, with their help.
        optional: Paths that may be given.
        run: The stage, from paths and configuration to its result.
    """

    help: str
    kind: type
    required: Mapping[str, str]
    optional: Mapping[str, str]
    run: Callable[[Values, Any], dict[str, Any]]


def _prepare_data(paths: Values, settings: Any) -> dict[str, Any]:
    from dynamicpo.data.prepare import prepare_data

    return result_of(
        prepare_data(
            paths.get("interactions", ""), paths.get("items", ""), Path(paths["output"]), settings
        ),
        paths,
    )


def _sample_negatives(paths: Values, settings: Any) -> dict[str, Any]:
    from dynamicpo.negatives.sampling import sample_negatives

    return result_of(
        sample_negatives(Path(paths["examples"]), Path(paths["output"]), settings), paths
    )


def _fine_tune(paths: Values, settings: Any) -> dict[str, Any]:
    load_template(settings.template, list_candidates=settings.list_candidates)
    _check_folders(paths["preferences"])
    from dynamicpo.training.sft import fine_tune

    return result_of(fine_tune(Path(paths["preferences"]), Path(paths["output"]), settings), paths)


def _train_preferences(paths: Values, settings: Any) -> dict[str, Any]:
    _check_folders(paths["preferences"], paths["adapter"])
    from dynamicpo.training.preference_training import train_preferences

    preferences, adapter, output = (
        Path(paths[name]) for name in ("preferences", "adapter", "output")
    )
    return result_of(train_preferences(preferences, adapter, output, settings), paths)


def _evaluate(paths: Values, settings: Any) -> dict[str, Any]:
    models = _models(paths["model"])
    check_model_names(models)
    _check_folders(paths["preferences"], *models.values())
    from dynamicpo.evaluation.evaluate import evaluate

    manifest = evaluate(Path(paths["preferences"]), models, Path(paths["output"]), settings)
    files = sorted(Path(paths["output"]).glob("*/metrics.json"))
    metrics = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in files}
    return {**result_of(manifest, paths), "metrics": metrics}


def _check_folders(*folders: Any) -> None:
    """Name the folders that are not there, all of them, before anything heavy is imported."""
    what = "must be the finished output of a stage, but it does not exist. Run that stage first."
    if absent := [f"{folder}: {what}" for folder in folders if not Path(str(folder)).exists()]:
        raise DataError("\n".join(absent))


def _models(given: Any) -> dict[str, Path]:
    """Names to folders, from `NAME=DIR` texts or a mapping."""
    pairs = (
        given.items()
        if isinstance(given, dict)
        else [str(text).partition("=")[::2] for text in given]
    )
    models = {str(name): Path(str(folder)) for name, folder in pairs if name and folder}
    if len(models) < len(given):
        raise ConfigError(f"--model: must be NAME=DIR, each name once, got {given!r}.")
    return models


def _monitor_drift(paths: Values, settings: Any) -> dict[str, Any]:
    from dynamicpo.monitoring.drift import monitor_drift

    reference, current, output = (Path(paths[name]) for name in ("reference", "current", "output"))
    model = Path(paths["model"]) if "model" in paths else None
    return result_of(monitor_drift(reference, current, output, settings, model), paths)


def _judge_collapse(paths: Values, settings: Any) -> dict[str, Any]:
    from dynamicpo.study.judge import judge_collapse

    given = [paths["evaluation"]] if isinstance(paths["evaluation"], str) else paths["evaluation"]
    output = Path(paths["output"])
    manifest = judge_collapse(
        Path(paths["baselines"]), [Path(str(path)) for path in given], output, settings
    )
    study = json.loads((output / "study.json").read_text(encoding="utf-8"))
    return {**result_of(manifest, paths), "sentences": study["sentences"]}


_OUTPUT = {"output": "folder to make"}
_PREFERENCES = {"preferences": "preferences folder, from sample-negatives"}
STAGES = {
    "prepare-data": Stage(
        "interactions to examples: a history and the next item",
        DataConfig,
        _OUTPUT,
        {
            "interactions": "file of interactions (for movielens: a zip or folder)",
            "items": "file of items",
        },
        _prepare_data,
    ),
    "sample-negatives": Stage(
        "examples to preference rows: the target among negatives",
        NegativesConfig,
        {"examples": "examples folder, from prepare-data", **_OUTPUT},
        {},
        _sample_negatives,
    ),
    "sft": Stage("supervised fine-tuning", SFTConfig, {**_PREFERENCES, **_OUTPUT}, {}, _fine_tune),
    "train-preferences": Stage(
        "preference training, with DynamicPO or a base objective",
        PreferenceConfig,
        {**_PREFERENCES, "adapter": "SFT model folder", **_OUTPUT},
        {},
        _train_preferences,
    ),
    "evaluate": Stage(
        "rank held-out rows with models and baselines",
        EvaluationConfig,
        {
            **_PREFERENCES,
            "model": "model folder and its name; may be given several times",
            **_OUTPUT,
        },
        {},
        _evaluate,
    ),
    "monitor-drift": Stage(
        "compare new rows with the ones a model was trained on",
        DriftConfig,
        {
            "reference": "preferences folder of the model",
            "current": "preferences folder of now",
            **_OUTPUT,
        },
        {"model": "model folder, to compare its scores as well"},
        _monitor_drift,
    ),
    "judge-collapse": Stage(
        "whether more negatives made ranking worse, and whether DynamicPO prevented it",
        StudyConfig,
        {
            "baselines": "evaluation of the SFT model",
            "evaluation": "evaluations of the trained models",
            **_OUTPUT,
        },
        {},
        _judge_collapse,
    ),
}
# Paths that may be given several times, and how.
SEVERAL: Mapping[str, Mapping[str, Any]] = {
    "model": {"action": "append", "metavar": "NAME=DIR"},
    "evaluation": {"action": "extend", "nargs": "+", "metavar": "DIR"},
}


def run_stage(name: str, given: Values) -> dict[str, Any]:
    """Merge the file and the flags, check them, and run the stage."""
    stage = STAGES[name]
    fields = [item.name for item in dataclasses.fields(stage.kind)]
    known = [*fields, *stage.required, *stage.optional]
    values = {
        **read_yaml(given["config"], known),
        **{key: given[key] for key in known if key in given},
    }
    settings: Any = from_mapping(
        stage.kind, {key: values[key] for key in fields if key in values}, name
    )
    missing = [f"--{key}" for key in stage.required if not values.get(key)]
    if missing:
        raise ConfigError(
            f"{name}: {', '.join(missing)} must be given. See `dynamicpo {name} --help`."
        )
    return stage.run({key: value for key, value in values.items() if key not in fields}, settings)


def audit(given: Values) -> dict[str, Any]:
    """Attack the test rows' candidate lists."""
    from dynamicpo.negatives.audit.audit import audit_candidates

    return {**audit_candidates(Path(given["train"]), Path(given["test"]))}
