"""Jobs that tasks of a local run run in: processes and containers, used alike."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from dynamicpo.runs.local import supervisor

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container as EngineContainer


_SUPERVISOR = supervisor.__file__


class Job(Protocol):
    """A started process or container."""

    def lines(self) -> Iterable[str]:
        """Its output, line by line, to its end."""

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens if it has ended."""

    def wait(self) -> int:
        """Its exit code; call it once, after the lines."""


class Process:
    """A process in a process group of its own, so that a signal reaches its children too.

    It ends when this process does, however that ends.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it."""
        prefix = [sys.executable, "-I", "-S", _SUPERVISOR, str(os.getpid())]
        self._popen = subprocess.Popen(
            [*prefix, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A task may print bytes that are no UTF-8; they must not end the run.
            errors="replace",
            env=environment,
            start_new_session=True,
        )

    def lines(self) -> Iterable[str]:
        """Standard output and error."""
        return self._popen.stdout or io.StringIO()

    def send_signal(self, number: int) -> None:
        """Signal the group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def wait(self) -> int:
        """The exit code, 128 and more after a signal; negative where the supervisor got it."""
        with self._popen as popen:
            code = popen.wait()
        # Processes that the task started and did not wait for.
        self.send_signal(signal.SIGKILL)
        return code


class Container:
    """A container that is removed only after its exit code has been read.

    kfp has the engine remove it: the exit code of a short one is gone when kfp asks for it.
    """

    def __init__(
        self,
        client: "docker.DockerClient",
        image: str,
        command: Sequence[str],
        **arguments: object,
    ) -> None:
        """Start it.

        Args:
            client: A client of the engine.
            image: The image's id.
            command: The command that runs in it.
            **arguments: More arguments of `docker.containers.create`.
        """
        self._container = client.containers.create(image, command, **arguments)
        try:
            self._container.start()
        # Of any error, an interruption too: a container that was created stays until removed.
        except BaseException:
            remove_container(self._container)
            raise

    def lines(self) -> Iterator[str]:
        """Standard output and error."""
        # The engine sends what it has, in the middle of a line or of a character of many bytes, so
        # only complete lines are decoded.
        rest = b""
        for chunk in self._container.logs(stream=True, follow=True):
            *complete, rest = (rest + chunk).split(b"\n")
            for line in complete:
                yield line.decode(errors="replace") + "\n"
        if rest:
            yield rest.decode(errors="replace")

    def send_signal(self, number: int) -> None:
        """Signal the first process of the container."""
        import docker

        with contextlib.suppress(docker.errors.APIError):
            self._container.kill(signal=signal.Signals(number).name)

    def wait(self) -> int:
        """The exit code, 128 and more after a signal. The container is removed."""
        try:
            return int(self._container.wait()["StatusCode"])
        finally:
            remove_container(self._container)


def remove_container(container: "EngineContainer") -> None:
    """Remove a container, at work or not; nothing happens if another process is faster."""
    import docker

    try:
        container.remove(force=True)
    except docker.errors.APIError as error:
        # Not there any more, or its removal is already in progress.
        if error.status_code not in (404, 409):
            raise
