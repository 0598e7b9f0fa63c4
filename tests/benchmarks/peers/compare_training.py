"""TRL's DPOTrainer, the published way and ours on the same rows: losses, speed, memory."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import rows as prepared
from tests.benchmarks.peers.environments import environment_python
from tests.benchmarks.peers.processes import Answer, ask, tried
from tests.benchmarks.peers.tables import largest_difference, megabytes, table, verdict

ROWS = 4
STEPS = 4
SETTINGS = {"steps": STEPS, "beta": 0.1, "learning_rate": 1e-3}
# Losses of every step, each of which follows from all steps before it, in float32.
TOLERANCE = 1e-4
Way = dict[str, Any]
TRL: Way = {"way": "TRL DPOTrainer", "loss": "pairs", "precompute": False}
TRL_CACHED: Way = {**TRL, "way": "TRL DPOTrainer, reference precomputed", "precompute": True}
PUBLISHED: Way = {"way": "published", "loss": "pairs"}
OURS: Way = {"way": "ours", "loss": "pairs"}
# At K = 1 the mean over pairs is DPO, and S-DPO equals it.
OF_ONE = [TRL, {**OURS, "loss": "dpo"}, {**OURS, "loss": "sdpo"}]
OF_MANY = [TRL, TRL_CACHED, PUBLISHED, OURS]
WAYS = {1: OF_ONE, 3: OF_MANY, 15: OF_MANY}
SHOWN = {
    "num_negatives": ("K", "d"),
    "way": ("way", "s"),
    "loss": ("loss", "s"),
}
MEASURED = {
    "rows_per_second": ("rows a second", ".2f"),
    "faster": ("TRL's time over its own", ".1f"),
    "peak_bytes": ("peak memory", megabytes),
    "above_start_bytes": ("of it since the model was loaded", megabytes),
}
COMPARED = {
    "last_loss": ("loss of the last step", ".6f"),
    "equal": ("equal to TRL's, every step", "s"),
}
COLUMNS = {**SHOWN, **MEASURED, **COMPARED}


def compare() -> tuple[str, list[dict[str, Any]]]:
    """A table and its lines."""
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        preferences = prepared.prepare(folder)
        model = prepared.write_llama(folder / "llama")
        for num_negatives, ways in WAYS.items():
            rows = prepared.encoded_rows(preferences, model, ROWS, num_negatives)
            plain = [vars(row) for row in rows]
            request = {**SETTINGS, "model": str(model), "rows": plain}
            measured = [_line(num_negatives, way, request) for way in ways]
            lines += against_first(measured)
    return table(lines, COLUMNS), lines


def _line(num_negatives: int, way: Way, request: dict[str, Any]) -> dict[str, Any]:
    line = {"num_negatives": num_negatives, **way}
    whole = {**request, **way}
    line = tried(line, lambda: _measured(whole))
    print(f"K {num_negatives}, {way['way']}, {way['loss']}: done", flush=True)
    return line


def _measured(request: dict[str, Any]) -> Answer:
    if request["way"].startswith("TRL"):
        answer = ask("trl_dpo", request, environment_python("trl"))
    else:
        answer = ask("our_training", request)
    rows_seen = len(request["rows"]) * request["steps"]
    losses = answer["losses"]
    return {
        **answer,
        "rows_per_second": rows_seen / answer["seconds"],
        "above_start_bytes": answer["peak_bytes"] - answer["start_bytes"],
        "last_loss": losses[-1],
    }


def against_first(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of one K with what they are compared to the first one, where both have run."""
    first, *others = lines
    if "error" in first:
        return list(lines)
    compared = [first]
    for line in others:
        compared.append(line if "error" in line else _against(line, first))
    return compared


def _against(line: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    difference = largest_difference(line["losses"], first["losses"])
    return {
        **line,
        "faster": first["seconds"] / line["seconds"],
        "equal": verdict(difference, TOLERANCE),
    }
