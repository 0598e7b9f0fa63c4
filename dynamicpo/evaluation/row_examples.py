"""Single rows that the best model of a comparison wins and loses by most."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import EXAMPLES, read_columns, read_items
from dynamicpo.evaluation.results import COMPARED_METRIC, ModelResult
from dynamicpo.reports.pages.example_rows import ExampleRow, Outcome

_ROWS_SCHEMA = pa.schema([EXAMPLES.field(name) for name in ("example_id", "history", "target")])
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

    Raises:
        DataError: Its rows or items can't be read, or do not fit the results.
    """
    opponents = _opponents(results, models, paired_runs)
    if opponents is None:
        return []
    a, b = opponents
    result_a = results[a]
    result_b = results[b]
    chosen = _most_won_and_lost(result_a, result_b)
    table = read_columns(folder / "rows.parquet", _ROWS_SCHEMA)
    items = read_items(folder)
    titles = dict(zip(items["item_id"], items["title"], strict=True))
    _check_rows(folder, table, titles, (result_a, result_b))
    examples = []
    for outcome, row in chosen:
        example = _example(outcome, row, opponents, results, table, titles)
        examples.append(example)
    return examples


def _check_rows(
    folder: Path, table: pa.Table, titles: Mapping[str, str], results: Sequence[ModelResult]
) -> None:
    """Check that an evaluation's rows, items and ranks belong together.

    Raises:
        DataError: There are more rows in one than in another, or items that have no title.
    """
    named = {*table["target"].to_pylist(), *pc.list_flatten(table["history"]).to_pylist()}
    for result in results:
        named.update(result.best)
    lengths = {len(table), *(len(result.best) for result in results)}
    if len(lengths) > 1 or not named <= titles.keys():
        raise DataError(
            f"{folder}: must hold rows, items and ranks of one evaluation, but they do not fit "
            "each other. Evaluate again."
        )


def _most_won_and_lost(result_a: ModelResult, result_b: ModelResult) -> list[tuple[Outcome, int]]:
    """The rows whose target a ranks higher than b by most, then those it ranks lower by most."""
    rank_gains = result_b.mean_rank - result_a.mean_rank
    # Stable, so that equal gains give the same rows everywhere.
    order = rank_gains.argsort(kind="stable")
    ascending = order.tolist()
    descending = ascending[::-1]
    chosen: list[tuple[Outcome, int]] = []
    for row in descending[:_MAX_EXAMPLES]:
        if rank_gains[row] > 0:
            chosen.append(("won", row))
    for row in ascending[:_MAX_EXAMPLES]:
        if rank_gains[row] < 0:
            chosen.append(("lost", row))
    return chosen


def _example(
    outcome: Outcome,
    row: int,
    opponents: tuple[str, str],
    results: Mapping[str, ModelResult],
    table: pa.Table,
    titles: Mapping[str, str],
) -> ExampleRow:
    a, b = opponents
    result_a = results[a]
    result_b = results[b]
    (columns,) = table.slice(row, 1).to_pylist()
    history = [titles[item] for item in columns["history"]]
    target = columns["target"]
    best_a = result_a.best[row]
    best_b = result_b.best[row]
    rank_a = float(result_a.mean_rank[row])
    rank_b = float(result_b.mean_rank[row])
    return {
        "a": a,
        "b": b,
        "outcome": outcome,
        "example_id": columns["example_id"],
        "history": history,
        "target": titles[target],
        "rank_a": rank_a,
        "rank_b": rank_b,
        "top_a": titles[best_a],
        "top_b": titles[best_b],
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
