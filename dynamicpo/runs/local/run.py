"""A pipeline as processes or containers on this machine, through kfp.local."""

import logging
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from dynamicpo import __version__
from dynamicpo.core.claims import claimed
from dynamicpo.core.errors import ConfigError, DataError, RunFailedError
from dynamicpo.core.git_commit import commit
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.storage import SCHEMES
from dynamicpo.runs.compile import load_pipeline
from dynamicpo.runs.images import check_image_name
from dynamicpo.runs.local import containers, summary
from dynamicpo.runs.local.cache import cache_name
from dynamicpo.runs.local.kfp_internals import count_tasks, hooked
from dynamicpo.runs.local.run_locks import at_work
from dynamicpo.runs.local.task_runner import TaskRunner, stopped_by_signals
from dynamicpo.runs.local.warm_start import warm_python
from dynamicpo.runs.objectives import planned_cells
from dynamicpo.runs.parameters import check_literal, check_parameters, pipeline_arguments

if TYPE_CHECKING:
    from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

log = logging.getLogger(__name__)


def run_pipeline(
    name: str,
    overrides: Mapping[str, object],
    output: Path | None = None,
    workers: int = 1,
    image: str = "",
) -> summary.FinishedRun:
    """Run a pipeline to its end; a folder then holds its summary, report, logs and artifacts.

    Args:
        name: The pipeline.
        overrides: Some of its parameters.
        output: The run's folder (default: `runs/<pipeline>-<UTC time>`). The cache stands beside
            it, in `.cache`: tasks whose code and inputs are as before are not run again.
        workers: The number of tasks that may run at once; they share the processors.
        image: Run every task in a container of this image (default: as a process).

    Returns:
        The summary, as in `summary.json`, and the run's `folder`.

    Raises:
        ConfigError, DataError: Parameters that can't be used; nothing was started.
        RunFailedError: A task failed; the message is its own.
        KeyboardInterrupt: The process got a signal that ends it, for which the program has no
            handler of its own; its tasks have ended.
    """
    if workers < 1:
        raise ConfigError(f"workers: must be >= 1, got {workers}.")
    parameters = check_parameters(name, overrides)
    container_image = _container_image(image, parameters) if image else None
    image_id = container_image.id if container_image else ""
    folder = _make_folder(output or _default_folder(name))
    cache = folder.parent / ".cache" / cache_name(parameters, image_id)
    settings: summary.RunSettings = {
        "pipeline": name,
        "parameters": parameters,
        **_origin(container_image),
    }
    started = time.time()
    with (
        tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch,
        at_work(folder),
        ExitStack() as stack,
    ):
        pipeline = load_pipeline(name)
        total = task_count(pipeline.pipeline_spec, parameters)
        artifacts = cache / "artifacts"
        runner = TaskRunner(folder / "logs", total, workers, artifacts, scratch, image_id)
        runner.checkpoints = _own_checkpoints(cache, stack)
        if not image:
            warm = warm_python(Path(scratch), runner.process_environment)
            runner.process_environment = stack.enter_context(warm)
        log.info("%s: %d tasks, in %s", name, total, folder)
        state: summary.RunState = "succeeded"
        summary.write(folder, {**settings, "state": "running"}, started, runner.tasks)
        try:
            _execute(name, parameters, cache, runner)
        except BaseException:
            state = "cancelled" if runner.stopped else "failed"
            raise
        finally:
            result = summary.write(folder, {**settings, "state": state}, started, runner.tasks)
    # mypy takes the keys that are not required for missing.
    return {**result, "folder": str(folder)}  # type: ignore[typeddict-item]


def _own_checkpoints(cache: Path, claims: ExitStack) -> Path | None:
    """Claim the checkpoints of a cache; None where another run trains the same at this moment."""
    cache.mkdir(parents=True, exist_ok=True)
    try:
        claims.enter_context(claimed(cache / "checkpoints.claim", "checkpoints"))
    except DataError:
        log.info("another run makes the same: this one keeps no checkpoints of its trainings")
        return None
    # Below the artifacts, which containers see.
    return cache / "artifacts" / ".checkpoints"


def _default_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"


def _make_folder(folder: Path) -> Path:
    from dynamicpo.core.records.partial_folders import check_output

    check_output(folder)
    # It stands in the addresses of artifacts.
    check_literal("--output", folder.absolute())
    (folder / "logs").mkdir(parents=True)
    return folder.resolve()


def _container_image(name: str, parameters: Mapping[str, object]) -> containers.Image:
    """The image of a run in containers, checked before anything starts."""
    check_image_name("--image", name, allow_tag=True)
    for key, value in parameters.items():
        if isinstance(value, str) and value.startswith(SCHEMES):
            raise ConfigError(
                f"{key}: must be on this machine for --runner docker (its containers have no "
                f"network), got {value!r}. Fetch it first, or take --runner subprocess."
            )
    client = containers.connect()
    containers.remove_leftovers(client)
    return containers.find_image(client, name)


def _execute(name: str, parameters: JsonObject, cache: Path, runner: TaskRunner) -> None:
    """Run a pipeline's tasks through kfp, and raise the error of the first that failed."""
    from kfp import local

    artifacts = cache / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    if runner.image:
        folder = runner.logs.parent
        kfp_runner = containers.docker_runner(parameters, artifacts, folder)
    else:
        # Without it kfp makes a virtual environment for every task.
        kfp_runner = local.SubprocessRunner(use_venv=False)
    local.init(
        kfp_runner,
        pipeline_root=str(artifacts),
        enable_caching=True,
        cache_root=str(cache / "entries"),
    )
    try:
        with hooked(runner), stopped_by_signals(runner):
            load_pipeline(name)(**pipeline_arguments(name, parameters))
    except Exception as error:
        # kfp knows no interruption: tasks that were stopped look to it like tasks that failed.
        if runner.stopped:
            raise KeyboardInterrupt from error
        if not runner.failed:
            raise
        task = runner.failed[0]
        raise RunFailedError(
            f"{task.name} failed: {task.error}\nThe whole log: {task.log_path}"
        ) from error


def task_count(spec: "PipelineSpec", parameters: Mapping[str, object]) -> int:
    """The number of tasks of a run with these parameters.

    Args:
        spec: The compiled pipeline.
        parameters: Those of the run.
    """

    def list_length(name: str) -> int:
        # What a loop runs over is known before the task has run that lists it for kfp.
        if name == "plan-cells-Output":
            return len(planned_cells(parameters))
        entries = parameters[name.removeprefix("check-settings-")]
        assert isinstance(entries, list)
        return len(entries)

    return count_tasks(spec, list_length)


class _Origin(TypedDict):
    """The environment of a run's tasks."""

    runner: str
    package_version: str
    commit: str
    image: str


def _origin(image: containers.Image | None) -> _Origin:
    if image:
        return {
            "runner": "docker",
            "package_version": image.version,
            "commit": image.revision,
            "image": containers.describe_environment(image),
        }
    python = platform.python_version()
    return {
        "runner": "subprocess",
        "package_version": __version__,
        "commit": commit(),
        "image": f"local processes, Python {python}, {os.cpu_count()} processors",
    }
