"""The harness of `python -m tests.damage`: its damage is that of its seed, and it sees failures."""

import random
import signal
from pathlib import Path

import pytest

from tests.damage import case
from tests.damage.__main__ import table
from tests.damage.runner import pristine_inputs, run_cases
from tests.damage.targets import TARGETS
from tests.damage.values import damaged_bytes, damaged_value


def test_a_seed_gives_the_same_damage() -> None:
    value = {"a": [1, {"b": "c"}], "d": None}
    first, again = (
        [damaged_value(value, rng) for _ in range(50)]
        for rng in (random.Random("x"), random.Random("x"))
    )
    assert repr(first) == repr(again)
    assert damaged_bytes(b"abc" * 20, random.Random(1)) == damaged_bytes(
        b"abc" * 20, random.Random(1)
    )


@pytest.mark.parametrize(
    ("act", "problem"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: 1, "exit code 1"),
        (lambda: print("a\x1b[2J") or 0, "a control character was printed"),
        (lambda: print("Traceback (most recent call last)") or 0, "a traceback was printed"),
        (lambda: Path("out").mkdir() or 2, "an output though it failed"),
        (lambda: Path("left").mkdir() or 2, "left ['left']"),
        (lambda: 0, "no whole output"),
        (lambda: signal.raise_signal(signal.SIGALRM), "TooSlowError: longer than"),
        (lambda: len(b"1" * (3 << 29)) * 0 or 2, "GB more than before"),
        (lambda: 2, ""),
    ],
)
def test_the_harness_sees_what_it_looks_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, act, problem: str
) -> None:
    """Or else no command could ever fail a case."""
    (tmp_path / "pristine" / "preferences").mkdir(parents=True)
    (tmp_path / "pristine" / "later").mkdir()
    (tmp_path / "folder").mkdir()
    target = TARGETS["negatives"]._replace(inputs=("preferences",))
    (tmp_path / "pristine" / "preferences" / "a.txt").write_text("abc")
    monkeypatch.setitem(TARGETS, "csv", target)
    monkeypatch.setattr(case, "main", lambda argv: act())
    outcome = case.run_case(0, 0, tmp_path / "pristine", tmp_path / "folder")
    assert problem in outcome.problem and bool(problem) == bool(outcome.problem)


def test_damaged_inputs_end_in_one_line_and_leave_nothing_half_written() -> None:
    """Eight cases of each command and input; `python -m tests.damage` runs as many as wanted."""
    numbers = range(8 * len(TARGETS))
    with pristine_inputs() as pristine:
        records = list(run_cases(pristine, numbers, seed=0, workers=1))
    failed = [record for record in records if record["problem"]]
    assert len(records) == len(numbers)
    assert not failed, "\n".join(table(failed))
