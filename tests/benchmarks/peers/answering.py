"""The side of a peer's process, in whatever environment it runs."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil


def answer_with(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Read the request, do the work, write the answer."""
    _, question, answer = sys.argv
    text = Path(question).read_text(encoding="utf-8")
    request = json.loads(text)
    result = work(request)
    text = json.dumps({**result, "own_peak_bytes": own_peak_bytes()})
    Path(answer).write_text(text, encoding="utf-8")


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def own_peak_bytes() -> int:
    """The most memory that this process has held so far (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(peak.split()[1])
