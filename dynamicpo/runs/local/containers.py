"""Containers of a local run: one image, checked before anything starts, and their restrictions.

Containers have no network and no more rights than the caller. Of this machine they see the run's
artifacts and, read-only, the files that parameters name.
"""

import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynamicpo import __version__
from dynamicpo.core.errors import ConfigError
from dynamicpo.runs.images import REVISION_LABEL, warn_of_version
from dynamicpo.runs.local.jobs import Container, remove_container
from dynamicpo.runs.local.run_locks import is_at_work

if TYPE_CHECKING:
    import docker
    from docker.models.images import Image as EngineImage
    from docker.types import Mount
    from kfp.local import DockerRunner

log = logging.getLogger(__name__)

# User and group of the images in images/.
IMAGE_USER = (10001, 0)
# Docker's default of 64 MB is too little for the workers of PyTorch's data loaders.
SHARED_MEMORY = "1g"
_MESSAGE_CHARACTERS = 300
# A label of every task's container, with the run's folder.
_RUN_LABEL = "dynamicpo.run"


@dataclass(frozen=True)
class Image:
    """An image on this machine with dynamicpo inside.

    Attributes:
        name: Its name, from the flag.
        id: Its id: a name may later be that of another image.
        version: Version of the dynamicpo inside.
        revision: The commit it was built of; empty where it has no such label.
    """

    name: str
    id: str
    version: str
    revision: str


def connect() -> "docker.DockerClient":
    """A client of this machine's Docker engine.

    Raises:
        ConfigError: None answers.
    """
    import docker

    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        raise ConfigError(
            f"docker: an engine must answer, but none does ({_short(error)}). "
            "Start one or set DOCKER_HOST."
        ) from error
    return client


def is_on_this_machine(name: str) -> bool:
    """Tell whether an engine answers and has an image."""
    import docker

    try:
        connect().images.get(name)
    except (ConfigError, docker.errors.DockerException):
        return False
    return True


def find_image(client: "docker.DockerClient", name: str, where: str = "--image") -> Image:
    """Inspect an image, which is pulled if it is not on this machine.

    Args:
        client: A client of the engine.
        name: The image's name.
        where: The setting that names it.

    Raises:
        ConfigError: It can't be pulled, or dynamicpo does not run in it.
    """
    import docker

    try:
        image = client.images.get(name)
    except docker.errors.ImageNotFound:
        log.info("%s: not on this machine, pulling it", name)
        image = _pull(client, name)
    version = _version_inside(client, where, name, image.id)
    if version != __version__:
        warn_of_version(name, version)
    return Image(name, image.id, version, image.labels.get(REVISION_LABEL, ""))


def _pull(client: "docker.DockerClient", name: str) -> "EngineImage":
    import docker

    try:
        return client.images.pull(name)
    except docker.errors.APIError as error:
        raise ConfigError(
            f"--image: {name} must be on this machine or in a registry, but {_short(error)}. "
            "Build it (`make images`) or log in to the registry."
        ) from error


def _version_inside(client: "docker.DockerClient", where: str, name: str, image_id: str) -> str:
    """The version that dynamicpo itself prints, run as a task would be."""
    import docker

    command = ["dynamicpo", "--version"]
    try:
        container = Container(client, image_id, command, network_mode="none", user=_user())
        output = "".join(container.lines()).strip()
        failed = container.wait() != 0
    # An image may lack the command, which the engine says when the container is started.
    except docker.errors.APIError as error:
        output = _short(error)
        failed = True
    if failed or not output:
        problem = output[-_MESSAGE_CHARACTERS:] or "it prints nothing"
        raise ConfigError(
            f"{where}: {name} must hold dynamicpo, but `dynamicpo --version` fails in it: "
            f"{problem}. Build one with images/build.sh."
        )
    # The last line: an entry point may print something before.
    return output.splitlines()[-1]


def _short(error: Exception) -> str:
    """The engine's explanation, or the error's text, in one line."""
    text = str(getattr(error, "explanation", "") or error)
    return " ".join(text.split())[-_MESSAGE_CHARACTERS:]


def remove_leftovers(client: "docker.DockerClient") -> None:
    """Remove containers of runs that were killed: the engine keeps them at work."""
    # Of two runs that start at once both see a container, and one finds it gone.
    filters = {"label": _RUN_LABEL}
    for container in client.containers.list(all=True, filters=filters, ignore_removed=True):
        folder = Path(container.labels[_RUN_LABEL])
        if not is_at_work(folder):
            log.info("%s: removing a container of this run, which was killed", folder)
            remove_container(container)


def docker_runner(
    parameters: Mapping[str, object], artifacts: Path, folder: Path
) -> "DockerRunner":
    """The runner of kfp for containers that can do no more than they must.

    Args:
        parameters: Those of the run; files and folders that they name are mounted under the same
            path.
        artifacts: The folder where tasks write; kfp mounts it.
        folder: The run's folder.
    """
    from kfp import local

    if os.getuid() == 0:
        os.chown(artifacts, *IMAGE_USER)
    return local.DockerRunner(
        user=_user(),
        network_mode="none",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        mounts=_mounts(parameters),
        labels={_RUN_LABEL: str(folder)},
        # Parameters may hold relative paths.
        working_dir=os.getcwd(),
        # A first process that reaps children and passes signals on.
        init=True,
        shm_size=SHARED_MEMORY,
        environment={"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
    )


def _mounts(parameters: Mapping[str, object]) -> "list[Mount]":
    """Read-only mounts of the files and folders that parameters name."""
    from docker.types import Mount

    texts = [value for value in parameters.values() if isinstance(value, str) and value]
    mounts = []
    for path in sorted({os.path.abspath(text) for text in texts}):
        # Most texts are no paths, but names: `compact`, `movies`.
        if Path(path).exists():
            mounts.append(Mount(path, path, type="bind", read_only=True))
    return mounts


def _user() -> str:
    """The caller, who then owns the tasks' outputs; for root the image's user instead."""
    # No task runs as root.
    user, group = (os.getuid(), os.getgid()) if os.getuid() else IMAGE_USER
    return f"{user}:{group}"


def describe_environment(image: Image) -> str:
    """The environment of the tasks, for the summary of a run."""
    return (
        f"{image.name} ({image.id}), dynamicpo {image.version}, "
        f"{os.cpu_count()} processors, {platform.machine()}"
    )
