"""The commands on pipelines and their runs, on this machine and on a Kubeflow installation."""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynamicpo.cli.commands.values import read_json, settings_of, stage_result
from dynamicpo.cli.results import (
    ComparisonContent,
    ComparisonResult,
    CompileResult,
    RunList,
    SubmitResult,
)
from dynamicpo.core import storage
from dynamicpo.core.errors import ConfigError, RunFailedError

if TYPE_CHECKING:
    from dynamicpo.runs.cluster.kubeflow import Kubeflow
    from dynamicpo.runs.cluster.logs import RunLogs
    from dynamicpo.runs.cluster.run_end import LogSource
    from dynamicpo.runs.local.summary import FinishedRun, TaskEntry
    from dynamicpo.runs.run_records import ComparedRun

# Those that mean nothing without --host.
_INSTALLATION_FLAGS = ("namespace", "token_file", "header_file", "ui")


def compare(arguments: argparse.Namespace) -> ComparisonResult:
    """Compare runs, of this machine or of a Kubeflow installation, and evaluations."""
    _check_host(arguments, "store", *_INSTALLATION_FLAGS)
    uri = arguments.output or storage.join(arguments.folder, _comparison_name())
    # Copies from the object store; a comparison takes over what it needs of them.
    with storage.LocalCopies() as copies:
        output = copies.output(uri)
        runs = _compared_runs(arguments, copies)
        from dynamicpo.evaluation.comparison import compare_evaluations

        evaluations = {run.name: run.evaluations for run in runs}
        settings = {run.name: run.settings for run in runs}
        manifest = compare_evaluations(evaluations, output, settings)
        content = _comparison_content(output)
        copies.publish()
    return {
        **stage_result(manifest, uri),
        **content,
        "report": storage.join(uri, "report.html"),
    }


def _comparison_name() -> str:
    return f"compare-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"


def _comparison_content(output: Path) -> ComparisonContent:
    """The content of a comparison, with models and runs in the order in which it shows them."""
    content: ComparisonContent = read_json(output / "comparison.json")
    # The file has its keys sorted, so that the same content has the same bytes.
    metrics = content["metrics"]
    content["metrics"] = {name: metrics[name] for name in content["models"]}
    run_names = content["run_names"]
    settings = content["runs"]
    for setting, values in settings.items():
        settings[setting] = {name: values[name] for name in run_names if name in values}
    return content


def _compared_runs(
    arguments: argparse.Namespace, copies: storage.LocalCopies
) -> "Sequence[ComparedRun]":
    if not arguments.host:
        from dynamicpo.runs.local.run_finder import find_runs
        from dynamicpo.runs.stored_runs import compared_folders

        names = compared_folders(arguments.run, arguments.folder, copies)
        return find_runs(names, Path(arguments.folder))
    from dynamicpo.runs.cluster.remote import fetch_runs

    return fetch_runs(arguments.run, _kubeflow(arguments), arguments.store, copies)


def _check_host(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse flags of an installation without one."""
    for name in names:
        # Without this check the flag would do nothing, and nobody would know.
        if getattr(arguments, name) and not arguments.host:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag}: is for runs of an installation. Give --host as well.")


def _kubeflow(arguments: argparse.Namespace) -> "Kubeflow":
    """The installation that the flags name."""
    from dynamicpo.runs.cluster.credentials import Credentials
    from dynamicpo.runs.cluster.kubeflow import Kubeflow

    credentials = Credentials(arguments.token_file or "", arguments.header_file or "")
    return Kubeflow(arguments.host, credentials, arguments.namespace, arguments.ui)


def _log_source(arguments: argparse.Namespace) -> "LogSource":
    """The places of logs that the flags name."""
    from dynamicpo.runs.cluster.run_end import LogSource

    return LogSource(root=arguments.store, archive=arguments.archive, namespace=arguments.namespace)


def run(arguments: argparse.Namespace) -> "FinishedRun":
    """Run a pipeline on this machine."""
    # No image is a default: only the user knows which one was built of which sources.
    is_docker = arguments.runner == "docker"
    if is_docker != bool(arguments.image):
        raise ConfigError("run: --runner docker and --image NAME must be given together.")
    from dynamicpo.runs.local.run import run_pipeline
    from dynamicpo.runs.run_records import metrics_in_order

    parameters = settings_of(arguments.config, "--param", arguments.param)
    with storage.LocalCopies() as copies:
        output = _run_folder(arguments.output, copies) if arguments.output else None
        try:
            finished = run_pipeline(
                arguments.pipeline, parameters, output, arguments.workers, arguments.image
            )
        except RunFailedError:
            copies.publish()
            raise
        copies.publish()
    # `summary.json` has its keys sorted; tables show baselines first.
    finished["metrics"] = metrics_in_order(finished)
    folder = Path(finished["folder"])
    for task in finished["tasks"]:
        _add_results(finished, task, folder)
    return finished


def _run_folder(uri: str, copies: storage.LocalCopies) -> Path:
    """The folder that a run works in; for one in an object store it is where runs are by default.

    There its cache stays for the next run. In a store no other machine could use it: keys of kfp's
    cache hold the paths of artifacts on this one.
    """
    name = uri.rstrip("/").rpartition("/")[2]
    return copies.output(uri, Path("runs") / name)


def _add_results(finished: "FinishedRun", task: "TaskEntry", folder: Path) -> None:
    """Add what a comparison or a study found, or a retraining decided, to the result."""
    from dynamicpo.runs.local.summary import artifact_path

    if output := artifact_path(folder, task, "comparison"):
        comparison = read_json(output / "comparison.json")
        finished["comparisons"] = comparison["comparisons"]
    if output := artifact_path(folder, task, "study"):
        study = read_json(output / "study.json")
        finished["sentences"] = study["sentences"]
    if why := task["outputs"].get("why"):
        finished.setdefault("sentences", []).append(str(why))


def runs(arguments: argparse.Namespace) -> RunList:
    """List runs of this machine, or of a Kubeflow installation."""
    _check_host(arguments, "store", *_INSTALLATION_FLAGS)
    if arguments.host:
        from dynamicpo.runs.cluster.remote import list_cluster_runs

        return {"runs": list_cluster_runs(_kubeflow(arguments), arguments.store)}
    from dynamicpo.runs.local.summary import list_local_runs
    from dynamicpo.runs.stored_runs import LISTED_PARTS

    with storage.LocalCopies() as copies:
        folder = copies.fetch(arguments.folder, LISTED_PARTS)
        return {"runs": list_local_runs(folder)}


def compile_pipeline(arguments: argparse.Namespace) -> CompileResult:
    """Write a pipeline for Kubeflow."""
    from dynamicpo.runs import compile as pipeline_compiler

    placement = settings_of(arguments.placement, "--place", arguments.place)
    with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
        is_stored = storage.is_remote(arguments.output)
        name = arguments.output.rpartition("/")[2]
        output = Path(scratch, name) if is_stored else Path(arguments.output)
        pipeline_compiler.compile_pipeline(
            arguments.pipeline,
            output,
            arguments.image,
            placement,
            arguments.allow_tag,
            arguments.menus,
        )
        if is_stored:
            storage.put(output, arguments.output)
    return {"output": arguments.output}


def submit(arguments: argparse.Namespace) -> SubmitResult:
    """Start a pipeline on a Kubeflow installation, and wait for its end if asked to."""
    from dynamicpo.runs.cluster.submit import Submission
    from dynamicpo.runs.cluster.submit import submit as submit_run
    from dynamicpo.runs.cluster.wait import wait_for_end

    parameters = settings_of(arguments.config, "--param", arguments.param)
    placement = settings_of(arguments.placement, "--place", arguments.place)
    submission = Submission(
        pipeline=arguments.pipeline,
        image=arguments.image,
        parameters=parameters,
        placement=placement,
        experiment=arguments.experiment,
        allow_tag=arguments.allow_tag,
        check_images=arguments.image_check,
        menus=arguments.menus,
        cron=arguments.cron,
    )
    # Before the run is started: afterwards the user would take it for one that was not.
    minutes = arguments.wait
    # `not > 0` refuses a NaN as well.
    if minutes is not None and (arguments.cron or not minutes > 0):
        raise ConfigError(f"--wait: must be > 0 minutes, and not with --cron, got {minutes:g}.")
    kubeflow = _kubeflow(arguments)
    submitted = submit_run(submission, kubeflow)
    result: SubmitResult = {
        "run": submitted["run"],
        "link": submitted["link"],
        "pipeline_version": submitted["pipeline_version"],
    }
    if minutes is not None:
        source = _log_source(arguments)
        result["state"] = wait_for_end(kubeflow, submitted["run"], minutes, source)
        _add_figures(result, kubeflow, arguments.store)
    return result


def _add_figures(result: SubmitResult, kubeflow: "Kubeflow", store: str) -> None:
    """Add the models' figures to a run that succeeded, or why there are none."""
    from dynamicpo.runs.cluster.remote import read_figures
    from dynamicpo.runs.cluster.stored_records import stored_run

    figures = read_figures(stored_run(kubeflow.run(result["run"]), store))
    result["hit_ratio_at_1"] = figures.hit_ratio_at_1
    if figures.problem:
        result["problem"] = figures.problem


def logs(arguments: argparse.Namespace) -> "RunLogs":
    """Explain the end of a run of a Kubeflow installation, and print a task's logs."""
    from dynamicpo.runs.cluster.logs import read_logs

    kubeflow = _kubeflow(arguments)
    return read_logs(arguments.run, kubeflow, _log_source(arguments), arguments.task)
