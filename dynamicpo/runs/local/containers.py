"""The containers of a local run: one image, checked before anything starts, and what every container gets.

They have no network, no more rights than the caller, and see of this machine only the run's artifacts and, read-only,
the files that parameters name.
"""

import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamicpo import __version__
from dynamicpo.core.errors import ConfigError
from dynamicpo.runs.images import REVISION
from dynamicpo.runs.local.jobs import Container

log = logging.getLogger(__name__)

IMAGES_USER = (10001, 0)
SHARED_MEMORY = "1g"


@dataclass(frozen=True)
class Image:
    """An image on this machine with dynamicpo inside.

    Attributes:
        name: As it was given.
        id: What it is; a name may move.
        version: Of the dynamicpo inside.
        revision: The commit it was built of, if it says so.
    """

    name: str
    id: str
    version: str
    revision: str


def connect() -> Any:
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
            f"docker: an engine must answer, but none does ({_short(error)}). Start one or set DOCKER_HOST."
        ) from error
    return client


def on_this_machine(name: str) -> bool:
    """Whether an engine answers and has an image."""
    import docker

    try:
        connect().images.get(name)
    except (ConfigError, docker.errors.DockerException):
        return False
    return True


def find_image(client: Any, name: str, where: str = "--image") -> Image:
    """Look into an image, which is fetched if it is not here. `where` is the setting that names it.

    Raises:
        ConfigError: It can't be had, or dynamicpo does not run in it.
    """
    import docker

    try:
        found = client.images.get(name)
    except docker.errors.ImageNotFound:
        log.info("%s: not on this machine, fetching it", name)
        found = _pull(client, name)
    version = _version_inside(client, where, name, found.id)
    return Image(name, found.id, version, found.labels.get(REVISION, ""))


def _pull(client: Any, name: str) -> Any:
    import docker

    try:
        return client.images.pull(name)
    except docker.errors.APIError as error:
        raise ConfigError(
            f"--image: {name} must be on this machine or in a registry, but {_short(error)}. Build it (`make images`) "
            "or log in to the registry."
        ) from error


def _version_inside(client: Any, where: str, name: str, image: str) -> str:
    """Ask dynamicpo itself, as a task would be run."""
    import docker

    try:
        container = Container(
            client, image, ["dynamicpo", "--version"], network_mode="none", user=_user()
        )
        said = "".join(container.lines()).strip()
        problem = said if container.wait() else ""
    except docker.errors.APIError as error:
        said, problem = "", _short(error)
    if problem or not said:
        raise ConfigError(
            f"{where}: {name} must hold dynamicpo, but `dynamicpo --version` fails in it: "
            f"{problem[-300:] or 'it says nothing'}. Build one with images/build.sh."
        )
    version = said.splitlines()[-1]
    if version != __version__:
        log.warning(
            "%s holds dynamicpo %s, this is %s: the tasks run what is in the image",
            name,
            version,
            __version__,
        )
    return version


def _short(error: Exception) -> str:
    return " ".join(str(getattr(error, "explanation", "") or error).split())[-300:]


def runner(parameters: Mapping[str, Any], artifacts: Path) -> Any:
    """The runner of kfp, for containers that can do no more than they must.

    Args:
        parameters: Of the run; files and folders that they name are mounted at their own places.
        artifacts: The folder where tasks write; kfp mounts it.
    """
    from docker.types import Mount
    from kfp import local

    if os.getuid() == 0:
        os.chown(artifacts, *IMAGES_USER)
    named = {
        os.path.abspath(value) for value in parameters.values() if isinstance(value, str) and value
    }
    mounts = [
        Mount(path, path, type="bind", read_only=True)
        for path in sorted(named)
        if Path(path).exists()
    ]
    return local.DockerRunner(
        user=_user(),
        network_mode="none",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        mounts=mounts,
        working_dir=os.getcwd(),
        init=True,
        shm_size=SHARED_MEMORY,
        environment={"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
    )


def _user() -> str:
    """The caller, who then owns what the tasks make; for root the image's user: no task runs as root."""
    uid, gid = (os.getuid(), os.getgid()) if os.getuid() else IMAGES_USER
    return f"{uid}:{gid}"


def description(image: Image) -> str:
    """What a summary says of where the tasks ran."""
    return f"{image.name} ({image.id}), dynamicpo {image.version}, {os.cpu_count()} processors, {platform.machine()}"
