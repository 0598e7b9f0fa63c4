"""Summaries of a training log."""

import math
from pathlib import Path

import pytest

from dynamicpo.reports.training_log import (
    mean_of_last_steps,
    read_training_log,
    relative_boundary_gradient,
    with_relative_gradient,
)

LOG = [
    {"step": step, "loss": float(step), "boundary_gradient": 0.5 if step <= 10 else 0.1}
    for step in range(1, 31)
]


def test_the_gradient_is_measured_against_its_mean_over_the_first_ten_steps() -> None:
    assert relative_boundary_gradient(LOG) == pytest.approx([1.0] * 10 + [0.2] * 20)
    assert with_relative_gradient(LOG)[-1] == {
        **LOG[-1],
        "boundary_gradient_relative": pytest.approx(0.2),
    }


def test_a_log_without_a_gradient_or_with_none_at_the_start_has_no_relative_one() -> None:
    plain = [{"step": 1, "loss": 1.0}]
    assert with_relative_gradient(plain) == plain
    still = [{"boundary_gradient": 0.0}] * 10 + [{"boundary_gradient": 1.0}]
    assert all(math.isnan(value) for value in relative_boundary_gradient(still))


def test_the_end_of_a_run_is_its_last_ten_steps() -> None:
    assert mean_of_last_steps(LOG, "loss") == pytest.approx(sum(range(21, 31)) / 10)
    assert math.isnan(mean_of_last_steps(LOG, "beta"))


def test_steps_are_read_and_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    assert read_training_log(tmp_path / "steps.jsonl") == [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.0},
    ]
    assert read_training_log(tmp_path / "none") == []
