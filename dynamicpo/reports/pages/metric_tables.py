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
    models = short_names(list(metrics))
    rows = [[TableCell(model)] for model in models]
    for name in shown:
        best = _best_value(metrics, name)
        for row, flat in zip(rows, metrics.values(), strict=True):
            row.append(_metric_cell(flat, name, best))
    heads = ["", *_heads(shown)]
    return ReportTable(heads, rows)


def _heads(names: Sequence[str]) -> list[str]:
    """Labels of metrics; they name the split where there are several."""
    splits = {split_of(name) for name in names}
    has_several_splits = len(splits) > 1
    return [metric_label(name, has_several_splits) for name in names]


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
    # Of other measures, such as coverage, more is not always better.
    is_best = is_accuracy(name) and value == best
    return TableCell(
        text=format_count(value) if _is_count(name, value) else format_number(value),
        detail=format_interval(low, high),
        strong=is_best,
    )


def _is_count(name: str, value: float) -> bool:
    """True for a number of rows or of items, False for a share that happens to be 1."""
    if "_at_" in name:
        return False
    return value.is_integer() and abs(value) > 1
