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

from dynamicpo.errors import DataError
from dynamicpo.intervals import clustered_intervals, holm, paired_difference
from dynamicpo.metrics import INVALID, KS, answer_metrics, beyond_accuracy, row_metrics, target_ranks
from dynamicpo.records import write_json

BASELINES = ("random", "popularity", "cooccurrence", "base")
COMPARED = "hit_ratio_at_1"
RANKS = pa.schema(
    [
        ("example_id", pa.string()),
        ("user_id", pa.string()),
        ("better", pa.int64()),
        ("tied", pa.int64()),
        ("scores", pa.list_(pa.float64())),
        ("target_index", pa.int64()),
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
        target_index: The target's place among the candidates. Shape (N,).
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
        scores: Shape (N, A).
        metrics: Flat metrics, such as `test_hit_ratio_at_1` with `_low` and `_high` (None where there is no interval).
    """

    rows: Rows
    better: NDArray[np.int64]
    tied: NDArray[np.int64]
    scores: NDArray[np.float64]
    metrics: Metrics

    @property
    def mean_rank(self) -> NDArray[np.float64]:
        """The target's rank, the mean over ties. Shape (N,)."""
        return np.asarray(1 + self.better + self.tied / 2)

    @property
    def top(self) -> NDArray[np.int64]:
        """The place of the best candidate. Shape (N,)."""
        return best_places(self.scores)

    def rank_counts(self) -> list[float]:
        """How many rows have their target at rank 1, 2, ..., shared where ties leave several."""
        steps, share = np.zeros(self.scores.shape[1] + 1), 1 / (self.tied + 1)
        np.add.at(steps, self.better, share)
        np.add.at(steps, self.better + self.tied + 1, -share)
        return [float(value) for value in np.cumsum(steps)[:-1]]


def best_places(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The place of each row's best candidate; NaN is worst, and of equals the first (places are random). Shape (N,)."""
    return np.asarray(np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1))


def make_result(
    rows: Rows,
    scores: NDArray[np.float64],
    recommendable: tuple[NDArray[np.int64], NDArray[np.int64]],
    resamples: int,
    seed: int,
    answers: Answers | None = None,
) -> Result:
    """Ranks and metrics of scores, with 95 % intervals clustered by user.

    Args:
        rows: The rows.
        scores: Shape (N, A); NaN counts as worst.
        recommendable: Each candidate's place in the catalogue, shape (N, A), and the training popularity of every
            item of it, shape (I,).
        resamples: Bootstrap resamples of users.
        seed: Seed of the bootstrap.
        answers: What the model generated, where it did.
    """
    ranks = target_ranks(scores, rows.target_index)
    ks = [k for k in KS if k <= scores.shape[1]]
    values = row_metrics(*ranks, scores.shape[1], ks)
    codes, popularity = recommendable
    others = dict(beyond_accuracy(codes[np.arange(len(codes)), best_places(scores)], popularity))
    if answers is not None:
        values |= _answer_values(answers, rows.target_index)
        others |= answer_metrics(answers.named, rows.target_index)
        others |= answer_metrics(answers.substring, rows.target_index, "_substring")
    flat: Metrics = {}
    for name, (low, high) in clustered_intervals(values, rows.users, resamples, seed).items():
        flat |= {name: float(values[name].mean()), f"{name}_low": low, f"{name}_high": high}
    flat |= {name: value for name, value in others.items() if name not in flat}
    flat |= {"rows": len(scores), "users": len({*rows.users}), "nan_scores": int(np.isnan(scores).sum())}
    return Result(rows, *ranks, scores, {f"{rows.split}_{name}": value for name, value in flat.items()})


def _answer_values(answers: Answers, target_index: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Those of `answer_metrics` that are means over all rows, row by row."""
    values = {}
    for named, suffix in ((answers.named, ""), (answers.substring, "_substring")):
        values[f"valid_ratio{suffix}"] = (named != INVALID).astype(float)
        values[f"generated_hit_ratio_at_1{suffix}"] = (named == target_index).astype(float)
    return values


def paired(
    results: Mapping[str, Result], models: Sequence[str], resamples: int, seed: int
) -> list[dict[str, str | float | None]]:
    """Differences of every model against the first, `sft` and the baselines but chance, on the same rows.

    Args:
        results: Results of models and baselines by name.
        models: The names of the models among them, in order.
        resamples: Bootstrap resamples of users.
        seed: Seed of the bootstrap.

    Returns:
        Entries `a`, `b`, `metric`, `difference` (a less b), `low`, `high`, `p`, `p_holm` (corrected for all entries),
        `won` and `lost` (rows in which a, or b, ranks the target better).
    """
    against = dict.fromkeys([*models[:1], *(name for name in ("sft", *BASELINES[1:]) if name in results)])
    pairs = {frozenset((a, b)): (a, b) for b in against for a in models if a != b}
    entries = [_difference(a, b, results, resamples, seed) for a, b in pairs.values()]
    known = [entry for entry in entries if entry["p"] is not None]
    for entry, p in zip(known, holm([float(entry["p"] or 0) for entry in known]), strict=True):
        entry["p_holm"] = p
    return entries


def _difference(
    a: str, b: str, results: Mapping[str, Result], resamples: int, seed: int
) -> dict[str, str | float | None]:
    one, other = results[a], results[b]
    hits, others = (row_metrics(r.better, r.tied, r.scores.shape[1], [1])[COMPARED] for r in (one, other))
    found = paired_difference(hits, others, one.rows.users, resamples, seed)
    gain = other.mean_rank - one.mean_rank
    return {
        "a": a,
        "b": b,
        "metric": f"{one.rows.split}_{COMPARED}",
        **found._asdict(),
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
        nothing if answers is None else answers.texts,
        nothing if answers is None else answers.named != INVALID,
    ]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, RANKS.types, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=RANKS), folder / "ranks.parquet", compression="zstd")


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
    return Result(rows, table["better"].to_numpy(), table["tied"].to_numpy(), scores, metrics)


def _natural(name: str) -> list[str | int]:
    """Sorts @3 before @10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
