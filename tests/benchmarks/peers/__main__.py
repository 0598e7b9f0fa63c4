"""Peers on the same rows: what people would use in place of this project.

Run `python -m tests.benchmarks.peers [trl] [recbole] [metrics]`; without a name it runs all.

- trl: TRL's DPOTrainer fed a pair for each negative, the published way and ours.
- recbole: RecBole's SASRec and ours, on the same rows and split.
- metrics: the ranking metrics of ranx, RecTools and ours.

Environments are made under `build/peers` where they are missing, and each peer has a process of its
own with one thread. What can't be installed or run is a line with its error.
"""

import argparse
import importlib
import json
import platform
from importlib import metadata

from tests.conftest import ROOT

COMPARISONS = {
    "trl": "compare_training",
    "recbole": "compare_sasrec",
    "metrics": "compare_metrics",
}
REPORTS = ROOT / "build" / "benchmarks"
VERSIONS = ("torch", "transformers", "numpy", "pandas", "ranx")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.peers", description="Peers on the same rows"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(COMPARISONS)}")
    names = parser.parse_args(argv).names or list(COMPARISONS)
    if unknown := sorted({*names} - {*COMPARISONS}):
        parser.error(f"unknown {', '.join(unknown)}; choose from {', '.join(COMPARISONS)}")
    REPORTS.mkdir(parents=True, exist_ok=True)
    versions = {name: metadata.version(name) for name in VERSIONS}
    for name in names:
        module = importlib.import_module(f"tests.benchmarks.peers.{COMPARISONS[name]}")
        text, lines = module.compare()
        print(f"\n{text}\n", flush=True)
        report = {"python": platform.python_version(), "versions": versions, "lines": lines}
        path = REPORTS / f"peers-{name}.json"
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
