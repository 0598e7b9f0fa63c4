"""The training log, one record a step, and the summaries that stages and pages share."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

# Measures of one step by name; one that was not logged is missing or None.
StepRecord = Mapping[str, float | None]
TrainingLog = Sequence[StepRecord]

BOUNDARY_GRADIENT = "boundary_gradient"
RELATIVE_BOUNDARY_GRADIENT = "boundary_gradient_relative"
# Steps at the start and at the end of a run that a mean is taken over, so that a single batch
# does not decide.
NUM_END_STEPS = 10


def read_training_log(path: Path) -> list[dict[str, float]]:
    """The records of a `steps.jsonl`; none where there is no such file."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def mean_of_last_steps(log: TrainingLog, key: str) -> float:
    """The mean of a measure over the last steps; NaN where it was not logged."""
    return _mean(logged_values(log[-NUM_END_STEPS:], key))


def logged_values(log: TrainingLog, key: str) -> list[float]:
    """A measure in the steps that logged it."""
    values = (record.get(key) for record in log)
    return [float(value) for value in values if value is not None]


def relative_boundary_gradient(log: TrainingLog) -> list[float]:
    """The boundary gradient's size in each step against its mean over the first steps.

    1 is as strong as at the start; NaN where it was not logged, or was 0 at the start.
    """
    start = _mean(logged_values(log[:NUM_END_STEPS], BOUNDARY_GRADIENT))
    if start == 0:
        return [math.nan] * len(log)
    values = [record.get(BOUNDARY_GRADIENT) for record in log]
    return [math.nan if value is None else float(value) / start for value in values]


def with_relative_gradient(log: TrainingLog) -> list[dict[str, float | None]]:
    """The same log with the relative boundary gradient, in every step where there is one."""
    extended = []
    for record, relative in zip(log, relative_boundary_gradient(log), strict=True):
        copy = dict(record)
        if not math.isnan(relative):
            copy[RELATIVE_BOUNDARY_GRADIENT] = relative
        extended.append(copy)
    return extended


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
