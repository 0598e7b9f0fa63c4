"""A model's result on disk: `metrics.json` and `ranks.parquet`."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import is_number
from dynamicpo.core.records.manifest import write_json
from dynamicpo.core.records.rows import read_columns, write_columns
from dynamicpo.evaluation.results import (
    COMPARED_METRIC,
    EvaluatedRows,
    GeneratedAnswers,
    ModelResult,
)
from dynamicpo.evaluation.rows import CATALOGUE, PROPOSED
from dynamicpo.metrics.generated_answers import INVALID

# Rankings beside those of lists, one of them at most: folders in a model's folder.
BESIDE = (CATALOGUE, PROPOSED)
# An array of this length is made for the chart of ranks.
_MOST_CANDIDATES = 10_000_000
_STRING = pa.string()
_INTEGER = pa.int64()
_SCORES = pa.list_(pa.float64())
_BOOLEAN = pa.bool_()
_RANKS_SCHEMA = pa.schema(
    {
        "example_id": _STRING,
        "user_id": _STRING,
        "better": _INTEGER,
        "tied": _INTEGER,
        "scores": _SCORES,
        "target_index": _INTEGER,
        "num_candidates": _INTEGER,
        "best": _STRING,
        "generated": _STRING,
        "valid": _BOOLEAN,
    }
)


def write_result(
    folder: Path, result: ModelResult, answers: GeneratedAnswers | None = None
) -> None:
    """Write the files of a result into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", result.metrics)
    rows = result.rows
    scores = list(result.scores)
    columns: dict[str, object] = {
        "example_id": rows.example_ids,
        "user_id": rows.users,
        "target_index": rows.target_index,
    }
    columns |= {
        "better": result.better,
        "tied": result.tied,
        "scores": scores,
        "num_candidates": result.num_candidates,
        "best": result.best,
    }
    # Null where nothing was generated.
    nothing = [None] * len(scores)
    columns["generated"] = nothing
    columns["valid"] = nothing
    if answers is not None:
        columns["generated"] = answers.texts
        columns["valid"] = answers.named != INVALID
    in_order = [columns[name] for name in _RANKS_SCHEMA.names]
    write_columns(folder / "ranks.parquet", _RANKS_SCHEMA, in_order)


def comparisons_file(kind: str) -> str:
    """The name of the file with paired differences of rankings beside those of lists."""
    return f"{kind}_comparisons.json"


def read_result(folder: Path, split: str) -> ModelResult:
    """Read the result of one model of an evaluation.

    Raises:
        DataError: It is missing or can't be read.
    """
    try:
        metrics_text = (folder / "metrics.json").read_text(encoding="utf-8")
        metrics = json.loads(metrics_text)
        _check_metrics(metrics, f"{split}_{COMPARED_METRIC}")
    # A RecursionError: brackets within brackets, thousands of them.
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"{folder}: must hold metrics.json and ranks.parquet of an evaluation, but {error}. "
            "Evaluate again."
        ) from error
    table = read_columns(folder / "ranks.parquet", _RANKS_SCHEMA, nullable=("generated", "valid"))
    _check_ranks(folder / "ranks.parquet", table)
    rows = EvaluatedRows(
        split=split,
        example_ids=table["example_id"].to_pylist(),
        users=table["user_id"].to_pylist(),
        target_index=table["target_index"].to_numpy(),
    )
    # JSON is written with sorted names, which puts @10 before @3.
    names = sorted(metrics, key=_natural_key)
    sorted_metrics = {name: metrics[name] for name in names}
    better = table["better"].to_numpy()
    tied = table["tied"].to_numpy()
    best = table["best"].to_pylist()
    num_candidates = table["num_candidates"].to_numpy()
    score_lists = table["scores"].to_pylist()
    return ModelResult(
        rows=rows,
        better=better,
        tied=tied,
        best=best,
        num_candidates=num_candidates,
        scores=np.array(score_lists, dtype=np.float64),
        metrics=sorted_metrics,
    )


def _check_ranks(path: Path, table: pa.Table) -> None:
    """Refuse ranks that no ranking gives: they index arrays.

    Raises:
        DataError: There is no row, or one that can't be.
    """
    better = table["better"].to_numpy()
    tied = table["tied"].to_numpy()
    num_candidates = table["num_candidates"].to_numpy()
    lengths = pc.list_value_length(table["scores"]).unique()
    is_possible = (better >= 0) & (tied >= 0) & (num_candidates <= _MOST_CANDIDATES)
    # Not the sum of both, which may be too large for their type.
    is_possible &= better < num_candidates - tied
    if len(table) and is_possible.all() and len(lengths) == 1:
        return
    raise DataError(
        f"{path}: must hold the ranks of rows, but they are none that a ranking gives. "
        "Evaluate again."
    )


def _check_metrics(metrics: object, needed: str) -> None:
    if not isinstance(metrics, dict):
        raise TypeError("metrics.json holds no mapping")
    if needed not in metrics:
        raise TypeError(f"metrics.json has no {needed}")
    for name, value in metrics.items():
        # Null: a metric of nothing, such as the mean over no rows.
        if not is_number(value) and value is not None:
            raise TypeError(f"the metric {name} is no number")


def _natural_key(name: str) -> list[str | int]:
    """A key that sorts the numbers in names as numbers."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if part.isdigit() else part for part in parts]
