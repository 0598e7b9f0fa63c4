"""What an evaluation leaves of each model: its metrics and where it ranks each row's target; and paired differences."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dynamicpo.core.choices import BASELINES
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import write_json
from dynamicpo.evaluation.rankings import Ranking
from dynamicpo.metrics.beyond_accuracy import beyond_accuracy
from dynamicpo.metrics.generated_answers import INVALID, answer_metrics
from dynamicpo.metrics.intervals import clustered_intervals, holm, paired_difference
from dynamicpo.metrics.ranking import KS, row_metrics
from dynamicpo.reports.pages.comparisons import PairedComparison

COMPARED = "hit_ratio_at_1"
RANKS = pa.schema(
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
Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Rows:
    """The rows that are evaluated.

    Attributes:
        split: Their split.
        example_ids: Shape (N,).
        users: Shape (N,).
        target_index: The target's place among the candidates, or where every item is ranked in the items table.
            Shape (N,).
    """

    split: str
    example_ids: Sequence[str]
    users: Sequence[str]
    target_index: NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """What a model generated for each row.

    Attributes:
        texts: The answers.
        named: The place of the candidate that an answer names, -1 for none or several. Shape (N,).
        substring: The same by the published rule. Shape (N,).
    """

    texts: Sequence[str]
    named: NDArray[np.int64]
    substring: NDArray[np.int64]


@dataclass(frozen=True)
class Result:
    """How a model ranks the rows.

    Attributes:
        rows: The rows.
        better: Candidates with a higher score than the target. Shape (N,).
        tied: Other candidates with the same score. Shape (N,).
        best: The item that each row is recommended. Shape (N,).
        num_candidates: Shape (N,).
        scores: As in `Ranking`.
        metrics: Flat metrics, such as `test_hit_ratio_at_1` with `_low` and `_high` (None where there is no interval).
    """

    rows: Rows
    better: NDArray[np.int64]
    tied: NDArray[np.int64]
    best: Sequence[str]
    num_candidates: NDArray[np.int64]
    scores: NDArray[np.float64]
    metrics: Metrics

    @property
    def mean_rank(self) -> NDArray[np.float64]:
        """The target's rank, the mean over ties. Shape (N,)."""
        return np.asarray(1 + self.better + self.tied / 2)

    def rank_counts(self) -> list[float]:
        """How many rows have their target at rank 1, 2, ..., shared where ties leave several."""
        steps, share = np.zeros(self.num_candidates.max() + 1), 1 / (self.tied + 1)
        np.add.at(steps, self.better, share)
        np.add.at(steps, self.better + self.tied + 1, -share)
        return [float(value) for value in np.cumsum(steps)[:-1]]


def make_result(
    rows: Rows,
    ranking: Ranking,
    catalogue: tuple[Sequence[str], NDArray[np.int64]],
    resamples: int,
    seed: int,
    answers: Answers | None = None,
) -> Result:
    """Metrics of a ranking, with 95 % intervals clustered by user.

    Args:
        rows: The rows.
        ranking: Of their targets.
        catalogue: The id of every item, and its popularity in training. Shape (I,) each.
        resamples: Bootstrap resamples of users.
        seed: Seed of the bootstrap.
        answers: What the model generated, where it did.
    """
    least = int(ranking.num_candidates.min())
    values = row_metrics(ranking.better, ranking.tied, least, [k for k in KS if k <= least])
    others = dict(beyond_accuracy(ranking.best, catalogue[1]))
    if answers is not None:
        values |= _answer_values(answers, rows.target_index)
        others |= answer_metrics(answers.named, rows.target_index)
        others |= answer_metrics(answers.substring, rows.target_index, "_substring")
    flat: Metrics = {}
    for name, (low, high) in clustered_intervals(values, rows.users, resamples, seed).items():
        flat |= {name: float(values[name].mean()), f"{name}_low": low, f"{name}_high": high}
    flat |= {name: value for name, value in others.items() if name not in flat}
    flat |= {
        "rows": len(ranking.better),
        "users": len({*rows.users}),
        "nan_scores": ranking.num_nan,
    }
    best = [catalogue[0][place] for place in ranking.best]
    metrics = {f"{rows.split}_{name}": value for name, value in flat.items()}
    return Result(
        rows, ranking.better, ranking.tied, best, ranking.num_candidates, ranking.scores, metrics
    )


def _answer_values(
    answers: Answers, target_index: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Those of `answer_metrics` that are means over all rows, row by row."""
    values = {}
    for named, suffix in ((answers.named, ""), (answers.substring, "_substring")):
        values[f"valid_ratio{suffix}"] = (named != INVALID).astype(float)
        values[f"generated_hit_ratio_at_1{suffix}"] = (named == target_index).astype(float)
    return values


def paired(
    results: Mapping[str, Result],
    models: Sequence[str],
    resamples: int,
    seed: int,
    also: Sequence[tuple[str, str]] = (),
) -> list[PairedComparison]:
    """Differences of every model against the first, `sft` and the baselines but chance, on the same rows.

    Args:
        results: Results of models and baselines by name.
        models: The names of the models among them, in order.
        resamples: Bootstrap resamples of users; at least 100 for each comparison are taken, else no corrected p could
            be small (p is never below 2 / (resamples + 1)).
        seed: Seed of the bootstrap.
        also: Other pairs of models, which come first.

    Returns:
        The comparisons; `p_holm` is corrected for all of them.
    """
    against = dict.fromkeys(
        [*models[:1], *(name for name in ("sft", *BASELINES[1:]) if name in results)]
    )
    pairs = {frozenset((a, b)): (a, b) for b in against for a in models if a != b}
    first = {frozenset(pair): pair for pair in also}
    pairs = {**first, **{key: pair for key, pair in pairs.items() if key not in first}}
    resamples = max(resamples, 100 * len(pairs))
    entries = [_difference(a, b, results, resamples, seed) for a, b in pairs.values()]
    known = [entry for entry in entries if entry["p"] is not None]
    for entry, p in zip(known, holm([float(entry["p"] or 0) for entry in known]), strict=True):
        entry["p_holm"] = p
    return entries


def _difference(
    a: str, b: str, results: Mapping[str, Result], resamples: int, seed: int
) -> PairedComparison:
    one, other = results[a], results[b]
    hits, others = (row_metrics(r.better, r.tied, 1, [1])[COMPARED] for r in (one, other))
    found = paired_difference(hits, others, one.rows.users, resamples, seed)
    gain = other.mean_rank - one.mean_rank
    return {
        "a": a,
        "b": b,
        "metric": f"{one.rows.split}_{COMPARED}",
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "p_holm": None,
        "won": int((gain > 0).sum()),
        "lost": int((gain < 0).sum()),
    }


def write_result(folder: Path, result: Result, answers: Answers | None = None) -> None:
    """Write `metrics.json` and `ranks.parquet`."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "metrics.json", result.metrics)
    nothing = [None] * len(result.scores)
    columns = [
        result.rows.example_ids,
        result.rows.users,
        result.better,
        result.tied,
        list(result.scores),
        result.rows.target_index,
        result.num_candidates,
        result.best,
        nothing if answers is None else answers.texts,
        nothing if answers is None else answers.named != INVALID,
    ]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, RANKS.types, strict=True)]
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=RANKS), folder / "ranks.parquet", compression="zstd"
    )


def read_result(folder: Path, split: str) -> Result:
    """The result of one model of an evaluation.

    Raises:
        DataError: It is missing or can't be read.
    """
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        table = pq.read_table(folder / "ranks.parquet", schema=RANKS)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{folder}: must hold metrics.json and ranks.parquet of an evaluation, but {error}. Evaluate again."
        ) from error
    metrics = {name: metrics[name] for name in sorted(metrics, key=_natural)}
    places = table["target_index"].to_numpy()
    rows = Rows(split, table["example_id"].to_pylist(), table["user_id"].to_pylist(), places)
    scores = np.array(table["scores"].to_pylist(), dtype=np.float64)
    better, tied, number = (table[name].to_numpy() for name in ("better", "tied", "num_candidates"))
    return Result(rows, better, tied, table["best"].to_pylist(), number, scores, metrics)


def _natural(name: str) -> list[str | int]:
    """Sorts @3 before @10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
