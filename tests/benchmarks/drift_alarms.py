"""False alarms and power of drift checks: `python -m tests.benchmarks.drift_alarms 2000`.

`make test` has 200 of them.
"""

import argparse
from collections.abc import Sequence

from tests.fixtures.drift_simulation import false_alarm, shift_is_found, upper_bound

SHIFTED = ("user_activity", "history_length", "chosen_score", "popularity_bucket")


def main(argv: Sequence[str] | None = None) -> None:
    """Print how often checks without drift find some, and how often they find a shift."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checks", type=int)
    repeats = parser.parse_args(argv).checks
    alarms = 0
    for seed in range(repeats):
        alarms += false_alarm(seed)
        if (seed + 1) % 100 == 0 or seed + 1 == repeats:
            bound = upper_bound(alarms, seed + 1)
            share = alarms / (seed + 1)
            print(f"{alarms} of {seed + 1} alarms: {share:.2%}, at most {bound:.2%}", flush=True)
    for column in SHIFTED:
        found = sum(shift_is_found(seed, column) for seed in range(max(repeats // 10, 1)))
        print(f"{column}: shift found in {found} of {max(repeats // 10, 1)}", flush=True)


if __name__ == "__main__":
    main()
