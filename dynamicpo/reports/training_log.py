"""The training log, one mapping a step: how it is read, and the summaries that stages and pages share."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Steps = Sequence[Mapping[str, Any]]
GRADIENT, RELATIVE = "boundary_gradient", "boundary_gradient_relative"
FEW = 10  # what the first and the last steps are


def read_steps(path: Path) -> list[dict[str, float]]:
    """The lines of a `steps.jsonl`; none where there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def last(steps: Steps, key: str) -> float:
    """The mean of a measure over the last steps; NaN where it was not logged."""
    return _mean([float(step[key]) for step in steps[-FEW:] if step.get(key) is not None])


def relative_gradient(steps: Steps) -> list[float]:
    """The boundary gradient's size in each step against its mean over the first steps: 1 is as strong as at the start.

    NaN where it was not logged, or was 0 at the start.
    """
    start = _mean([float(step[GRADIENT]) for step in steps[:FEW] if step.get(GRADIENT) is not None])
    values = [math.nan if step.get(GRADIENT) is None else float(step[GRADIENT]) for step in steps]
    return [value / start if start else math.nan for value in values]


def with_relative_gradient(steps: Steps) -> list[dict[str, Any]]:
    """The same log with the relative boundary gradient, in every step where there is one."""
    pairs = zip(steps, relative_gradient(steps), strict=True)
    return [dict(step) if math.isnan(value) else {**step, RELATIVE: value} for step, value in pairs]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
