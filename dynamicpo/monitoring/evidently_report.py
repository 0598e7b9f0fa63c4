"""Evidently: distances of columns, and its page. What depends on its internals stands here."""

import re
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dynamicpo.core.config import DriftConfig
from dynamicpo.monitoring.columns import TEXT_COLUMNS, ComparedColumns

# Evidently names the parts of its page by random ids: UUIDs of version 7, and metrics by 32 digits.
_RANDOM_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|(?<=metric_)[0-9a-f]{32}"
)
# The one link of its page to another host, in the tool bar of its charts.
_OUTER_LINK = 'href="https://plotly.com/"'
_SIGNIFICANT_DIGITS = 12


class EvidentlyResult(NamedTuple):
    """Results of Evidently.

    Attributes:
        distances: Each column's distance.
        page: A page of charts; the same columns give the same bytes.
    """

    distances: dict[str, float]
    page: str


def compare_columns(
    columns: ComparedColumns, methods: Mapping[str, str], config: DriftConfig
) -> EvidentlyResult:
    """Compare each column of two windows.

    Args:
        columns: The columns.
        methods: Evidently's name of the distance of each column.
        config: Thresholds.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Evidently divides by the spread of columns that do not vary, and draws empty charts.
        warnings.simplefilter("ignore")
        # Here, because the import takes seconds, which a finished output would cost as well.
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        definition = DataDefinition(
            numerical_columns=[name for name in methods if name not in TEXT_COLUMNS],
            categorical_columns=[name for name in methods if name in TEXT_COLUMNS],
        )
        preset = DataDriftPreset(
            columns=list(methods),
            per_column_method=dict(methods),
            threshold=config.threshold,
            drift_share=config.drift_share,
        )
        current = Dataset.from_pandas(columns.current, data_definition=definition)
        reference = Dataset.from_pandas(columns.reference, data_definition=definition)
        # Its tests would state a verdict, by a rule that is not ours.
        report = Report([preset], include_tests=False)
        snapshot = report.run(current, reference)
        metrics = snapshot.dict()["metrics"]
        page = snapshot.get_html_str(as_iframe=False)
    distances = {}
    for metric in metrics:
        # The preset's other metrics are of all columns together.
        if "column" in metric["config"]:
            distances[metric["config"]["column"]] = _rounded(metric["value"])
    in_order = {name: distances[name] for name in methods}
    return EvidentlyResult(in_order, _repeatable(page))


def _rounded(distance: float) -> float:
    # Evidently adds up over a set of texts, whose order, and with it the last digit of the sum,
    # changes from process to process.
    return float(f"{distance:.{_SIGNIFICANT_DIGITS}g}")


def _repeatable(page: str) -> str:
    """Replace random ids by numbers, and the only link to another host by one to nowhere."""
    names: dict[str, str] = {}

    def numbered_name(match: re.Match[str]) -> str:
        random_id = match[0]
        return names.setdefault(random_id, f"evidently{len(names)}")

    page = _RANDOM_ID.sub(numbered_name, page)
    return page.replace(_OUTER_LINK, 'href="#"')
