"""Verdicts on columns and on a whole check."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.config import DriftConfig
from dynamicpo.core.json_values import JsonObject
from dynamicpo.metrics.intervals import Interval, clustered_interval, holm
from dynamicpo.monitoring.check_history import DriftCheck
from dynamicpo.monitoring.columns import (
    COLUMN_MEANINGS,
    DATA_COLUMNS,
    HELD_OUT_WINDOW,
    TEXT_COLUMNS,
    TRAINING_WINDOW,
)
from dynamicpo.monitoring.distances import JENSEN_SHANNON, WASSERSTEIN
from dynamicpo.monitoring.permutations import ColumnSample, PermutationTest, permutation_test
from dynamicpo.reports.pages.drift import DriftColumn, DriftReport

DRIFTED = "drifted"
NOT_DRIFTED = "not drifted"
TOO_FEW = "too few users"
# Evidently's names of distances, and what they are.
_METHODS = {
    WASSERSTEIN: "Wasserstein distance, divided by the reference's standard deviation",
    JENSEN_SHANNON: "Jensen-Shannon distance",
}


_WINDOW_NAMES = {
    "reference": "the training window",
    "held_out": "the held-out window",
    "current": "the current window",
}


class ColumnVerdict(NamedTuple):
    """The verdict on a column.

    Attributes:
        sample: The column.
        method: Evidently's name of its distance.
        threshold: The distance that matters.
        test: Its distance, and its place among those of permuted users.
        p_holm: p, corrected for all columns; NaN where there are too few users.
        status: Drifted, not drifted or too few users.
    """

    sample: ColumnSample
    method: str
    threshold: float
    test: PermutationTest
    p_holm: float
    status: str

    @property
    def name(self) -> str:
        """The column's name."""
        return self.sample.name

    @property
    def relative_distance(self) -> float:
        """The distance as a multiple of the threshold."""
        if not self.threshold:
            return math.nan
        return self.test.distance / self.threshold

    @property
    def window(self) -> str:
        """The window that it was compared with."""
        return TRAINING_WINDOW if self.name in DATA_COLUMNS else HELD_OUT_WINDOW

    def to_json(self) -> JsonObject:
        """The entry of `drift.json`."""
        test = self.test
        return {
            "distance": _number(test.distance),
            "threshold": self.threshold,
            "p": test.p,
            "p_holm": _number(self.p_holm),
            "drifted": self.status == DRIFTED,
            "status": self.status,
            "compared_with": self.window,
            "users": {"reference": test.reference_users, "current": test.current_users},
            "method": _METHODS[self.method],
            "meaning": COLUMN_MEANINGS[self.name],
        }

    def in_words(self) -> DriftColumn:
        """The line of the page."""
        return DriftColumn(
            name=self.name,
            distance=self.test.distance,
            status=self.status,
            p_holm=self.p_holm,
            compared_with=self.window,
            method=_METHODS[self.method],
            meaning=COLUMN_MEANINGS[self.name],
        )


class DriftResult(NamedTuple):
    """The result of a check.

    Attributes:
        status: Drifted, not drifted or too few users.
        rule: The rule of the verdict.
        columns: The columns.
        rows: Rows of each window, by name.
        hit_ratios: HitRatio@1 of each window with its interval, where a model was looked at.
    """

    status: str
    rule: str
    columns: Sequence[ColumnVerdict]
    rows: Mapping[str, int]
    hit_ratios: Mapping[str, tuple[float, Interval]]

    @property
    def num_drifted(self) -> int:
        """Columns that have drifted."""
        return _count_status(self.columns, DRIFTED)

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        subject = self.status.capitalize()
        sentence = f"{subject}: {self.num_drifted} of {len(self.columns)} columns have drifted"
        num_few = _count_status(self.columns, TOO_FEW)
        if num_few:
            sentence += f"; of {num_few} it can't be told, for too few users"
        return f"{sentence}."

    def to_json(self) -> JsonObject:
        """The content of `drift.json`."""
        hit_ratios: JsonObject = {}
        for window, (ratio, interval) in self.hit_ratios.items():
            hit_ratios[window] = {"value": ratio, "low": interval.low, "high": interval.high}
        columns: JsonObject = {column.name: column.to_json() for column in self.columns}
        return {
            "drifted": self.status == DRIFTED,
            "status": self.status,
            "verdict": self.verdict,
            "rule": self.rule,
            "drifted_share": self.num_drifted / len(self.columns),
            "columns": columns,
            "rows": dict(self.rows),
            "rows_without_score": self._rows_without_score(),
            "hit_ratio_at_1": hit_ratios,
        }

    def counts(self) -> dict[str, float]:
        """The counts of the stage's manifest."""
        counts: dict[str, float] = {
            "drifted": self.status == DRIFTED,
            "too_few_users": self.status == TOO_FEW,
            "drifted_share": self.num_drifted / len(self.columns),
        }
        for window, num_rows in self.rows.items():
            counts[f"{window}_rows"] = num_rows
        for column in self.columns:
            # NaN: a side without any value has no distance.
            if not math.isnan(column.test.distance):
                counts[f"{column.name}_distance"] = column.test.distance
        return counts

    def report(self, checks: Sequence[DriftCheck]) -> DriftReport:
        """The content of the page.

        Args:
            checks: All checks so far, this one last.
        """
        lines = [f"{number:,} rows of {_WINDOW_NAMES[name]}" for name, number in self.rows.items()]
        return DriftReport(
            verdict=self.verdict,
            rule=self.rule,
            rows=lines,
            columns=[column.in_words() for column in self.columns],
            hit_ratios={
                name: (ratio, *bounds) for name, (ratio, bounds) in self.hit_ratios.items()
            },
            checks=checks,
        )

    def _rows_without_score(self) -> JsonObject:
        for column in self.columns:
            if column.name == "chosen_score":
                sample = column.sample
                return {
                    "reference": int(sample.reference.isna().sum()),
                    "current": int(sample.current.isna().sum()),
                }
        return {"reference": 0, "current": 0}


def judge_columns(samples: Sequence[ColumnSample], config: DriftConfig) -> DriftResult:
    """Judge each column, and all of them together.

    Args:
        samples: The columns.
        config: Thresholds, permutations, users.
    """
    columns = column_verdicts(samples, config)
    return DriftResult(
        status=check_status(columns, config),
        rule=_rule(config),
        columns=columns,
        rows=_row_counts(samples),
        hit_ratios=_hit_ratios(samples, config),
    )


def column_verdicts(samples: Sequence[ColumnSample], config: DriftConfig) -> list[ColumnVerdict]:
    """Judge each column, with Holm's correction over all of them."""
    methods = [distance_method(sample) for sample in samples]
    tests = []
    for sample, method in zip(samples, methods, strict=True):
        tests.append(permutation_test(sample, method, config.permutations, config.seed))
    corrected = _corrected(tests, config)
    columns = []
    for sample, method, test, p_holm in zip(samples, methods, tests, corrected, strict=True):
        is_text = sample.name in TEXT_COLUMNS
        threshold = config.category_threshold if is_text else config.threshold
        status = _column_status(test, p_holm, threshold, config)
        columns.append(ColumnVerdict(sample, method, threshold, test, p_holm, status))
    return columns


def check_status(columns: Sequence[ColumnVerdict], config: DriftConfig) -> str:
    """The verdict on all columns together."""
    num_drifted = _count_status(columns, DRIFTED)
    # At least one, so that a share of 0 does not make everything drift.
    if num_drifted and num_drifted >= config.drift_share * len(columns):
        return DRIFTED
    num_few = _count_status(columns, TOO_FEW)
    return TOO_FEW if num_few else NOT_DRIFTED


def _count_status(columns: Sequence[ColumnVerdict], status: str) -> int:
    return sum(column.status == status for column in columns)


def distance_method(sample: ColumnSample) -> str:
    """Choose the distance of a column.

    Wasserstein is for numbers. It is divided by the reference's spread, which must not be 0.
    """
    if sample.name in TEXT_COLUMNS:
        return JENSEN_SHANNON
    is_constant = sample.reference.nunique() < 2
    return JENSEN_SHANNON if is_constant else WASSERSTEIN


def _has_too_few(test: PermutationTest, config: DriftConfig) -> bool:
    fewest = min(test.reference_users, test.current_users)
    return fewest < config.min_users


def _corrected(tests: Sequence[PermutationTest], config: DriftConfig) -> list[float]:
    """Holm's p of the columns that are judged, NaN of the others."""
    judged = []
    p_values = []
    for index, test in enumerate(tests):
        if not _has_too_few(test, config):
            judged.append(index)
            p_values.append(test.p)
    corrected = [math.nan] * len(tests)
    for index, p_holm in zip(judged, holm(p_values), strict=True):
        corrected[index] = p_holm
    return corrected


def _column_status(
    test: PermutationTest, p_holm: float, threshold: float, config: DriftConfig
) -> str:
    if _has_too_few(test, config):
        return TOO_FEW
    is_real = p_holm <= config.false_alarms
    return DRIFTED if is_real and test.distance >= threshold else NOT_DRIFTED


def _rule(config: DriftConfig) -> str:
    share = f"at least {config.drift_share:.0%} of the columns, and at least one, have"
    subject = share if config.drift_share else "at least one column has"
    return (
        f"Drifted when {subject} drifted. A column has drifted when its distance is at least "
        f"{config.threshold:g} (categories: {config.category_threshold:g}) and larger than in "
        f"{config.permutations} divisions of whole users, so that a check without drift finds some "
        f"with a probability of {config.false_alarms:.0%} at most (Holm correction over all "
        f"columns). With fewer than {config.min_users} users in a window nothing can be told."
    )


def _row_counts(samples: Sequence[ColumnSample]) -> dict[str, int]:
    counts = {}
    for sample in samples:
        # The columns of a window have equally many rows.
        name = "reference" if sample.name in DATA_COLUMNS else "held_out"
        counts[name] = len(sample.reference)
        counts["current"] = len(sample.current)
    return counts


def _hit_ratios(
    samples: Sequence[ColumnSample], config: DriftConfig
) -> dict[str, tuple[float, Interval]]:
    for sample in samples:
        if sample.name == "hit":
            reference = _ratio(sample.reference, sample.reference_users, config)
            return {
                HELD_OUT_WINDOW: reference,
                "current window": _ratio(sample.current, sample.current_users, config),
            }
    return {}


def _ratio(hits: pd.Series, users: pd.Series, config: DriftConfig) -> tuple[float, Interval]:
    is_there = hits.notna()
    values: FloatArray = hits[is_there].to_numpy()
    if not len(values):
        return math.nan, Interval(None, None)
    their_users = users[is_there].to_numpy()
    interval = clustered_interval(values, their_users, seed=config.seed)
    mean = float(values.mean())
    return mean, interval


def _number(value: float) -> float | None:
    # JSON has no NaN.
    return None if math.isnan(value) else value
