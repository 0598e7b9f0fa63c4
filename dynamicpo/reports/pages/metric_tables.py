"""The table of metrics: models by measures."""

import math
from collections.abc import Mapping, Sequence

from dynamicpo.reports.labels import short_names
from dynamicpo.reports.number_format import format_count, format_interval, format_number
from dynamicpo.reports.pages.metric_names import (
    HEADLINE_METRICS,
    ModelMetrics,
    is_accuracy,
    metric_label,
    metric_names,
    metric_value,
    split_of,
    without_split,
)
from dynamicpo.reports.pages.tables import ReportTable, TableCell


def metrics_table(metrics: ModelMetrics, names: Sequence[str] = HEADLINE_METRICS) -> ReportTable:
    """Models by metrics, with intervals where `_low` and `_high` are there; the best is bold.

    Args:
        metrics: Flat metrics of each model, such as `test_hit_ratio_at_1`.
        names: Metrics to show, with or without the split in front; those of no model are left out.
    """
    shown = _shown_metrics(metrics, names)
    best = {name: _best_value(metrics, name) for name in shown}
    rows = []
    for model, flat in zip(short_names(list(metrics)), metrics.values(), strict=True):
        cells = [_metric_cell(flat, name, best[name]) for name in shown]
        rows.append([TableCell(model), *cells])
    num_splits = len({split_of(name) for name in shown})
    heads = [metric_label(name, with_split=num_splits > 1) for name in shown]
    return ReportTable(["", *heads], rows)


def _shown_metrics(metrics: ModelMetrics, names: Sequence[str]) -> list[str]:
    """Full names in the order of `names`; one without a split stands for those of every split."""
    available = metric_names(metrics)
    return [full for name in names for full in available if name in (full, without_split(full))]


def _best_value(metrics: ModelMetrics, name: str) -> float:
    return max((metric_value(flat, name) for flat in metrics.values()), default=math.nan)


def _metric_cell(metrics: Mapping[str, float | None], name: str, best: float) -> TableCell:
    value = metric_value(metrics, name)
    low = metric_value(metrics, f"{name}_low")
    high = metric_value(metrics, f"{name}_high")
    # A number of rows or of items, and not a share that happens to be 1.
    is_count = "_at_" not in name and value.is_integer() and abs(value) > 1
    text = format_count(value) if is_count else format_number(value)
    # Of other measures, such as coverage, more is not always better.
    is_best = is_accuracy(name) and value == best
    return TableCell(text, format_interval(low, high), is_best)
