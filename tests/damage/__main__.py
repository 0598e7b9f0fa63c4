"""Many damaged inputs: `python -m tests.damage --cases 20000 [--seed S] [--workers W]`."""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.damage.runner import Record, pristine_inputs, run_cases


def main(argv: Sequence[str] | None = None) -> int:
    """Run cases, print a table of the places that failed, and write all outcomes as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", default="build/damage", help="folder of the outcomes")
    arguments = parser.parse_args(argv)
    numbers = range(arguments.first, arguments.first + arguments.cases)
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"seed-{arguments.seed}-from-{arguments.first}.jsonl"
    failed = []
    with pristine_inputs() as pristine, path.open("w", encoding="utf-8") as lines:
        for record in run_cases(pristine, numbers, arguments.seed, arguments.workers):
            lines.write(json.dumps(record) + "\n")
            lines.flush()
            if record["problem"]:
                failed.append(record)
    print(f"{len(failed)} of {len(numbers)} cases failed; all outcomes are in {path}")
    print("\n".join(table(failed)))
    return 1 if failed else 0


def table(failed: Iterable[Record]) -> list[str]:
    """A line for each place and problem: how often, and the number of one case."""
    counts: Counter[tuple[str, str]] = Counter()
    examples = {}
    for record in failed:
        place = str(record.get("place") or record["target"])
        key = (place, str(record["problem"])[:100])
        counts[key] += 1
        examples[key] = record["number"]
    return [
        f"{count:>5} {place:<50} {problem} (case {examples[place, problem]})"
        for (place, problem), count in counts.most_common()
    ]


if __name__ == "__main__":
    raise SystemExit(main())
