"""The three claims of `make results`, over users and seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.records.manifest import read_input
from dynamicpo.evaluation.saved import read_saved_result
from dynamicpo.metrics.intervals import holm
from dynamicpo.study.contrasts import contrast

LEVEL = 0.05
LISTED_METRIC, CATALOGUE_METRIC = "hit_ratio_at_1", "ndcg_at_10"


class Claim(NamedTuple):
    """Model a ranks better than model b, or worse by less than a margin.

    Attributes:
        a: The first model.
        b: The other one.
        bound: What a − b has to exceed.
    """

    a: str
    b: str
    bound: float = 0.0


# Named before any test row was read, and corrected for as one family.
CLAIMS = (
    Claim("dynamicpo-dmpo", "sft"),
    Claim("dynamicpo-dmpo", "dmpo"),
    Claim("dynamicpo-dmpo", "sasrec", bound=-0.02),
)


class Measured(NamedTuple):
    """A measure of several models on the same rows.

    Attributes:
        values: Of each model, shape (S, N): one number for each seed and row.
        users: The user of each row.
    """

    values: Mapping[str, FloatArray]
    users: Sequence[str]


class Finding(NamedTuple):
    """A claim, its difference with bounds, and whether it holds.

    Attributes:
        claim: The claim.
        difference: a − b, the mean over rows and seeds.
        low: Lower bound of its 95 % interval.
        high: Upper bound.
        p: Two-sided p of the difference being the claim's bound, corrected by Holm.
    """

    claim: Claim
    difference: float
    low: float
    high: float
    p: float

    @property
    def holds(self) -> bool:
        return self.low > self.claim.bound and self.p < LEVEL


def judge(measured: Measured, claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """Test a family of claims, users and seeds both counted."""
    findings = []
    for claim in claims:
        a, b = measured.values[claim.a], measured.values[claim.b]
        # Seen from the bound, so that p is of the claim itself.
        beyond = contrast(a - claim.bound, b, measured.users)
        bounds = (beyond.difference, beyond.low, beyond.high)
        assert None not in bounds, "the rows of a single user have no interval"
        difference, low, high = (float(value) + claim.bound for value in bounds)
        findings.append(Finding(claim, difference, low, high, float(beyond.p)))
    corrected = holm([finding.p for finding in findings])
    return [finding._replace(p=p) for finding, p in zip(findings, corrected, strict=True)]


def read_listed(evaluations: Sequence[Path], names: Sequence[str]) -> Measured:
    """HitRatio@1 of each row's list."""
    return _read(evaluations, names, LISTED_METRIC)


def read_catalogue(evaluations: Sequence[Path], names: Sequence[str]) -> Measured:
    """NDCG@10 of each row over the whole catalogue."""
    return _read(evaluations, names, CATALOGUE_METRIC)


def _read(evaluations: Sequence[Path], names: Sequence[str], metric: str) -> Measured:
    """The same rows of every seed's evaluation."""
    values: dict[str, list[FloatArray]] = {name: [] for name in names}
    rows: list[Sequence[str]] = []
    users: Sequence[str] = ()
    for path in evaluations:
        source = read_input(path, "evaluate")
        assert "proposed" not in source.extra["protocol"], f"{path} did not rank every item"
        for name in names:
            saved = read_saved_result(path / name, source)
            result = saved.beside if metric == CATALOGUE_METRIC else saved.result
            assert result is not None, f"{path} ranks lists alone"
            values[name].append(result.row_values(metric))
            rows.append(list(result.rows.example_ids))
            users = result.rows.users
    assert all(ids == rows[0] for ids in rows), "the seeds differ in their rows"
    return Measured({name: np.stack(seeds) for name, seeds in values.items()}, users)
