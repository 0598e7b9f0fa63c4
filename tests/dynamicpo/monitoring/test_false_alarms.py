"""False alarms and power of a whole check, on users of MovieLens-100k divided by key.

`python -m tests.benchmarks.drift_alarms 2000` repeats it more often.
"""

import pytest

from tests.benchmarks.drift_alarms import SHIFTED
from tests.fixtures.drift_simulation import false_alarm, shift_is_found, upper_bound

ALARMS, SHIFTS = 200, 25


def test_checks_without_drift_seldom_find_some() -> None:
    alarms = sum(false_alarm(seed) for seed in range(ALARMS))
    # At a rate of 5 % there are 10, and more than 16 with a probability of 2 %.
    assert alarms <= 16
    assert upper_bound(alarms, ALARMS) < 0.13


@pytest.mark.parametrize("column", SHIFTED)
def test_shifts_are_found(column: str) -> None:
    found = sum(shift_is_found(seed, column) for seed in range(SHIFTS))
    assert found >= 0.8 * SHIFTS
