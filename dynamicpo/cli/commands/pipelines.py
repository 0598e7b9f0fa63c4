"""The commands on pipelines and their runs, on this machine and on a Kubeflow installation."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from dynamicpo.cli.commands.values import Values, pairs, read_yaml, result_of
from dynamicpo.core.errors import ConfigError


def compare(given: Values) -> dict[str, Any]:
    """Compare runs, of this machine or of a Kubeflow installation, and evaluations."""
    _check_host(given, "store", "namespace", "token_file")
    folder = Path(given["folder"])
    output = Path(
        given["output"] or folder / f"compare-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    )
    with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
        found = _runs_to_compare(given, folder, Path(scratch))
        from dynamicpo.evaluation.comparison import compare_evaluations

        facts = {run.name: run.facts for run in found}
        manifest = compare_evaluations({run.name: run.evaluations for run in found}, output, facts)
    result = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    result["metrics"] = {name: result["metrics"][name] for name in result["models"]}
    result["runs"] = {
        setting: {name: values[name] for name in result["run_names"] if name in values}
        for setting, values in result["runs"].items()
    }
    return {
        **result_of(manifest, {"output": output}),
        **result,
        "report": str(output / "report.html"),
    }


def _runs_to_compare(given: Values, folder: Path, scratch: Path) -> list[Any]:
    if not given["host"]:
        from dynamicpo.runs.local.run_finder import find_runs

        return find_runs(given["run"], folder)
    from dynamicpo.runs.cluster.remote import fetch_runs

    return fetch_runs(given["run"], _kubeflow(given), given["store"], scratch)


def _check_host(given: Values, *flags: str) -> None:
    """Refuse flags of an installation without one."""
    for flag in flags:
        if given[flag] and not given["host"]:
            raise ConfigError(
                f"--{flag.replace('_', '-')}: is for runs of an installation. Give --host as well."
            )


def _kubeflow(given: Values) -> Any:
    """The installation that the flags name."""
    from dynamicpo.runs.cluster.kubeflow import Kubeflow

    token = (
        Path(given["token_file"]).read_text(encoding="utf-8").strip() if given["token_file"] else ""
    )
    return Kubeflow(given["host"], token, given["namespace"])


def run(given: Values) -> dict[str, Any]:
    """Run a pipeline on this machine."""
    if (given["runner"] == "docker") != bool(given["image"]):
        raise ConfigError("run: --runner docker and --image NAME must be given together.")
    from dynamicpo.runs.local.run import run_pipeline
    from dynamicpo.runs.local.summary import models_of

    parameters = {**read_yaml(given["config"]), **pairs("--param", given["param"])}
    output = Path(given["output"]) if given["output"] else None
    summary = run_pipeline(given["pipeline"], parameters, output, given["workers"], given["image"])
    result = {**summary, "metrics": models_of(summary)}
    for task in summary["tasks"]:
        for name, file, key in (
            ("comparison", "comparison.json", "comparisons"),
            ("study", "study.json", "sentences"),
        ):
            if name in task["outputs"]:
                path = Path(summary["folder"]) / task["outputs"][name] / file
                result[key] = json.loads(path.read_text(encoding="utf-8"))[key]
    return result


def runs(given: Values) -> dict[str, Any]:
    """List runs of this machine, or of a Kubeflow installation."""
    _check_host(given, "namespace", "token_file")
    if given["host"]:
        from dynamicpo.runs.cluster import remote

        return {"runs": remote.list_runs(_kubeflow(given))}
    from dynamicpo.runs.local.summary import list_runs

    return {"runs": list_runs(Path(given["folder"]))}


def compile_pipeline(given: Values) -> dict[str, Any]:
    """Write a pipeline for Kubeflow."""
    from dynamicpo.runs import pipelines

    placement = {**read_yaml(given["placement"]), **pairs("--place", given["place"])}
    pipelines.compile_pipeline(
        given["pipeline"], Path(given["output"]), given["image"], placement, given["allow_tag"]
    )
    return {"output": given["output"]}


def submit(given: Values) -> dict[str, Any]:
    """Start a pipeline on a Kubeflow installation, and wait for its end if asked to."""
    from dynamicpo.runs.cluster import submit as submission

    what = submission.Submission(
        pipeline=given["pipeline"],
        image=given["image"],
        parameters={**read_yaml(given["config"]), **pairs("--param", given["param"])},
        placement={**read_yaml(given["placement"]), **pairs("--place", given["place"])},
        experiment=given["experiment"],
        allow_tag=given["allow_tag"],
        check_images=given["image_check"],
        cron=given["cron"],
    )
    if given["wait"] is not None and (given["cron"] or not given["wait"] > 0):
        raise ConfigError(
            f"--wait: must be > 0 minutes, and not with --cron, got {given['wait']:g}."
        )
    kubeflow = _kubeflow(given)
    started = submission.submit(what, kubeflow)
    if given["wait"] is None:
        return started
    return {**started, "state": submission.wait(kubeflow, started["run"], given["wait"])}
