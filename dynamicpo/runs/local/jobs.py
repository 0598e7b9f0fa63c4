"""What a task of a local run runs in: a process or a container; started, read, signalled and waited for alike."""

import contextlib
import io
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol


class Job(Protocol):
    """A started process or container."""

    def lines(self) -> Iterable[str]:
        """What it says, line by line, to its end."""

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens where it has ended."""

    def wait(self) -> int:
        """Its exit code; call it once, after the lines."""


class Process:
    """A process with a group of its own, so that a signal reaches its children too."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it."""
        self._popen = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
        )

    def lines(self) -> Iterable[str]:
        """Standard output and error."""
        return self._popen.stdout or io.StringIO()

    def signal(self, number: int) -> None:
        """Signal the group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def wait(self) -> int:
        """The exit code, negative after a signal."""
        with self._popen as popen:
            return popen.wait()


class Container:
    """A container. kfp's own lets the engine remove it and takes one that is gone for a success; this asks first."""

    def __init__(self, client: Any, image: str, command: Sequence[str], **arguments: Any) -> None:
        """Start it.

        Args:
            client: A `docker.DockerClient`.
            image: Its id.
            command: What runs in it.
            **arguments: More arguments of `containers.create`.
        """
        self._container = client.containers.create(image, command, **arguments)
        try:
            self._container.start()
        except BaseException:
            self._container.remove(force=True)
            raise

    def lines(self) -> Iterator[str]:
        """Standard output and error."""
        rest = b""
        for chunk in self._container.logs(stream=True, follow=True):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") + "\n" for line in whole)
        if rest:
            yield rest.decode(errors="replace")

    def signal(self, number: int) -> None:
        """Signal the first process of the container."""
        import docker

        with contextlib.suppress(docker.errors.APIError):
            self._container.kill(signal=signal.Signals(number).name)

    def wait(self) -> int:
        """The exit code, 128 and more after a signal. The container is removed."""
        try:
            return int(self._container.wait()["StatusCode"])
        finally:
            self._container.remove(force=True)
