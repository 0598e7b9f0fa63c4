"""Single rows that the best model of a comparison wins and loses by most."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dynamicpo.core.records.rows import read_items
from dynamicpo.evaluation.results import COMPARED_METRIC, ModelResult
from dynamicpo.reports.pages.example_rows import ExampleRow, Outcome

_MAX_EXAMPLES = 5  # rows won, and as many lost, that the page shows


def example_rows(
    results: Mapping[str, ModelResult],
    models: Sequence[str],
    paired_runs: Sequence[tuple[str, str]],
    folder: Path,
) -> list[ExampleRow]:
    """Choose the rows that the best model wins and loses by most against another.

    Args:
        results: Results by name.
        models: The names of the models among them.
        paired_runs: Models of one name from two runs: the later one, then the earlier.
        folder: An evaluation of these rows.
    """
    opponents = _opponents(results, models, paired_runs)
    if opponents is None:
        return []
    a, b = opponents
    rank_gains = results[b].mean_rank - results[a].mean_rank
    order = rank_gains.argsort(kind="stable")
    most_lost = order[:_MAX_EXAMPLES]
    most_won = order[::-1][:_MAX_EXAMPLES]
    chosen: list[tuple[Outcome, int]] = [("won", row) for row in most_won if rank_gains[row] > 0]
    chosen += [("lost", row) for row in most_lost if rank_gains[row] < 0]
    table = pq.read_table(folder / "rows.parquet")
    items = read_items(folder)
    titles = dict(zip(items["item_id"], items["title"], strict=True))
    return [
        _example(outcome, int(row), opponents, results, table, titles) for outcome, row in chosen
    ]


def _example(
    outcome: Outcome,
    row: int,
    opponents: tuple[str, str],
    results: Mapping[str, ModelResult],
    table: pa.Table,
    titles: Mapping[str, str],
) -> ExampleRow:
    a, b = opponents
    columns = table.slice(row, 1).to_pylist()[0]
    return {
        "a": a,
        "b": b,
        "outcome": outcome,
        "example_id": columns["example_id"],
        "history": [titles[item] for item in columns["history"]],
        "target": titles[columns["target"]],
        "rank_a": float(results[a].mean_rank[row]),
        "rank_b": float(results[b].mean_rank[row]),
        "top_a": titles[results[a].best[row]],
        "top_b": titles[results[b].best[row]],
    }


def _opponents(
    results: Mapping[str, ModelResult],
    models: Sequence[str],
    paired_runs: Sequence[tuple[str, str]],
) -> tuple[str, str] | None:
    """The best model, and its like of another run, or SFT, or the first, whose rows it wins."""

    def hit_ratio(name: str) -> float:
        return results[name].metric(COMPARED_METRIC) or 0

    if not models:
        return None
    best = max(models, key=hit_ratio)
    for later, earlier in paired_runs:
        if best == later:
            return best, earlier
        if best == earlier:
            return best, later
    reference = "sft" if "sft" in models else models[0]
    others = [name for name in models if name != reference]
    if not others:
        return None
    return max(others, key=hit_ratio), reference
