"""What each command does: values from flags and files to a result, a mapping that JSON can hold.

Nothing heavy is imported before the values have been checked, so that mistakes are answered at once.
"""

import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynamicpo import config
from dynamicpo.errors import ConfigError, unknown_name

Values = Mapping[str, Any]


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
    from dynamicpo.data import prepare_data

    return _result(
        prepare_data(paths.get("interactions", ""), paths.get("items", ""), Path(paths["output"]), settings), paths
    )


def _sample_negatives(paths: Values, settings: Any) -> dict[str, Any]:
    from dynamicpo.negatives import sample_negatives

    return _result(sample_negatives(Path(paths["examples"]), Path(paths["output"]), settings), paths)


def _fine_tune(paths: Values, settings: Any) -> dict[str, Any]:
    from dynamicpo.sft import fine_tune

    return _result(fine_tune(Path(paths["preferences"]), Path(paths["output"]), settings), paths)


def _train_preferences(paths: Values, settings: Any) -> dict[str, Any]:
    from dynamicpo.preference import train_preferences

    preferences, adapter, output = (Path(paths[name]) for name in ("preferences", "adapter", "output"))
    return _result(train_preferences(preferences, adapter, output, settings), paths)


def _evaluate(paths: Values, settings: Any) -> dict[str, Any]:
    models = _models(paths["model"])
    from dynamicpo.evaluation import evaluate

    manifest = evaluate(Path(paths["preferences"]), models, Path(paths["output"]), settings)
    files = sorted(Path(paths["output"]).glob("*/metrics.json"))
    metrics = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in files}
    return {**_result(manifest, paths), "metrics": metrics}


def _models(given: Any) -> dict[str, Path]:
    """Names to folders, from `NAME=DIR` texts or a mapping."""
    pairs = given.items() if isinstance(given, dict) else [str(text).partition("=")[::2] for text in given]
    models = {str(name): Path(str(folder)) for name, folder in pairs if name and folder}
    if len(models) < len(given):
        raise ConfigError(f"--model: must be NAME=DIR, each name once, got {given!r}.")
    return models


def _monitor_drift(paths: Values, settings: Any) -> dict[str, Any]:
    from dynamicpo.drift import monitor_drift

    reference, current, output = (Path(paths[name]) for name in ("reference", "current", "output"))
    model = Path(paths["model"]) if "model" in paths else None
    return _result(monitor_drift(reference, current, output, settings, model), paths)


def _judge_collapse(paths: Values, settings: Any) -> dict[str, Any]:
    from dynamicpo.study import judge_collapse

    given = [paths["evaluation"]] if isinstance(paths["evaluation"], str) else paths["evaluation"]
    output = Path(paths["output"])
    manifest = judge_collapse(Path(paths["baselines"]), [Path(str(path)) for path in given], output, settings)
    study = json.loads((output / "study.json").read_text(encoding="utf-8"))
    return {**_result(manifest, paths), "sentences": study["sentences"]}


def _result(manifest: Any, paths: Values) -> dict[str, Any]:
    return {"output": str(paths["output"]), "fingerprint": manifest.fingerprint, "counts": manifest.counts}


_OUTPUT = {"output": "folder to make"}
_PREFERENCES = {"preferences": "preferences folder, from sample-negatives"}
STAGES = {
    "prepare-data": Stage(
        "interactions to examples: a history and the next item",
        config.DataConfig,
        _OUTPUT,
        {"interactions": "file of interactions (for movielens: a zip or folder)", "items": "file of items"},
        _prepare_data,
    ),
    "sample-negatives": Stage(
        "examples to preference rows: the target among negatives",
        config.NegativesConfig,
        {"examples": "examples folder, from prepare-data", **_OUTPUT},
        {},
        _sample_negatives,
    ),
    "sft": Stage("supervised fine-tuning", config.SFTConfig, {**_PREFERENCES, **_OUTPUT}, {}, _fine_tune),
    "train-preferences": Stage(
        "preference training, with DynamicPO or a base objective",
        config.PreferenceConfig,
        {**_PREFERENCES, "adapter": "SFT model folder", **_OUTPUT},
        {},
        _train_preferences,
    ),
    "evaluate": Stage(
        "rank held-out rows with models and baselines",
        config.EvaluationConfig,
        {**_PREFERENCES, "model": "model folder and its name; may be given several times", **_OUTPUT},
        {},
        _evaluate,
    ),
    "monitor-drift": Stage(
        "compare new rows with the ones a model was trained on",
        config.DriftConfig,
        {"reference": "preferences folder of the model", "current": "preferences folder of now", **_OUTPUT},
        {"model": "model folder, to compare its scores as well"},
        _monitor_drift,
    ),
    "judge-collapse": Stage(
        "whether more negatives made ranking worse, and whether DynamicPO prevented it",
        config.StudyConfig,
        {"baselines": "evaluation of the SFT model", "evaluation": "evaluations of the trained models", **_OUTPUT},
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
    values = {**_read_yaml(given["config"], known), **{key: given[key] for key in known if key in given}}
    settings: Any = config.from_mapping(stage.kind, {key: values[key] for key in fields if key in values}, name)
    missing = [f"--{key}" for key in stage.required if not values.get(key)]
    if missing:
        raise ConfigError(f"{name}: {', '.join(missing)} must be given. See `dynamicpo {name} --help`.")
    return stage.run({key: value for key, value in values.items() if key not in fields}, settings)


def _read_yaml(path: str | None, known: Sequence[str] | None = None) -> dict[str, Any]:
    """A YAML file of settings; with `known`, unknown keys are refused."""
    if not path:
        return {}
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: must be YAML, but it can't be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold names and values, got {type(values).__name__}.")
    for key in values:
        if known is not None and key not in known:
            raise unknown_name(path, str(key), known)
    return values


def audit(given: Values) -> dict[str, Any]:
    """Attack the test rows' candidate lists."""
    from dynamicpo.audit import audit_candidates

    return audit_candidates(Path(given["train"]), Path(given["test"]))


def compare(given: Values) -> dict[str, Any]:
    """Compare runs, of this machine or of a Kubeflow installation, and evaluations."""
    _check_host(given, "store", "namespace", "token_file")
    folder = Path(given["folder"])
    output = Path(given["output"] or folder / f"compare-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
        found = _runs_to_compare(given, folder, Path(scratch))
        from dynamicpo.comparison import compare_evaluations

        facts = {run.name: run.facts for run in found}
        manifest = compare_evaluations({run.name: run.evaluations for run in found}, output, facts)
    result = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    result["metrics"] = {name: result["metrics"][name] for name in result["models"]}
    result["runs"] = {
        setting: {name: values[name] for name in result["run_names"] if name in values}
        for setting, values in result["runs"].items()
    }
    return {**_result(manifest, {"output": output}), **result, "report": str(output / "report.html")}


def _runs_to_compare(given: Values, folder: Path, scratch: Path) -> list[Any]:
    if not given["host"]:
        from dynamicpo.runs.found import find_runs

        return find_runs(given["run"], folder)
    from dynamicpo.runs.remote import fetch_runs

    return fetch_runs(given["run"], _kubeflow(given), given["store"], scratch)


def _check_host(given: Values, *flags: str) -> None:
    """Refuse flags of an installation without one."""
    for flag in flags:
        if given[flag] and not given["host"]:
            raise ConfigError(f"--{flag.replace('_', '-')}: is for runs of an installation. Give --host as well.")


def _kubeflow(given: Values) -> Any:
    """The installation that the flags name."""
    from dynamicpo.runs.kubeflow import Kubeflow

    token = Path(given["token_file"]).read_text(encoding="utf-8").strip() if given["token_file"] else ""
    return Kubeflow(given["host"], token, given["namespace"])


def run(given: Values) -> dict[str, Any]:
    """Run a pipeline on this machine."""
    if (given["runner"] == "docker") != bool(given["image"]):
        raise ConfigError("run: --runner docker and --image NAME must be given together.")
    from dynamicpo.runs.local import run_pipeline
    from dynamicpo.runs.summary import models_of

    parameters = {**_read_yaml(given["config"]), **_pairs("--param", given["param"])}
    output = Path(given["output"]) if given["output"] else None
    summary = run_pipeline(given["pipeline"], parameters, output, given["workers"], given["image"])
    result = {**summary, "metrics": models_of(summary)}
    for task in summary["tasks"]:
        for name, file, key in (("comparison", "comparison.json", "comparisons"), ("study", "study.json", "sentences")):
            if name in task["outputs"]:
                path = Path(summary["folder"]) / task["outputs"][name] / file
                result[key] = json.loads(path.read_text(encoding="utf-8"))[key]
    return result


def _pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE texts as a dictionary."""
    for text in texts:
        if "=" not in text:
            raise ConfigError(f"{flag}: must be NAME=VALUE, got {text!r}.")
    return dict((text.split("=", 1)[0], text.split("=", 1)[1]) for text in texts)


def runs(given: Values) -> dict[str, Any]:
    """List runs of this machine, or of a Kubeflow installation."""
    _check_host(given, "namespace", "token_file")
    if given["host"]:
        from dynamicpo.runs import remote

        return {"runs": remote.list_runs(_kubeflow(given))}
    from dynamicpo.runs.summary import list_runs

    return {"runs": list_runs(Path(given["folder"]))}


def compile_pipeline(given: Values) -> dict[str, Any]:
    """Write a pipeline for Kubeflow."""
    from dynamicpo.runs import pipelines

    placement = {**_read_yaml(given["placement"]), **_pairs("--place", given["place"])}
    pipelines.compile_pipeline(given["pipeline"], Path(given["output"]), given["image"], placement, given["allow_tag"])
    return {"output": given["output"]}


def submit(given: Values) -> dict[str, Any]:
    """Start a pipeline on a Kubeflow installation, and wait for its end if asked to."""
    from dynamicpo.runs import submit as submission

    what = submission.Submission(
        pipeline=given["pipeline"],
        image=given["image"],
        parameters={**_read_yaml(given["config"]), **_pairs("--param", given["param"])},
        placement={**_read_yaml(given["placement"]), **_pairs("--place", given["place"])},
        experiment=given["experiment"],
        allow_tag=given["allow_tag"],
        check_images=given["image_check"],
        cron=given["cron"],
    )
    if given["wait"] is not None and (given["cron"] or not given["wait"] > 0):
        raise ConfigError(f"--wait: must be > 0 minutes, and not with --cron, got {given['wait']:g}.")
    kubeflow = _kubeflow(given)
    started = submission.submit(what, kubeflow)
    if given["wait"] is None:
        return started
    return {**started, "state": submission.wait(kubeflow, started["run"], given["wait"])}


COMMANDS: dict[str, Callable[[Values], dict[str, Any]]] = {
    **{name: functools.partial(run_stage, name) for name in STAGES},
    "audit-candidates": audit,
    "compare": compare,
    "run": run,
    "runs": runs,
    "compile": compile_pipeline,
    "submit": submit,
}
