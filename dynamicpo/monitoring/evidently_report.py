"""Evidently: distances of columns, and its page. What depends on its internals stands here."""

import re
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd

from dynamicpo.core.config import DriftConfig
from dynamicpo.monitoring.columns import TEXT_COLUMNS
from dynamicpo.monitoring.verdicts import DriftResult

# Evidently names the parts of its page by random ids: UUIDs of version 7, and metrics by 32 digits.
_RANDOM_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|(?<=metric_)[0-9a-f]{32}"
)
# The one link of its page to another host, in the tool bar of its charts.
_OUTER_LINK = 'href="https://plotly.com/"'


class EvidentlyResult(NamedTuple):
    """Results of Evidently.

    Attributes:
        distances: Each column's distance.
        page: A page of charts, with random ids.
    """

    distances: dict[str, float]
    page: str


def compare_columns(result: DriftResult, config: DriftConfig) -> str:
    """Compare each column of two windows.

    Args:
        result: The columns, with the distance of each.
        config: Thresholds.

    Returns:
        A page of charts; the same columns give the same bytes.
    """
    return _repeatable(run_evidently(result, config).page)


def run_evidently(result: DriftResult, config: DriftConfig) -> EvidentlyResult:
    """Evidently's own distances, and its page as it comes."""
    # It refuses columns of which a window has no value.
    columns = [column for column in result.columns if not np.isnan(column.test.distance)]
    methods = {column.name: column.method for column in columns}
    thresholds = {column.name: column.threshold for column in columns}
    # Windows have different lengths; what is missing at their ends counts as missing.
    reference_frame = pd.DataFrame({column.name: column.sample.reference for column in columns})
    current_frame = pd.DataFrame({column.name: column.sample.current for column in columns})
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
            per_column_threshold=thresholds,
            drift_share=config.drift_share,
        )
        current = Dataset.from_pandas(current_frame, data_definition=definition)
        reference = Dataset.from_pandas(reference_frame, data_definition=definition)
        # Its tests would state a verdict, by a rule that is not ours.
        report = Report([preset], include_tests=False)
        snapshot = report.run(current, reference)
        metrics = snapshot.dict()["metrics"]
        page = snapshot.get_html_str(as_iframe=False)
    distances = {}
    for metric in metrics:
        # The preset's other metrics are of all columns together.
        if "column" in metric["config"]:
            distances[metric["config"]["column"]] = float(metric["value"])
    return EvidentlyResult(distances, page)


def _repeatable(page: str) -> str:
    """Replace random ids by numbers, and the only link to another host by one to nowhere."""
    names: dict[str, str] = {}

    def numbered_name(match: re.Match[str]) -> str:
        random_id = match[0]
        return names.setdefault(random_id, f"evidently{len(names)}")

    page = _RANDOM_ID.sub(numbered_name, page)
    return page.replace(_OUTER_LINK, 'href="#"')
