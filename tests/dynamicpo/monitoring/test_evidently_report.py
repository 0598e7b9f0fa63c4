"""What is corrected in Evidently's page and numbers, and that it is still needed."""

import pandas as pd
import pytest

from dynamicpo.core.config import DriftConfig
from dynamicpo.monitoring import evidently_report
from dynamicpo.monitoring.columns import ComparedColumns
from dynamicpo.monitoring.evidently_report import compare_columns

METHODS = {"history_length": "wasserstein", "category": "jensenshannon"}


def columns() -> ComparedColumns:
    return ComparedColumns(
        reference=pd.DataFrame({"history_length": [1.0, 2.0, 3.0], "category": ["a", "b", "b"]}),
        current=pd.DataFrame({"history_length": [2.0, 3.0, 4.0], "category": ["a", "a", "b"]}),
    )


def test_distances_come_by_column_in_the_order_of_the_methods() -> None:
    comparison = compare_columns(columns(), METHODS, DriftConfig())
    assert list(comparison.distances) == list(METHODS)
    # The window is shifted by 1, and the reference's standard deviation is sqrt(2 / 3).
    assert comparison.distances["history_length"] == pytest.approx((3 / 2) ** 0.5)


def test_page_has_neither_random_ids_nor_links_to_other_hosts() -> None:
    page = compare_columns(columns(), METHODS, DriftConfig()).page
    assert not evidently_report._RANDOM_ID.search(page)
    assert evidently_report._OUTER_LINK not in page


def test_page_of_the_library_still_has_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """A correction that finds nothing to correct belongs deleted, or adapted to a new Evidently."""
    monkeypatch.setattr(evidently_report, "_repeatable", lambda page: page)
    page = compare_columns(columns(), METHODS, DriftConfig()).page
    assert evidently_report._RANDOM_ID.search(page)
    assert evidently_report._OUTER_LINK in page
