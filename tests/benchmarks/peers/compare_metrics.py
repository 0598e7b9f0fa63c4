"""The ranking metrics of ranx, RecTools and ours: equal values, seconds."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dynamicpo.core.records.rows import read_items, read_rows
from tests.benchmarks.peers import rows as prepared
from tests.benchmarks.peers.environments import environment_python
from tests.benchmarks.peers.processes import Answer, ask, tried
from tests.benchmarks.peers.tables import largest_difference, megabytes, table, verdict

TOLERANCE = 1e-9
# The module of each, and its environment; None: the project's.
WAYS = {
    "ours": ("our_metrics", None),
    "ranx": ("ranx_metrics", None),
    "RecTools": ("rectools_metrics", "rectools"),
}
COLUMNS = {
    "way": ("metrics of", "s"),
    "hit_ratio_at_1": ("HitRatio@1", ".6f"),
    "ndcg_at_5": ("NDCG@5", ".6f"),
    "mrr": ("MRR", ".6f"),
    "equal": ("all seven equal to ours", "s"),
    "first_seconds": ("processor seconds, first call", ".3f"),
    "seconds": ("second call", ".3f"),
    "peak_bytes": ("peak memory", megabytes),
}


def compare() -> tuple[str, list[dict[str, Any]]]:
    """A table and its lines."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        request = write_scores(prepared.prepare(folder), folder)
        lines = [_line(way, request) for way in WAYS]
    lines = against_ours(lines)
    return table(lines, COLUMNS), lines


def write_scores(preferences: Path, folder: Path) -> dict[str, str]:
    """Scores of the test rows' candidates: popularity, and chance so that none are tied.

    Each library has a rule of its own for ties.
    """
    items = read_items(preferences)
    test = prepared.ranked_rows(read_rows(preferences, "test"), items)
    popularity = items["popularity"].to_numpy(np.float64)
    of_candidates = popularity[test.candidates]
    chance = np.random.default_rng(0)
    arrays = {
        "scores": of_candidates + chance.random(of_candidates.shape),
        "targets": test.target_index,
    }
    paths = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        np.save(path, array)
        paths[name] = str(path)
    return paths


def _line(way: str, request: dict[str, str]) -> dict[str, Any]:
    module, environment = WAYS[way]

    def measured() -> Answer:
        python = environment_python(environment) if environment else None
        answer = ask(module, request, python)
        return {**answer, **answer["values"]}

    line = tried({"way": way}, measured)
    print(f"metrics, {way}: done", flush=True)
    return line


def against_ours(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines with whether all values are those of the first line, which is ours."""
    first, *others = lines
    if "error" in first:
        return lines
    names = sorted(first["values"])
    ours = _values(first, names)
    compared = [first]
    for line in others:
        if "error" in line:
            compared.append(line)
            continue
        theirs = _values(line, names)
        difference = largest_difference(ours, theirs)
        compared.append({**line, "equal": verdict(difference, TOLERANCE)})
    return compared


def _values(line: dict[str, Any], names: list[str]) -> list[float]:
    values = line["values"]
    return [values[name] for name in names]
