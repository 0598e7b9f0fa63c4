"""Submission of a pipeline to a Kubeflow installation: checked, uploaded as a version, started."""

import hashlib
import logging
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from dynamicpo import __version__
from dynamicpo.core import git_commit
from dynamicpo.core.errors import ConfigError
from dynamicpo.runs import images
from dynamicpo.runs.cluster.kubeflow import Kubeflow
from dynamicpo.runs.cluster.workflow_size import check_size
from dynamicpo.runs.compile import compile_pipeline, kubeflow_name, load_placement
from dynamicpo.runs.local import containers
from dynamicpo.runs.parameters import check_parameters, pipeline_arguments

if TYPE_CHECKING:
    from kfp_server_api import V2beta1Run

    from dynamicpo_pipelines.placement import Placement

log = logging.getLogger(__name__)

# Folders of mounted volumes, and the fields of the placement that name the volumes.
VOLUMES = {"/data/": "data_claim", "/cache/": "cache_claim"}
_CRON_FIELDS = 6
# The first backend that gives pods the security context of a compiled pipeline.
MINIMUM_VERSION = (2, 16)
_VERSION_NAME = re.compile(r"v?(\d+)\.(\d+)(?:\.\d+)?(?:[-+].*|rc\d+)?")


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A run to start: the pipeline, its images, and its name in the installation.

    Attributes:
        pipeline: The pipeline's name.
        image: The image of every task, by digest.
        parameters: Some of the pipeline's parameters.
        placement: Some of the fields of `dynamicpo_pipelines.placement.Placement`.
        experiment: The experiment that the run is listed under.
        allow_tag: Whether images may be named by tag.
        check_images: Whether to check that dynamicpo is inside.
        menus: Whether the run form shows menus.
        cron: Run at these times, and not now: six fields, seconds first.
    """

    pipeline: str
    image: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    placement: Mapping[str, object] = field(default_factory=dict)
    experiment: str = "dynamicpo"
    allow_tag: bool = False
    check_images: bool = True
    menus: bool = True
    cron: str = ""

    def __post_init__(self) -> None:
        """Check the number of the schedule's fields: crontab's habit is five, without seconds."""
        if self.cron and len(self.cron.split()) != _CRON_FIELDS:
            example = "'0 0 3 * * 1' (Mondays at three)"
            raise ConfigError(
                f"--cron: must have six fields, seconds first, such as {example}, "
                f"got {self.cron!r}."
            )


class SubmittedRun(TypedDict):
    """A run that was started.

    Attributes:
        run: Its id, or that of the recurring run.
        link: The URL of its page.
        pipeline_version: The name of the version that runs.
    """

    run: str
    link: str
    pipeline_version: str


class _Version(NamedTuple):
    """A version of a pipeline in the installation."""

    pipeline_id: str
    id: str
    name: str


def submit(submission: Submission, kubeflow: Kubeflow) -> SubmittedRun:
    """Start a run, or a schedule of runs.

    All that can be checked is checked before anything is uploaded.

    Raises:
        ConfigError: Something can't be used; nothing was started.
    """
    images.check_image_name("--image", submission.image, submission.allow_tag)
    mounted = [path for path, claim in VOLUMES.items() if submission.placement.get(claim)]
    parameters = check_parameters(submission.pipeline, submission.parameters, mounted)
    placement = load_placement(submission.placement)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{submission.pipeline}.yaml"
        compile_pipeline(
            submission.pipeline,
            file,
            submission.image,
            submission.placement,
            submission.allow_tag,
            submission.menus,
        )
        check_size(file, submission.pipeline, parameters)
        if submission.check_images:
            _check_images(submission.image, placement)
        check_version(kubeflow.host, kubeflow.check())
        version = _upload_version(kubeflow, kubeflow_name(submission.pipeline), file)
    experiment = kubeflow.experiment(submission.experiment)
    arguments = pipeline_arguments(submission.pipeline, parameters)
    run = _api_run(submission.pipeline, experiment, version, arguments)
    if submission.cron:
        run_id = kubeflow.schedule(run, submission.cron)
    else:
        run_id = kubeflow.start(run)
    link = kubeflow.link(run_id, recurring=bool(submission.cron))
    outcome = "scheduled" if submission.cron else "started"
    log.info("%s, version %s: %s, %s", submission.pipeline, version.name, outcome, link)
    return {"run": run_id, "link": link, "pipeline_version": version.name}


def check_version(host: str, version: str) -> None:
    """Check that an installation is not too old for what is compiled here.

    Args:
        host: Its URL.
        version: The name of its version; with any that is no version's a warning is logged.

    Raises:
        ConfigError: It is too old.
    """
    minimum = ".".join(map(str, (*MINIMUM_VERSION, 0)))
    match = _VERSION_NAME.fullmatch(version)
    # Distributions name their builds as they like: that is no reason to refuse them.
    if not match:
        log.warning(
            "%s: must be Kubeflow Pipelines %s or later, but its version is %r.",
            host,
            minimum,
            version,
        )
        return
    if (int(match[1]), int(match[2])) < MINIMUM_VERSION:
        raise ConfigError(
            f"{host}: must be Kubeflow Pipelines {minimum} or later, got {version}: an older one "
            "leaves out the pods' security context. Upgrade it."
        )


def _check_images(image: str, placement: "Placement") -> None:
    _check_image("--image", image)
    if placement.gpu_image and placement.gpu_count:
        _check_image("gpu_image", placement.gpu_image)


def _check_image(where: str, image: str) -> None:
    """Run an image where this machine has it; else read its labels from its registry."""
    if containers.is_on_this_machine(image):
        containers.find_image(containers.connect(), image, where)
    else:
        images.check_labels(where, image)


def _upload_version(kubeflow: Kubeflow, pipeline: str, file: Path) -> _Version:
    """The version of a compiled file, which is uploaded unless it is there already.

    It is named by the commit, and by the commit and the content where that name is taken: another
    image or placement makes another file of the same commit.
    """
    pipeline_id = kubeflow.pipeline(pipeline)
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    description = f"dynamicpo {__version__}, sha256 of the file {content}"
    commit_name = _commit_name()
    content_name = f"{commit_name}-{content[:8]}"
    for name in (commit_name, content_name):
        version_id, existing_description = kubeflow.version(pipeline_id, name)
        if not version_id:
            version_id = kubeflow.upload(pipeline_id, name, description, file)
            return _Version(pipeline_id, version_id, name)
        if existing_description == description:
            return _Version(pipeline_id, version_id, name)
    raise ConfigError(
        f"{kubeflow.host}: version {content_name} must be of this file, but it is not. Delete it."
    )


def _commit_name() -> str:
    commit = git_commit.commit()
    if not commit:
        return __version__
    return f"{commit}-changed" if git_commit.changed() else commit


def _api_run(
    pipeline: str, experiment: str, version: _Version, parameters: Mapping[str, object]
) -> "V2beta1Run":
    """The run as the API takes it."""
    import kfp_server_api as api

    from dynamicpo_pipelines.placement import SERVICE_ACCOUNT

    reference = api.V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id=version.id
    )
    return api.V2beta1Run(
        display_name=f"{pipeline} {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}",
        experiment_id=experiment,
        pipeline_version_reference=reference,
        runtime_config=api.V2beta1RuntimeConfig(parameters=dict(parameters)),
        service_account=SERVICE_ACCOUNT,
    )
