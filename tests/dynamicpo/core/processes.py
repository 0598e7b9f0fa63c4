"""Real processes that tests talk to by lines."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Process = subprocess.Popen[str]


@contextmanager
def start(code: str, *arguments: Path | str) -> Iterator[Process]:
    """A Python process that runs `code`; killed after the block."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(process: Process, count: int) -> list[str]:
    """Its next lines."""
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]
