"""What only a card can decide, within four minutes:
`python -m tests.gpu.check [--tiny] [--output DIR]`.

Each part runs in a process of its own under its own time limit and fails alone; what a part has
printed and found stands in `results.json`, with the card's name.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Part -> seconds. The first three are bound by the processor and run side by side.
LIMITS = {
    "exactness": 100,
    "stages": 110,
    "survival": 110,
    "speed-smollm2-135m": 50,
    "speed-llama-2-7b": 75,
}
SIDE_BY_SIDE = ("exactness", "stages", "survival")


def run_part(name: str, tiny: bool, path: Path) -> dict[str, Any]:
    """A part, in this process."""
    if name == "exactness":
        from tests.gpu import exactness

        return exactness.run(tiny)
    if name == "stages":
        from tests.gpu import stages

        return stages.run("tiny" if tiny else "smollm2-135m")
    if name == "survival":
        from tests.gpu import survival

        return survival.run()
    from tests.gpu import speed

    shape = name.removeprefix("speed-")

    def save(report: dict[str, Any]) -> None:
        path.write_text(json.dumps({**report, "passed": False}, indent=1), encoding="utf-8")

    if tiny:
        return speed.run("tiny", 5.0, [512, 1024], save)
    # A 7B model's activations of 16,384 tokens may not fit any more.
    tokens = [8192, 12288, 16384] if shape == "llama-2-7b" else [8192, 16384, 32768, 65536]
    return speed.run(shape, 0.8 * LIMITS[name], tokens, save)


def start(name: str, output: Path, tiny: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.gpu.check", "--part", name, "--output", str(output)]
    if tiny:
        command.append("--tiny")
    log = (output / f"{name}.log").open("wb")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def finish(name: str, process: subprocess.Popen[bytes], deadline: float, output: Path) -> None:
    """Wait for a part until its time is up, and print the end of what it printed."""
    state = "done"
    try:
        if process.wait(max(1.0, deadline - time.monotonic())):
            state = f"exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        state = "stopped at its time limit"
    print(f"== {name}: {state}")
    lines = (output / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
    print("\n".join(line[:300] for line in lines[-25:]), flush=True)
    path = output / f"{name}.json"
    if not path.is_file():
        path.write_text(json.dumps({"passed": False, "error": state}), encoding="utf-8")


def read_part(name: str, parts: Path) -> dict[str, Any]:
    """The report of a part with the end of its log."""
    report: dict[str, Any] = json.loads((parts / f"{name}.json").read_text(encoding="utf-8"))
    lines = (parts / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return {**report, "log": [line[:300] for line in lines[-60:]]}


def machine() -> dict[str, Any]:
    """The card and the versions that the figures belong to."""
    import torch
    import transformers

    return {
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument(
        "--tiny", action="store_true", help="tiny sizes, for machines without a card"
    )
    parser.add_argument("--output", type=Path, default=Path("build/gpu/results"))
    parser.add_argument("--part", choices=LIMITS, help="one part, in this process")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS))
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.part:
        path = options.output / f"{options.part}.json"
        report = run_part(options.part, options.tiny, path)
        path.write_text(json.dumps(report, indent=1), encoding="utf-8")
        return 0
    scale = 4 if options.tiny else 1
    early = [name for name in options.parts if name in SIDE_BY_SIDE]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        parts = Path(scratch)
        processes = {name: start(name, parts, options.tiny) for name in early}
        for name, process in processes.items():
            finish(name, process, began + scale * LIMITS[name], parts)
        for name in options.parts:
            if name not in early:
                deadline = time.monotonic() + scale * LIMITS[name]
                finish(name, start(name, parts, options.tiny), deadline, parts)
        results = {name: read_part(name, parts) for name in options.parts}
    results["machine"] = machine()
    results["seconds"] = time.monotonic() - began
    path = options.output / "results.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    failed = [name for name in options.parts if not results[name].get("passed", True)]
    print(f"{path}: {results['machine']}, {results['seconds']:.0f} s, failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
