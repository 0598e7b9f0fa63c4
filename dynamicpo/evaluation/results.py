"""Results of one model of an evaluation: its metrics and the rank of each row's target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dynamicpo.core.arrays import BoolArray, FloatArray, IntArray
from dynamicpo.evaluation.rankings import Ranking
from dynamicpo.metrics.beyond_accuracy import beyond_accuracy
from dynamicpo.metrics.generated_answers import INVALID, answer_metrics
from dynamicpo.metrics.intervals import clustered_intervals
from dynamicpo.metrics.ranking import KS, row_metrics

COMPARED_METRIC = "hit_ratio_at_1"
# Of a ranking beside the lists: the first place is rare, and a list of ten is what a page shows.
BESIDE_METRICS = ("hit_ratio_at_10", "ndcg_at_10")


@dataclass(frozen=True)
class EvaluatedRows:
    """The rows that are evaluated.

    Attributes:
        split: Their split.
        example_ids: Shape (N,).
        users: Shape (N,).
        target_index: Index of the target among the candidates, or where every item is ranked in the
            items table; -1 where a generator does not propose it. Shape (N,).
    """

    split: str
    example_ids: Sequence[str]
    users: Sequence[str]
    target_index: IntArray

    @property
    def is_ranked(self) -> BoolArray:
        """False where what came next was not proposed: a miss, however short the list. (N,)."""
        return np.asarray(self.target_index >= 0)


class RankedItems(NamedTuple):
    """The items that rankings name by their codes.

    Attributes:
        item_ids: Shape (I,).
        popularity: Interactions in the training split. Shape (I,).
    """

    item_ids: Sequence[str]
    popularity: IntArray


@dataclass(frozen=True)
class GeneratedAnswers:
    """A model's generated answer to each row.

    Attributes:
        texts: The answers.
        named: Index of the candidate that an answer names, -1 for none or several. Shape (N,).
        substring: The same by the published rule. Shape (N,).
    """

    texts: Sequence[str]
    named: IntArray
    substring: IntArray


@dataclass(frozen=True)
class ModelResult:
    """A model's ranking of the rows, and its metrics.

    Attributes:
        rows: The rows.
        better: Candidates with a higher score than the target. Shape (N,).
        tied: Other candidates with the same score. Shape (N,).
        best: The item that each row is recommended. Shape (N,).
        num_candidates: Shape (N,).
        scores: As in `Ranking`.
        metrics: Flat metrics, such as `test_hit_ratio_at_1` with `_low` and `_high` (None where
            there is no interval).
    """

    rows: EvaluatedRows
    better: IntArray
    tied: IntArray
    best: Sequence[str]
    num_candidates: IntArray
    scores: FloatArray
    metrics: dict[str, float | None]

    @property
    def mean_rank(self) -> FloatArray:
        """The target's rank, the mean over ties. Shape (N,)."""
        return np.asarray(1 + self.better + self.tied / 2)

    def row_values(self, metric: str) -> FloatArray:
        """A metric such as `ndcg_at_10` of each row, the expected value under ties. Shape (N,)."""
        cutoff = _cutoff_of(metric)
        # The number of candidates only limits K, see `has_cutoff`.
        metrics = row_metrics(self.better, self.tied, num_candidates=cutoff, ks=[cutoff])
        return np.asarray(metrics[metric] * self.rows.is_ranked)

    def has_cutoff(self, metric: str) -> bool:
        """Tell whether every row has as many candidates as a metric looks at."""
        return bool(_cutoff_of(metric) <= self.num_candidates.min())

    def with_beside(self, beside: "ModelResult", kind: str) -> "ModelResult":
        """The same with the main metrics of the model's ranking beside it, of that kind."""
        metrics = dict(self.metrics)
        split = self.rows.split
        for metric in BESIDE_METRICS:
            for bound in ("", "_low", "_high"):
                name = f"{split}_{metric}{bound}"
                if name in beside.metrics:
                    full_name = f"{split}_{kind}_{metric}{bound}"
                    metrics[full_name] = beside.metrics[name]
        return replace(self, metrics=metrics)

    def with_metrics(self, metrics: Mapping[str, float | None]) -> "ModelResult":
        """The same with more metrics, whose names come without the split."""
        split = self.rows.split
        added = {f"{split}_{name}": value for name, value in metrics.items()}
        return replace(self, metrics={**self.metrics, **added})

    @property
    def is_scored(self) -> BoolArray:
        """False where the model does not know the target: such a row it ranks last. Shape (N,)."""
        num_rows, num_scores = self.scores.shape
        # Where every item is ranked, the target's score is the first of two.
        is_listed = bool((self.num_candidates == num_scores).all())
        places = self.rows.target_index if is_listed else np.zeros(num_rows, dtype=np.int64)
        return np.asarray(self.scores[np.arange(num_rows), places] != -np.inf)

    @property
    def hits(self) -> FloatArray:
        """HitRatio@1 of each row, the expected value under ties. Shape (N,)."""
        return self.row_values(COMPARED_METRIC)

    def metric(self, name: str) -> float | None:
        """A metric by its name without the split."""
        return self.metrics[f"{self.rows.split}_{name}"]

    def rank_counts(self) -> list[float]:
        """Numbers of rows with their target at rank 1, 2, ..., shared where ties leave several."""
        # A row adds the same share to a range of ranks: written as its two steps, summed at last.
        longest = self.num_candidates.max()
        steps = np.zeros(longest + 1)
        num_equal = self.tied + 1
        shares = 1 / num_equal
        first = self.better
        end = first + num_equal
        np.add.at(steps, first, shares)
        np.add.at(steps, end, -shares)
        counts = np.cumsum(steps)
        return [float(count) for count in counts[:-1]]


def _cutoff_of(metric: str) -> int:
    """10 of `ndcg_at_10`."""
    _, _, cutoff = metric.rpartition("_")
    return int(cutoff)


def make_result(
    rows: EvaluatedRows,
    ranking: Ranking,
    items: RankedItems,
    resamples: int,
    seed: int,
    answers: GeneratedAnswers | None = None,
) -> ModelResult:
    """Compute the metrics of a ranking, with 95 % intervals clustered by user.

    Args:
        rows: The rows.
        ranking: Of their targets.
        items: All items.
        resamples: Bootstrap resamples of users.
        seed: Seed of the bootstrap.
        answers: The model's answers, where it generated some.
    """
    # A cut-off beyond the shortest list would be a hit for all of its rows.
    fewest = int(ranking.num_candidates.min())
    ks = [k for k in KS if k <= fewest]
    values = row_metrics(ranking.better, ranking.tied, fewest, ks)
    values = {name: value * rows.is_ranked for name, value in values.items()}
    others = beyond_accuracy(ranking.best, items.popularity)
    if answers is not None:
        targets = rows.target_index
        values |= _answer_values(answers, targets)
        others |= answer_metrics(answers.named, targets)
        others |= answer_metrics(answers.substring, targets, "_substring")
    metrics = means_with_intervals(values, rows.users, resamples, seed)
    for name, value in others.items():
        # Means over all rows are there already, with their intervals.
        metrics.setdefault(name, value)
    metrics["rows"] = len(ranking.better)
    metrics["users"] = len({*rows.users})
    metrics["nan_scores"] = ranking.num_nan
    item_ids = items.item_ids
    best = [item_ids[code] for code in ranking.best]
    split_metrics = {f"{rows.split}_{name}": value for name, value in metrics.items()}
    return ModelResult(
        rows=rows,
        better=ranking.better,
        tied=ranking.tied,
        best=best,
        num_candidates=ranking.num_candidates,
        scores=ranking.scores,
        metrics=split_metrics,
    )


def means_with_intervals(
    values: Mapping[str, FloatArray], users: Sequence[str], resamples: int, seed: int
) -> dict[str, float | None]:
    """The mean of each metric over the rows, and its interval."""
    intervals = clustered_intervals(values, users, resamples, seed)
    metrics: dict[str, float | None] = {}
    for name, interval in intervals.items():
        low, high = interval
        mean = values[name].mean()
        metrics[name] = float(mean)
        metrics[f"{name}_low"] = low
        metrics[f"{name}_high"] = high
    return metrics


def _answer_values(answers: GeneratedAnswers, target_index: IntArray) -> dict[str, FloatArray]:
    """Row by row the values of `answer_metrics` that are means over all rows."""
    values = {}
    # The published rule beside the strict one.
    rules = {"": answers.named, "_substring": answers.substring}
    for suffix, named in rules.items():
        is_valid = named != INVALID
        is_hit = named == target_index
        valid_values = is_valid.astype(float)
        hit_values = is_hit.astype(float)
        values[f"valid_ratio{suffix}"] = valid_values
        values[f"generated_hit_ratio_at_1{suffix}"] = hit_values
    return values
