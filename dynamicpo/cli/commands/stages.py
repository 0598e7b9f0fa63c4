"""The commands that run one stage: paths and settings from flags and a file.

Nothing heavy is imported before the values have been checked, so that mistakes are answered at
once.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

from dynamicpo.cli.commands.values import read_yaml, stage_result
from dynamicpo.cli.results import EvaluationResult, StageResult, StudyResult
from dynamicpo.core.config import (
    DataConfig,
    DriftConfig,
    EvaluationConfig,
    NegativesConfig,
    PreferenceConfig,
    SFTConfig,
    StudyConfig,
)
from dynamicpo.core.config_fields import Checked, from_mapping
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.model_names import check_model_names
from dynamicpo.prompts.loader import load_template

if TYPE_CHECKING:
    from dynamicpo.negatives.audit.audit import CandidateAudit

StageConfig = TypeVar("StageConfig", bound=Checked)
# By the names of flags, from the command line or a YAML file: texts, or lists of texts.
Paths = Mapping[str, object]


@dataclass(frozen=True)
class StageCommand(Generic[StageConfig]):
    """A sub-command that runs one stage.

    Attributes:
        help: Its purpose, for the help text.
        config_class: The stage's configuration.
        required: Paths that must be given, with their help texts.
        optional: Paths that may be given.
        run: The stage, from paths and configuration to its result.
    """

    help: str
    config_class: type[StageConfig]
    required: Mapping[str, str]
    optional: Mapping[str, str]
    run: Callable[[Paths, StageConfig], StageResult]


class ArgumentOptions(TypedDict, total=False):
    """Options of argparse's `add_argument`."""

    action: str | type[argparse.Action]
    nargs: str
    metavar: str


def _prepare_data(paths: Paths, config: DataConfig) -> StageResult:
    from dynamicpo.data.prepare import prepare_data

    interactions = str(paths.get("interactions", ""))
    items = str(paths.get("items", ""))
    manifest = prepare_data(interactions, items, _path(paths, "output"), config)
    return stage_result(manifest, str(paths["output"]))


def _sample_negatives(paths: Paths, config: NegativesConfig) -> StageResult:
    from dynamicpo.negatives.sampling import sample_negatives

    manifest = sample_negatives(_path(paths, "examples"), _path(paths, "output"), config)
    return stage_result(manifest, str(paths["output"]))


def _fine_tune(paths: Paths, config: SFTConfig) -> StageResult:
    load_template(config.template, list_candidates=config.list_candidates)
    preferences = _path(paths, "preferences")
    _check_folders(preferences)
    from dynamicpo.training.sft import fine_tune

    manifest = fine_tune(preferences, _path(paths, "output"), config)
    return stage_result(manifest, str(paths["output"]))


def _train_preferences(paths: Paths, config: PreferenceConfig) -> StageResult:
    preferences = _path(paths, "preferences")
    adapter = _path(paths, "adapter")
    _check_folders(preferences, adapter)
    from dynamicpo.training.preference_training import train_preferences

    manifest = train_preferences(preferences, adapter, _path(paths, "output"), config)
    return stage_result(manifest, str(paths["output"]))


def _evaluate(paths: Paths, config: EvaluationConfig) -> EvaluationResult:
    models = _named_models(paths["model"])
    check_model_names(models)
    preferences = _path(paths, "preferences")
    _check_folders(preferences, *models.values())
    from dynamicpo.evaluation.evaluate import evaluate

    output = _path(paths, "output")
    manifest = evaluate(preferences, models, output, config)
    metrics = {}
    for path in sorted(output.glob("*/metrics.json")):
        metrics[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
    return {**stage_result(manifest, str(paths["output"])), "metrics": metrics}


def _monitor_drift(paths: Paths, config: DriftConfig) -> StageResult:
    from dynamicpo.monitoring.drift import monitor_drift

    reference = _path(paths, "reference")
    current = _path(paths, "current")
    model = _path(paths, "model") if "model" in paths else None
    manifest = monitor_drift(reference, current, _path(paths, "output"), config, model)
    return stage_result(manifest, str(paths["output"]))


def _judge_collapse(paths: Paths, config: StudyConfig) -> StudyResult:
    from dynamicpo.study.judge import judge_collapse

    evaluations = _listed(paths["evaluation"])
    output = _path(paths, "output")
    folders = [Path(str(path)) for path in evaluations]
    manifest = judge_collapse(_path(paths, "baselines"), folders, output, config)
    study = json.loads((output / "study.json").read_text(encoding="utf-8"))
    return {**stage_result(manifest, str(paths["output"])), "sentences": study["sentences"]}


def _path(paths: Paths, name: str) -> Path:
    return Path(str(paths[name]))


def _listed(value: object) -> list[object]:
    """The entries of a value; a text in a YAML file is a list of one."""
    return value if isinstance(value, list) else [value]


def _check_folders(*folders: Path) -> None:
    """Name all folders that are not there, before anything heavy is imported."""
    absent = [folder for folder in folders if not folder.exists()]
    problem = "must be the finished output of a stage, but it does not exist. Run that stage first."
    if absent:
        raise DataError("\n".join(f"{folder}: {problem}" for folder in absent))


def _named_models(value: object) -> dict[str, Path]:
    """Names to folders, from `NAME=DIR` texts or a mapping."""
    if isinstance(value, dict):
        entries = [(str(name), str(folder)) for name, folder in value.items()]
    else:
        entries = [_split_pair(str(text)) for text in _listed(value)]
    models = {name: Path(folder) for name, folder in entries if name and folder}
    if len(models) < len(entries):
        raise ConfigError(f"--model: must be NAME=DIR, each name once, got {value!r}.")
    return models


def _split_pair(text: str) -> tuple[str, str]:
    name, _, folder = text.partition("=")
    return name, folder


_OUTPUT = {"output": "folder to make"}
_PREFERENCES = {"preferences": "preferences folder, from sample-negatives"}
# Any: each command has a configuration of its own.
STAGE_COMMANDS: Mapping[str, StageCommand[Any]] = {
    "prepare-data": StageCommand(
        "interactions to examples: a history and the next item",
        DataConfig,
        required=_OUTPUT,
        optional={
            "interactions": "file of interactions (for movielens: a zip or folder)",
            "items": "file of items",
        },
        run=_prepare_data,
    ),
    "sample-negatives": StageCommand(
        "examples to preference rows: the target among negatives",
        NegativesConfig,
        required={"examples": "examples folder, from prepare-data", **_OUTPUT},
        optional={},
        run=_sample_negatives,
    ),
    "sft": StageCommand(
        "supervised fine-tuning",
        SFTConfig,
        required={**_PREFERENCES, **_OUTPUT},
        optional={},
        run=_fine_tune,
    ),
    "train-preferences": StageCommand(
        "preference training, with DynamicPO or a base objective",
        PreferenceConfig,
        required={**_PREFERENCES, "adapter": "SFT model folder", **_OUTPUT},
        optional={},
        run=_train_preferences,
    ),
    "evaluate": StageCommand(
        "rank held-out rows with models and baselines",
        EvaluationConfig,
        required={
            **_PREFERENCES,
            "model": "model folder and its name; may be given several times",
            **_OUTPUT,
        },
        optional={},
        run=_evaluate,
    ),
    "monitor-drift": StageCommand(
        "compare new rows with the ones a model was trained on",
        DriftConfig,
        required={
            "reference": "preferences folder of the model",
            "current": "preferences folder of now",
            **_OUTPUT,
        },
        optional={"model": "model folder, to compare its scores as well"},
        run=_monitor_drift,
    ),
    "judge-collapse": StageCommand(
        "whether more negatives made ranking worse, and whether DynamicPO prevented it",
        StudyConfig,
        required={
            "baselines": "evaluation of the SFT model",
            "evaluation": "evaluations of the trained models",
            **_OUTPUT,
        },
        optional={},
        run=_judge_collapse,
    ),
}
# Required paths that may be given several times.
REPEATED_PATHS: Mapping[str, ArgumentOptions] = {
    "model": {"action": "append", "metavar": "NAME=DIR"},
    "evaluation": {"action": "extend", "nargs": "+", "metavar": "DIR"},
}


def run_stage(name: str, arguments: argparse.Namespace) -> StageResult:
    """Merge the file and the flags, check them, and run the stage.

    Raises:
        ConfigError: A setting that can't be used, or a path that is missing.
    """
    command = STAGE_COMMANDS[name]
    fields = [item.name for item in dataclasses.fields(command.config_class)]
    path_names = [*command.required, *command.optional]
    known = [*fields, *path_names]
    flags = {key: value for key, value in vars(arguments).items() if key in known}
    values = {**read_yaml(arguments.config, known), **flags}
    settings = {key: values[key] for key in fields if key in values}
    config = from_mapping(command.config_class, settings, name)
    missing = [f"--{key}" for key in command.required if not values.get(key)]
    if missing:
        raise ConfigError(
            f"{name}: {', '.join(missing)} must be given. See `dynamicpo {name} --help`."
        )
    paths = {key: values[key] for key in path_names if key in values}
    return command.run(paths, config)


def audit(arguments: argparse.Namespace) -> "CandidateAudit":
    """Audit the test rows' candidate lists for leaks."""
    from dynamicpo.negatives.audit.audit import audit_candidates

    return audit_candidates(Path(arguments.train), Path(arguments.test))
