"""What a card found, as pages and as tables for docs/results.md:
`python -m tests.gpu.report [--results DIR] [--output DIR]`.

It reads `results.json` of the check and the pieces of `study.tar.gz` of the study, either of which
may be absent, and runs where the packages are: no card is needed.
"""

import argparse
import json
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynamicpo.core.config import StudyConfig
from dynamicpo.evaluation.saved import SavedResult, read_saved_result, read_sources
from dynamicpo.metrics.intervals import clustered_interval
from dynamicpo.reports.number_format import format_interval, format_number
from dynamicpo.study.judge import judge_collapse
from tests.gpu.study import ARMS, DATA_SETS, Cell

BASELINES = ("popularity", "cooccurrence", "sasrec", "sft")
NOTHING = "–"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown: the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *lines)]


# The check.


def speed_lines(results: dict[str, Any]) -> list[str]:
    """Rows a second, memory and the price of DynamicPO, a line for each shape that was measured."""
    head = (
        "shape",
        "unique tokens a step",
        "rows a second",
        "published",
        "with reference",
        "peak memory",
        "share of the rate of its products",
        "step without and with DynamicPO",
        "selection, share of a step",
        "largest K (published)",
    )
    parts = [part for name, part in results.items() if name.startswith("speed-")]
    return table(head, [speed_cells(part) for part in parts if part.get("ours")])


def speed_cells(part: dict[str, Any]) -> list[str]:
    """A shape's figures; what a time limit left out is a dash."""
    best = max(part["ours"], key=lambda line: line.get("rows_per_second", 0.0))
    products = part.get("products", {})
    dynamicpo = part.get("dynamicpo", {})
    largest = part.get("largest_k", {})
    return [
        part["shape"],
        f"{products['tokens']:,}" if products else NOTHING,
        format_number(best["rows_per_second"]),
        times_slower(part, "faster_than_published"),
        times_slower(part, "faster_than_published_with_reference"),
        f"{best['peak_gigabytes']:.0f} GB",
        f"{products['share_of_step']:.0%}" if products else NOTHING,
        added_seconds(dynamicpo) if dynamicpo else NOTHING,
        f"{dynamicpo['selection_share']:.2%}" if dynamicpo else NOTHING,
        f"{fitting(largest, 'ours')} ({fitting(largest, 'published')})",
    ]


def fitting(largest: dict[str, int], way: str) -> str:
    """The largest K of a way; "at least" where time ended before memory did."""
    if not largest.get(way):
        return NOTHING
    number = f"{largest[way]:,}"
    return number if f"{way}_is_limit" in largest else f"at least {number}"


def times_slower(part: dict[str, Any], name: str) -> str:
    return f"{part[name]:.1f} times slower" if name in part else NOTHING


def added_seconds(dynamicpo: dict[str, float]) -> str:
    without = 1000 * dynamicpo["step_seconds_without"]
    added = 100 * dynamicpo["added"]
    return f"{without:.0f} ms, {added:+.2f} %".replace("-", "−")


def check_section(path: Path) -> list[str]:
    """The machine, which parts failed, and the table of speed."""
    results = json.loads(path.read_text(encoding="utf-8"))
    machine = results["machine"]
    parts = {name: part for name, part in results.items() if isinstance(part, dict)}
    failed = [name for name, part in parts.items() if not part.get("passed", True)]
    versions = f"PyTorch {machine['torch']}, transformers {machine['transformers']}"
    return [
        "## Check",
        "",
        f"{machine['card']}, {versions}, Python {machine['python']}, {results['seconds']:.0f} s. "
        f"Failed or cut off by its time limit: {', '.join(failed) or 'nothing'}.",
        "",
        *speed_lines(results),
    ]


# The study.


def unpack(pieces: Sequence[Path], folder: Path) -> None:
    joined = folder / "study.tar.gz"
    joined.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    with tarfile.open(joined) as tar:
        tar.extractall(folder, filter="data")
    joined.unlink()


def finished_cells(folder: Path) -> list[tuple[Cell, dict[str, Any]]]:
    """The cells of a data set whose evaluation was finished, with their reports."""
    fields = Cell.__dataclass_fields__
    cells = []
    for path in sorted(folder.glob("cells/*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        cell = Cell(**{name: report[name] for name in fields})
        cells.append((cell, report))
    return cells


def whole_seeds(cells: Sequence[Cell]) -> list[int]:
    """The seeds that every arm has at every K, since cells are compared seed by seed."""
    kinds = {(cell.loss, cell.dynamic, cell.num_negatives) for cell in cells}
    seeds = {cell.seed for cell in cells}
    found = {(cell.loss, cell.dynamic, cell.num_negatives, cell.seed) for cell in cells}
    return sorted(seed for seed in seeds if all((*kind, seed) in found for kind in kinds))


def study_section(folder: Path, output: Path) -> list[str]:
    """A data set: its page, its table and the verdict in words."""
    data = folder.name
    lines = [f"## {data}", ""]
    reports = finished_cells(folder)
    seeds = whole_seeds([cell for cell, _ in reports])
    if not seeds or not (folder / "baselines" / "manifest.json").is_file():
        return [*lines, f"No seed is whole yet: {len(reports)} cells are finished.", ""]
    kept = [(cell, report) for cell, report in reports if cell.seed in seeds]
    paths = [folder / "cells" / cell.name for cell, _ in kept]
    page = output / data
    judge_collapse(folder / "baselines", paths, page, StudyConfig())
    verdict = json.loads((page / "study.json").read_text(encoding="utf-8"))["sentences"]
    numbers = sorted({cell.num_negatives for cell, _ in kept})
    head = ("HitRatio@1", *[f"K = {number}" for number in numbers], "ValidRatio", "published lists")
    rows = [*baseline_cells(folder, len(numbers)), *arm_cells(folder, kept, numbers)]
    return [
        *lines,
        f"{len(seeds)} seeds, [page]({data}/report.html).",
        "",
        *table(head, rows),
        "",
        *[line for sentence in verdict for line in (sentence, "")],
    ]


def baseline_cells(folder: Path, num_columns: int) -> list[list[str]]:
    """What does not depend on K: in the first column of numbers."""
    path = folder / "baselines"
    (source,) = read_sources([path], "report")
    rows = []
    for name in BASELINES:
        if (path / name).is_dir():
            hits = hit_ratio([read_saved_result(path / name, source)])
            generated = read_metric(folder / "generated" / "sft" / name, "test_valid_ratio")
            published = read_metric(folder / "published" / "sft" / name, "test_hit_ratio_at_1")
            rows.append([name, hits, *[NOTHING] * (num_columns - 1), generated, published])
    return rows


def arm_cells(
    folder: Path, cells: Sequence[tuple[Cell, dict[str, Any]]], numbers: Sequence[int]
) -> list[list[str]]:
    """A line for each arm, means over seeds; the last two columns at the most negatives."""
    rows = []
    for loss, dynamic in ARMS:
        arm = [(c, report) for c, report in cells if (c.loss, c.dynamic) == (loss, dynamic)]
        if not arm:
            continue
        columns = []
        for number in numbers:
            same = [cell for cell, _ in arm if cell.num_negatives == number]
            columns.append(hit_ratio([read_cell(folder, cell) for cell in same]))
        _, last = max(arm, key=lambda entry: (entry[0].num_negatives, -entry[0].seed))
        name = f"{'DynamicPO-' if dynamic else ''}{loss}"
        extras = [as_number(last.get(key)) for key in ("valid_ratio", "published_hit_ratio_at_1")]
        rows.append([name, *columns, *extras])
    return rows


def read_cell(folder: Path, cell: Cell) -> SavedResult:
    path = folder / "cells" / cell.name
    (source,) = read_sources([path], "report")
    return read_saved_result(path / cell.name, source)


def hit_ratio(results: Sequence[SavedResult]) -> str:
    """The mean over seeds, with an interval that resamples users."""
    hits = np.mean([entry.result.hits for entry in results], axis=0)
    interval = clustered_interval(hits, results[0].result.rows.users)
    text = format_number(float(hits.mean()))
    if interval.low is None or interval.high is None:
        return text
    return f"{text} {format_interval(interval.low, interval.high)}"


def read_metric(folder: Path, name: str) -> str:
    path = folder / "metrics.json"
    if not path.is_file():
        return NOTHING
    return as_number(json.loads(path.read_text(encoding="utf-8")).get(name))


def as_number(value: float | None) -> str:
    return NOTHING if value is None else format_number(value)


def make_report(results: Path, output: Path) -> str:
    """The report in Markdown, with a page for each data set beside it."""
    lines = ["# On a GPU", ""]
    if (results / "results.json").is_file():
        lines += [*check_section(results / "results.json"), ""]
    pieces = sorted(results.glob("study.tar.gz.*"))
    if pieces:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            unpack(pieces, folder)
            for data in DATA_SETS:
                if (folder / data).is_dir():
                    lines += study_section(folder / data, output)
    return "\n".join(lines).rstrip() + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--results", type=Path, default=Path("build/gpu/results"))
    parser.add_argument("--output", type=Path, default=Path("build/gpu/report"))
    options = parser.parse_args(argv)
    text = make_report(options.results, options.output)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "report.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
