"""The commands that run one stage: paths and settings from flags and a file.

Nothing heavy is imported before the values have been checked, so that mistakes are answered at
once.
"""

import argparse
import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, cast

from dynamicpo.cli.commands.checkpoint_flags import (
    CHECKPOINT_TEXTS,
    checkpoints_of,
    with_place,
)
from dynamicpo.cli.commands.remote_paths import audited_rows, local_paths
from dynamicpo.cli.commands.values import read_json, read_yaml, stage_result
from dynamicpo.cli.results import (
    DriftOutcome,
    EvaluationResult,
    GateOutcome,
    StageResult,
    StudyResult,
)
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
from dynamicpo.core.config_gate import GateConfig
from dynamicpo.core.config_retraining import RetrainConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.json_values import JsonValue
from dynamicpo.core.model_names import check_model_names
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.storage import LocalCopies, join
from dynamicpo.distributed.group import is_main
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

    # Empty for movielens, which has a copy of its own; the stage checks the others.
    interactions = str(paths.get("interactions", ""))
    items = str(paths.get("items", ""))
    output = _path(paths, "output")
    manifest = prepare_data(interactions, items, output, config)
    return _result(manifest, paths)


def _sample_negatives(paths: Paths, config: NegativesConfig) -> StageResult:
    from dynamicpo.negatives.sampling import sample_negatives

    examples = _path(paths, "examples")
    output = _path(paths, "output")
    model = _path(paths, "model") if "model" in paths else None
    manifest = sample_negatives(examples, output, config, model)
    return _result(manifest, paths)


def _fine_tune(paths: Paths, config: SFTConfig) -> StageResult:
    # Both before the import below, which takes seconds.
    load_template(config.template, list_candidates=config.list_candidates)
    preferences = _path(paths, "preferences")
    _check_folders(preferences)
    checkpoints = checkpoints_of(paths)
    from dynamicpo.training.sft import fine_tune

    output = _path(paths, "output")
    start = _path(paths, "start_from") if "start_from" in paths else None
    manifest = fine_tune(preferences, output, config, checkpoints, start)
    return _result(manifest, paths)


def _train_preferences(paths: Paths, config: PreferenceConfig) -> StageResult:
    preferences = _path(paths, "preferences")
    adapter = _path(paths, "adapter")
    _check_folders(preferences, adapter)
    checkpoints = checkpoints_of(paths)
    from dynamicpo.training.preference_training import train_preferences

    output = _path(paths, "output")
    manifest = train_preferences(preferences, adapter, output, config, checkpoints)
    return _result(manifest, paths)


def _evaluate(paths: Paths, config: EvaluationConfig) -> EvaluationResult:
    models = _named_models(paths["model"])
    # Names become folders beside those of the baselines.
    check_model_names(models)
    preferences = _path(paths, "preferences")
    _check_folders(preferences, *models.values())
    checkpoints = checkpoints_of(paths)
    from dynamicpo.evaluation.evaluate import evaluate

    output = _path(paths, "output")
    baselines = _path(paths, "baselines") if "baselines" in paths else None
    manifest = evaluate(preferences, models, output, config, checkpoints, baselines)
    metrics = {}
    for path in sorted(output.glob("*/metrics.json")):
        model = path.parent.name
        metrics[model] = read_json(path)
    return {**_result(manifest, paths), "metrics": metrics}


def _monitor_drift(paths: Paths, config: DriftConfig) -> DriftOutcome:
    from dynamicpo.promotion.version_drift import monitor_window

    current = _path(paths, "current")
    output = _path(paths, "output")
    reference = _path(paths, "reference") if "reference" in paths else None
    model = _path(paths, "model") if "model" in paths else None
    manifest = monitor_window(reference, current, output, config, model)
    drift = read_json(output / "drift.json")
    result = _result(manifest, paths)
    return {**result, "status": drift["status"], "verdict": drift["verdict"], "fails_gate": False}


def _judge_collapse(paths: Paths, config: StudyConfig) -> StudyResult:
    from dynamicpo.study.judge import judge_collapse

    baselines = _path(paths, "baselines")
    output = _path(paths, "output")
    evaluations = []
    for path in _listed(paths["evaluation"]):
        evaluations.append(Path(str(path)))
    manifest = judge_collapse(baselines, evaluations, output, config)
    # The manifest has the numbers alone.
    study = read_json(output / "study.json")
    result = _result(manifest, paths)
    return {**result, "sentences": study["sentences"]}


def _result(manifest: Manifest, paths: Paths) -> StageResult:
    return stage_result(manifest, str(paths["output"]))


def _path(paths: Paths, name: str) -> Path:
    return Path(str(paths[name]))


def _listed(value: object) -> list[object]:
    """The entries of a value; a text in a YAML file is a list of one."""
    return value if isinstance(value, list) else [value]


def _check_folders(*folders: Path) -> None:
    """Name all folders that are not there, before anything heavy is imported."""
    requirement = "must be the finished output of a stage"
    problems = []
    for folder in folders:
        if not folder.exists():
            problem = f"{folder}: {requirement}, but it does not exist. Run that stage first."
            problems.append(problem)
    if problems:
        raise DataError("\n".join(problems))


def _named_models(value: object) -> dict[str, Path]:
    """Names to folders, from `NAME=DIR` texts or a mapping."""
    if isinstance(value, dict):
        pairs = [(str(name), str(folder)) for name, folder in value.items()]
    else:
        pairs = [_split_pair(str(text)) for text in _listed(value)]
    models = {}
    for name, folder in pairs:
        if name and folder:
            models[name] = Path(folder)
    # Fewer: a text without a name or a folder, or a name that was given twice.
    if len(models) < len(pairs):
        raise ConfigError(f"--model: must be NAME=DIR, each name once, got {value!r}.")
    return models


def _split_pair(text: str) -> tuple[str, str]:
    # At the first "=": a folder's name may have more of them, a model's may not.
    name, _, folder = text.partition("=")
    return name, folder


def _judge_challenger(paths: Paths, config: GateConfig) -> GateOutcome:
    from dynamicpo.promotion.gate import judge_challenger

    fresh_evaluation = _path(paths, "fresh_evaluation")
    preferences = _path(paths, "preferences")
    output = _path(paths, "output")
    manifest = judge_challenger(fresh_evaluation, preferences, output, config)
    decision = read_json(output / "decision.json")
    return {**_result(manifest, paths), "reasons": decision["reasons"]}


def _plan_retraining(paths: Paths, config: RetrainConfig) -> GateOutcome:
    from dynamicpo.promotion.retraining_plan import decide_retraining

    sources = [str(paths.get(name, "")) for name in ("interactions", "items")]
    manifest = decide_retraining(sources, _path(paths, "output"), config)
    return {**_result(manifest, paths), "reasons": [manifest.extra["decision"]["why"]]}


_OUTPUT = {"output": "folder to make"}
_PREFERENCES = {"preferences": "preferences folder, from sample-negatives"}
_PREPARE_DATA = StageCommand(
    "interactions to examples: a history and the next item",
    DataConfig,
    required=_OUTPUT,
    optional={
        "interactions": "file of interactions (for movielens: a zip or folder)",
        "items": "file of items",
    },
    run=_prepare_data,
)
_SAMPLE_NEGATIVES = StageCommand(
    "examples to preference rows: the target among negatives",
    NegativesConfig,
    required={"examples": "examples folder, from prepare-data", **_OUTPUT},
    optional={"model": "SFT model folder that mines negatives, for strategy model"},
    run=_sample_negatives,
)
_SFT = StageCommand(
    "supervised fine-tuning",
    SFTConfig,
    required={**_PREFERENCES, **_OUTPUT},
    optional={
        **CHECKPOINT_TEXTS,
        "start_from": "trained model folder to go on from; with --store a version's name, or "
        "champion",
        "store": "where the version is that --start-from names",
    },
    run=_fine_tune,
)
_TRAIN_PREFERENCES = StageCommand(
    "preference training, with DynamicPO or a base objective",
    PreferenceConfig,
    required={**_PREFERENCES, "adapter": "SFT model folder", **_OUTPUT},
    optional=CHECKPOINT_TEXTS,
    run=_train_preferences,
)
_EVALUATE = StageCommand(
    "rank held-out rows with models and baselines",
    EvaluationConfig,
    required={
        **_PREFERENCES,
        "model": "model folder and its name; may be given several times",
        **_OUTPUT,
    },
    optional={
        "baselines": "evaluation of the same rows, whose SASRec is taken instead of training one",
        **CHECKPOINT_TEXTS,
    },
    run=_evaluate,
)
_MONITOR_DRIFT = StageCommand(
    "compare new rows with the ones a model was trained and gated on",
    DriftConfig,
    required={"current": "preferences folder of now", **_OUTPUT},
    optional={
        "reference": "preferences folder of a model, or copy of a version (without it: the "
        "store's champion, or the current folder's own training rows)",
        "model": "model folder, to compare its signals as well; a version has one",
    },
    run=_monitor_drift,
)
_JUDGE_COLLAPSE = StageCommand(
    "whether more negatives made ranking worse, and whether DynamicPO prevented it",
    StudyConfig,
    required={
        "baselines": "evaluation of the SFT model",
        "evaluation": "evaluations of the trained models",
        **_OUTPUT,
    },
    optional={},
    run=_judge_collapse,
)
_JUDGE_CHALLENGER = StageCommand(
    "whether a challenger may replace the champion",
    GateConfig,
    required={
        "fresh_evaluation": "evaluation of challenger and champion on rows that neither has seen",
        "preferences": "preferences folder of that evaluation, whose training rows the challenger "
        "was trained on",
        **_OUTPUT,
    },
    optional={},
    run=_judge_challenger,
)
_PLAN_RETRAINING = StageCommand(
    "whether retraining starts, on which window, and from which weights",
    RetrainConfig,
    required=_OUTPUT,
    optional={
        "interactions": "file of interactions: its content is listed, not read",
        "items": "file of items",
    },
    run=_plan_retraining,
)
# Any: each command has a configuration of its own.
STAGE_COMMANDS: Mapping[str, StageCommand[Any]] = {
    "prepare-data": _PREPARE_DATA,
    "sample-negatives": _SAMPLE_NEGATIVES,
    "sft": _SFT,
    "train-preferences": _TRAIN_PREFERENCES,
    "evaluate": _EVALUATE,
    "monitor-drift": _MONITOR_DRIFT,
    "judge-collapse": _JUDGE_COLLAPSE,
    "judge-challenger": _JUDGE_CHALLENGER,
    "plan-retraining": _PLAN_RETRAINING,
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
    values = read_yaml(arguments.config, known)
    values.update(_selected(vars(arguments), known))
    # Settings before paths: a user who lacks a path reads of a wrong setting first, which would be
    # wrong for every path.
    config = from_mapping(command.config_class, _selected(values, fields), name)
    missing = [f"--{key}" for key in command.required if not values.get(key)]
    if missing:
        flags = ", ".join(missing)
        raise ConfigError(f"{name}: {flags} must be given. See `dynamicpo {name} --help`.")
    paths = _selected(values, path_names)
    if CHECKPOINT_TEXTS.keys() <= command.optional.keys():
        paths = with_place(paths)
    if "store" in paths:
        paths = _with_version(paths)
    with LocalCopies() as copies:
        result = command.run(local_paths(paths, config, copies), config)
        if is_main():
            copies.publish()
    # The folder as the user wrote it: scripts compare it with what they gave.
    result["output"] = str(paths["output"])
    return result


def _with_version(paths: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The paths with the model of the version that they name."""
    from dynamicpo.promotion.champion import named_version
    from dynamicpo.promotion.versions import version_uri

    if "start_from" not in paths:
        raise ConfigError("--store: must go with --start-from, a version of it. Give both.")
    others = {name: value for name, value in paths.items() if name != "store"}
    store = str(paths["store"])
    name = named_version(store, str(paths["start_from"]))
    return {**others, "start_from": join(version_uri(store, name), "model")}


def check_drift(arguments: argparse.Namespace) -> DriftOutcome:
    """Run `monitor-drift`, and fail where `--gate` was given and no drift could not be shown."""
    outcome = cast("DriftOutcome", run_stage("monitor-drift", arguments))
    counts = outcome["counts"]
    is_clear = not counts["drifted"] and not counts["too_few_users"]
    return {**outcome, "fails_gate": arguments.gate and not is_clear}


def _selected(values: Mapping[str, JsonValue], names: Collection[str]) -> dict[str, JsonValue]:
    """The values of some names, those that are there."""
    return {name: values[name] for name in names if name in values}


def audit(arguments: argparse.Namespace) -> "CandidateAudit":
    """Audit the test rows' candidate lists for leaks."""
    from dynamicpo.negatives.audit.audit import audit_candidates

    with LocalCopies() as copies:
        train = audited_rows(arguments.train, "train", copies)
        test = audited_rows(arguments.test, "test", copies)
        return audit_candidates(train, test)
