"""The training log, one record a step, and the summaries that stages and pages share."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import is_number
from dynamicpo.core.messages import reason_of
from dynamicpo.core.records.shapes import as_shape

# Measures of one step by name; one that was not logged is missing or None.
StepRecord = Mapping[str, float | None]
TrainingLog = Sequence[StepRecord]

BOUNDARY_GRADIENT = "boundary_gradient"
RELATIVE_BOUNDARY_GRADIENT = "boundary_gradient_relative"
# Steps at the start and at the end of a run that a mean is taken over, so that a single batch
# does not decide.
NUM_END_STEPS = 10


def read_training_log(path: Path) -> list[dict[str, float]]:
    """The records of a `steps.jsonl`; none where there is no such file.

    Raises:
        DataError: It can't be read, or holds something else.
    """
    if not path.is_file():
        return []
    records = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            # `int` as well, or msgspec would make a float of each number of a step.
            record = as_shape(path, json.loads(line), dict[str, float | int | None])
            _check_numbers(record)
            records.append(record)
    # A RecursionError: brackets within brackets, thousands of them.
    except (OSError, TypeError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"{path}: must hold a JSON object a line, but it can't be read ({reason_of(error)}). "
            "Train again."
        ) from error
    # Readers look for None by `get`, as for what was not logged.
    return cast(list[dict[str, float]], records)


def _check_numbers(record: Mapping[str, float | None]) -> None:
    for name, value in record.items():
        if value is not None and not is_number(value):
            raise TypeError(f"{name} is no number")


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
    first_steps = log[:NUM_END_STEPS]
    start = _mean(logged_values(first_steps, BOUNDARY_GRADIENT))
    if start == 0:
        start = math.nan
    relative = []
    for record in log:
        value = record.get(BOUNDARY_GRADIENT)
        size = math.nan if value is None else float(value)
        relative.append(size / start)
    return relative


def with_relative_gradient(log: TrainingLog) -> list[dict[str, float | None]]:
    """The same log with the relative boundary gradient, in every step where there is one."""
    gradients = relative_boundary_gradient(log)
    extended = []
    for record, gradient in zip(log, gradients, strict=True):
        copy = dict(record)
        if not math.isnan(gradient):
            copy[RELATIVE_BOUNDARY_GRADIENT] = gradient
        extended.append(copy)
    return extended


def _mean(values: Sequence[float]) -> float:
    # Rounded once, at the end of the sum.
    return math.fsum(values) / len(values) if values else math.nan
