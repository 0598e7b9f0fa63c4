"""A peer's process: a request in, an answer out, and its memory watched from outside."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.peers.environments import PeerError, last_error
from tests.conftest import ROOT

SECONDS_BETWEEN_LOOKS = 0.1
MOST_SECONDS = 3600  # on a machine that others use; each takes some two minutes of a core
Answer = dict[str, Any]


def ask(
    module: str,
    request: Mapping[str, Any],
    python: Path | None = None,
    most_seconds: float = MOST_SECONDS,
) -> Answer:
    """Run a module of this folder on one core and wait for its answer.

    Args:
        module: The module's name; it calls `answer_with` of `answering`.
        request: What it is to do, as JSON.
        python: The interpreter of its environment; None: this one.
        most_seconds: After so long it is ended.

    Returns:
        Its answer and `peak_bytes`, the most memory that the process and its children held.

    Raises:
        PeerError: It failed, or took too long.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        question = folder / "question.json"
        answer = folder / "answer.json"
        text = json.dumps(request)
        question.write_text(text, encoding="utf-8")
        program = [str(python or sys.executable), "-m", f"tests.benchmarks.peers.{module}"]
        command = [*program, str(question), str(answer)]
        peak = _run(command, folder / "stderr", most_seconds)
        found: Answer = json.loads(answer.read_text(encoding="utf-8"))
        # Looks from outside see the children, too, but may miss a short peak.
        return {**found, "peak_bytes": max(peak, found["own_peak_bytes"])}


def _run(command: list[str], errors: Path, most_seconds: float) -> int:
    """Peak of the resident memory of a command and its children."""
    # The same for all: one thread, no hub.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=stderr
        )
    try:
        peak = _watch(process, most_seconds)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    if process.returncode:
        text = errors.read_text(encoding="utf-8", errors="replace")
        raise PeerError(last_error(text) or f"ended with {process.returncode}")
    return peak


def _watch(process: subprocess.Popen[bytes], most_seconds: float) -> int:
    peak = 0
    end = time.monotonic() + most_seconds
    while process.poll() is None:
        peak = max(peak, _resident_bytes(process.pid))
        if time.monotonic() > end:
            raise PeerError(f"took longer than {most_seconds:g} s")
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return peak


def _resident_bytes(pid: int) -> int:
    """Resident memory of a process and all its children; 0 when it has just ended."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def tried(line: dict[str, Any], work: Callable[[], Answer]) -> dict[str, Any]:
    """A line of the table with what some work gives, or with the error that it ends in."""
    try:
        return {**line, **work()}
    except PeerError as error:
        return {**line, "error": str(error)}
