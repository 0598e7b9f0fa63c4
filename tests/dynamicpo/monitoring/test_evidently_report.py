"""What is corrected in Evidently's page, that it is still needed, and that distances are its."""

import numpy as np
import pandas as pd
import pytest

from dynamicpo.core.config import DriftConfig
from dynamicpo.monitoring import evidently_report
from dynamicpo.monitoring.evidently_report import compare_columns, run_evidently
from dynamicpo.monitoring.permutations import ColumnSample
from dynamicpo.monitoring.verdicts import DriftResult, judge_columns

CONFIG = DriftConfig(min_users=2)


def sample(name: str, reference: list[object], current: list[object]) -> ColumnSample:
    """A column, each row of a user of its own."""
    users = [
        pd.Series([f"{side}{row}" for row in range(len(rows))])
        for side, rows in (("r", reference), ("c", current))
    ]
    return ColumnSample(name, pd.Series(reference), users[0], pd.Series(current), users[1])


def small() -> DriftResult:
    lengths = sample("history_length", [1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    return judge_columns([lengths, sample("category", ["a", "b", "b"], ["a", "a", "b"])], CONFIG)


def random_columns(seed: int) -> DriftResult:
    """Columns of every kind, with windows of other lengths and missing values."""
    rng = np.random.default_rng(seed)
    scores = [rng.normal(0, 2, 300), rng.normal(0.4, 1, 200)]
    scores[1][rng.random(200) < 0.2] = np.nan
    samples = [
        sample("history_length", [*rng.integers(1, 30, 400)], [*rng.integers(3, 40, 150)]),
        sample("chosen_score", [*scores[0]], [*scores[1]]),
        sample("hit", [*rng.choice([0.0, 0.5, 1.0], 300)], [*rng.choice([0.0, 1.0], 200)]),
        sample("popularity_bucket", [*rng.choice(["a", "b"], 300)], [*rng.choice(["b", "c"], 90)]),
        sample("category", ["x"] * 50, [*rng.choice(["x", "y"], 60)]),
        # A constant reference: its values are taken for categories.
        sample("unseen_share", [0.0] * 100, [*rng.choice([0.0, 0.25, 0.5], 80)]),
        sample("user_activity", [1e9 + 0.5] * 50 + [1e9], [1e9 + 1.5] * 40),
    ]
    return judge_columns(samples, CONFIG)


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_evidently(seed: int) -> None:
    result = random_columns(seed)
    distances = run_evidently(result, CONFIG).distances
    for column in result.columns:
        assert column.test.distance == pytest.approx(distances[column.name], abs=1e-9, rel=1e-6)
    assert {column.method for column in result.columns} == {"wasserstein", "jensenshannon"}


def test_distance_by_hand() -> None:
    # The window is shifted by 1, and the reference's standard deviation is sqrt(2 / 3).
    lengths, _ = small().columns
    assert lengths.test.distance == pytest.approx((3 / 2) ** 0.5)


def test_page_has_neither_random_ids_nor_links_to_other_hosts() -> None:
    page = compare_columns(small(), CONFIG)
    assert not evidently_report._RANDOM_ID.search(page)
    assert evidently_report._OUTER_LINK not in page


def test_page_of_the_library_still_has_both() -> None:
    """A correction that finds nothing to correct belongs deleted, or adapted to a new Evidently."""
    page = run_evidently(small(), CONFIG).page
    assert evidently_report._RANDOM_ID.search(page)
    assert evidently_report._OUTER_LINK in page
