"""Steps a second of one process and of several, with the same batch.

Run `python -m tests.benchmarks.processes [--processes 1 2] [--rounds 3] [--steps 60]`.

Each is a whole training of its own, of the compact backbone on all tokens of rows of 10 items, by
the command; the time is that of its steps alone, from its log. Processes share the cores of this
machine, each with one thread.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from dynamicpo.core.config import DataConfig, NegativesConfig
from dynamicpo.data.prepare import prepare_data
from dynamicpo.negatives.sampling import sample_negatives
from tests.fixtures.tables import write_tables

REPORT = Path("build/benchmarks/processes.json")
STEPS = re.compile(r"SFT: (\d+) steps in ([\d.]+) s")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Steps a second of several processes")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="repeats of every measure")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=256)
    options = parser.parse_args(argv)
    rates: dict[int, list[float]] = {number: [] for number in options.processes}
    with tempfile.TemporaryDirectory() as folder:
        preferences = make_rows(Path(folder))
        # In turns: a machine that others use is slower at some times than at others.
        for turn in range(options.rounds):
            for number in options.processes:
                output = Path(folder) / f"{number}-{turn}"
                rate = steps_a_second(preferences, output, number, options)
                rates[number].append(rate)
    lines = []
    for number, measured in rates.items():
        median = statistics.median(measured)
        lines.append({"processes": number, "steps_a_second": median, "rounds": measured})
        print(f"{number} processes: {median:6.2f} steps a second")
    report = {"batch_size": options.batch_size, "cores": os.cpu_count(), "lines": lines}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def make_rows(folder: Path) -> Path:
    interactions, items = write_tables(folder)
    prepare_data(interactions, items, folder / "examples", DataConfig())
    sample_negatives(folder / "examples", folder / "preferences", NegativesConfig(num_candidates=6))
    return folder / "preferences"


def steps_a_second(
    preferences: Path, output: Path, number: int, options: argparse.Namespace
) -> float:
    flags = {
        "preferences": preferences,
        "output": output,
        "num-processes": number,
        "max-steps": options.steps,
        "batch-size": options.batch_size,
        "loss-on": "history",
        "checkpoints": "none",
    }
    command = [sys.executable, "-m", "dynamicpo", "sft"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = STEPS.search(log.stderr)
    assert found is not None, log.stderr
    return int(found[1]) / float(found[2])


if __name__ == "__main__":
    raise SystemExit(main())
