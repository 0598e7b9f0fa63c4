"""A pipeline on a Kubeflow installation: checked, uploaded as a version named by the commit, started, waited for."""

import hashlib
import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynamicpo import __version__
from dynamicpo.core import git_commit
from dynamicpo.core.errors import ConfigError, RunFailedError
from dynamicpo.runs import images
from dynamicpo.runs.cluster.kubeflow import Kubeflow, NoAnswerError
from dynamicpo.runs.local import containers
from dynamicpo.runs.pipelines import check_parameters, compile_pipeline, load_placement

log = logging.getLogger(__name__)

EVERY_SECONDS = 15.0
VOLUMES = {"/data/": "data_claim", "/cache/": "cache_claim"}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What to run, in which images, and under which name.

    Attributes:
        pipeline: Its name.
        image: Of every task, by digest.
        parameters: Some of the pipeline's.
        placement: Where tasks run: some of the fields of `pipelines.placement.Placement`.
        experiment: What the run is listed under.
        allow_tag: Whether images may be named by tag.
        check_images: Whether to make sure that dynamicpo is inside.
        cron: Run at these times, and not now: six fields, seconds first.
    """

    pipeline: str
    image: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    placement: Mapping[str, Any] = field(default_factory=dict)
    experiment: str = "dynamicpo"
    allow_tag: bool = False
    check_images: bool = True
    cron: str = ""

    def __post_init__(self) -> None:
        """Check what nobody else does."""
        if self.cron and len(self.cron.split()) != 6:
            example = "'0 0 3 * * 1' (Mondays at three)"
            raise ConfigError(
                f"--cron: must have six fields, seconds first, such as {example}, got {self.cron!r}."
            )


def submit(what: Submission, kubeflow: Kubeflow) -> dict[str, str]:
    """Start a run, or a schedule of runs. Everything that can be checked is checked before anything is uploaded.

    Returns:
        The run's id, its link, and the version that runs.

    Raises:
        ConfigError: Something can't be used; nothing was started.
    """
    images.check_name("--image", what.image, what.allow_tag)
    mounted = [place for place, claim in VOLUMES.items() if what.placement.get(claim)]
    parameters = check_parameters(what.pipeline, what.parameters, mounted)
    placement = load_placement(what.placement)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{what.pipeline}.yaml"
        compile_pipeline(what.pipeline, file, what.image, what.placement, what.allow_tag)
        if what.check_images:
            _check_image("--image", what.image)
            if placement.gpu_image and placement.gpu_count:
                _check_image("gpu_image", placement.gpu_image)
        kubeflow.check()
        pipeline = kubeflow.pipeline(what.pipeline)
        name, version = _version(kubeflow, pipeline, file)
    run = _run(what, kubeflow.experiment(what.experiment), (pipeline, version), parameters)
    started = kubeflow.repeat(run, what.cron) if what.cron else kubeflow.start(run)
    link = kubeflow.link(started, recurring=bool(what.cron))
    log.info(
        "%s, version %s: %s, %s", what.pipeline, name, "scheduled" if what.cron else "started", link
    )
    return {"run": started, "link": link, "pipeline_version": name}


def _check_image(where: str, image: str) -> None:
    """Run it where this machine has it; else ask its registry for its labels."""
    if containers.on_this_machine(image):
        containers.find_image(containers.connect(), image, where)
    else:
        images.check_content(where, image)


def _version(kubeflow: Kubeflow, pipeline: str, file: Path) -> tuple[str, str]:
    """The version of this file: named by the commit; by the commit and the content where that name is taken."""
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    commit = git_commit.commit()
    name = f"{commit}-changed" if commit and git_commit.changed() else commit or __version__
    description = f"dynamicpo {__version__}, sha256 of the file {content}"
    for candidate in (name, f"{name}-{content[:8]}"):
        version, said = kubeflow.version(pipeline, candidate)
        if not version:
            return candidate, kubeflow.upload(pipeline, candidate, description, file)
        if said == description:
            return candidate, version
    raise ConfigError(
        f"{kubeflow.host}: version {name}-{content[:8]} must be of this file, but it is not. Delete it."
    )


def _run(
    what: Submission, experiment: str, version: tuple[str, str], parameters: Mapping[str, Any]
) -> Any:
    """The run as the API takes it."""
    import kfp_server_api as api

    from dynamicpo_pipelines.placement import SERVICE_ACCOUNT

    reference = api.V2beta1PipelineVersionReference(
        pipeline_id=version[0], pipeline_version_id=version[1]
    )
    return api.V2beta1Run(
        display_name=f"{what.pipeline} {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}",
        experiment_id=experiment,
        pipeline_version_reference=reference,
        runtime_config=api.V2beta1RuntimeConfig(parameters=dict(parameters)),
        service_account=SERVICE_ACCOUNT,
    )


def wait(kubeflow: Kubeflow, run: str, minutes: float) -> str:
    """Wait for a run to end.

    Args:
        kubeflow: Where it runs.
        run: Its id.
        minutes: How long at most. The run goes on after that.

    Returns:
        Its state, if that is a good one.

    Raises:
        RunFailedError: It failed, was cancelled, or goes on; or nobody can say.
    """
    until = time.monotonic() + minutes * 60
    state, problem = "", ""
    while True:
        try:
            found = kubeflow.run(run)
            if found.state != state:
                log.info("%s", str(found.state).lower())
            state, problem = str(found.state), ""
        except NoAnswerError as error:  # a proxy that restarts must not fail a run of hours
            log.info("%s", error)
            problem = f" {error}"
        except ConfigError as error:
            raise RunFailedError(
                f"the run can't be watched: {error} It goes on: {kubeflow.link(run)}"
            ) from error
        if not problem and state in ("SUCCEEDED", "SKIPPED"):
            return state.lower()
        if not problem and state in ("FAILED", "CANCELED"):
            raise RunFailedError(f"the run {_end(found)}\n{kubeflow.link(run)}")
        if time.monotonic() + EVERY_SECONDS > until:
            said = f"{state.lower() or 'not known'} after {minutes:g} minutes, and not ended"
            raise RunFailedError(f"the run is {said}.{problem} It goes on: {kubeflow.link(run)}")
        time.sleep(EVERY_SECONDS)


def _end(run: Any) -> str:
    """How a run ended that did not succeed, with the tasks that failed."""
    tasks = (run.run_details.task_details if run.run_details else None) or []
    failed = [task for task in tasks if task.state == "FAILED" and not task.child_tasks]
    lines = [
        f"{task.display_name}: {(task.error and task.error.message) or 'failed'}" for task in failed
    ]
    own = [run.error.message] if run.error and run.error.message else []
    how = {"FAILED": "failed", "CANCELED": "was cancelled"}[run.state]
    return "\n".join([f"{how}:" if own or lines else f"{how}.", *own, *lines])
