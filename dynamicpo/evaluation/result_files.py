"""A model's result on disk: `metrics.json` and `ranks.parquet`."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import write_json
from dynamicpo.evaluation.results import EvaluatedRows, GeneratedAnswers, ModelResult
from dynamicpo.metrics.generated_answers import INVALID

_RANKS_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("user_id", pa.string()),
        ("better", pa.int64()),
        ("tied", pa.int64()),
        ("scores", pa.list_(pa.float64())),
        ("target_index", pa.int64()),
        ("num_candidates", pa.int64()),
        ("best", pa.string()),
        ("generated", pa.string()),
        ("valid", pa.bool_()),
    ]
)


def write_result(
    folder: Path, result: ModelResult, answers: GeneratedAnswers | None = None
) -> None:
    """Write the files of a result into a folder, which is made."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "metrics.json", result.metrics)
    nothing = [None] * len(result.scores)
    columns = {
        "example_id": result.rows.example_ids,
        "user_id": result.rows.users,
        "better": result.better,
        "tied": result.tied,
        "scores": list(result.scores),
        "target_index": result.rows.target_index,
        "num_candidates": result.num_candidates,
        "best": result.best,
        "generated": nothing if answers is None else answers.texts,
        "valid": nothing if answers is None else answers.named != INVALID,
    }
    arrays = [pa.array(columns[field.name], field.type) for field in _RANKS_SCHEMA]
    table = pa.Table.from_arrays(arrays, schema=_RANKS_SCHEMA)
    pq.write_table(table, folder / "ranks.parquet", compression="zstd")


def read_result(folder: Path, split: str) -> ModelResult:
    """Read the result of one model of an evaluation.

    Raises:
        DataError: It is missing or can't be read.
    """
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        table = pq.read_table(folder / "ranks.parquet", schema=_RANKS_SCHEMA)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{folder}: must hold metrics.json and ranks.parquet of an evaluation, but {error}. "
            "Evaluate again."
        ) from error
    rows = EvaluatedRows(
        split=split,
        example_ids=table["example_id"].to_pylist(),
        users=table["user_id"].to_pylist(),
        target_index=table["target_index"].to_numpy(),
    )
    # JSON is written with sorted names, which puts @10 before @3.
    names = sorted(metrics, key=_natural_key)
    return ModelResult(
        rows=rows,
        better=table["better"].to_numpy(),
        tied=table["tied"].to_numpy(),
        best=table["best"].to_pylist(),
        num_candidates=table["num_candidates"].to_numpy(),
        scores=np.array(table["scores"].to_pylist(), dtype=np.float64),
        metrics={name: metrics[name] for name in names},
    )


def _natural_key(name: str) -> list[str | int]:
    """A key that sorts the numbers in names as numbers."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if part.isdigit() else part for part in parts]
