"""Sentences of a headline on what was ranked beside the lists: every item, or some proposals."""

import math

from dynamicpo.reports.number_format import format_interval, format_number
from dynamicpo.reports.pages.metric_names import (
    ModelMetrics,
    metric_names,
    metric_value,
    without_split,
)

_USE = (
    "Lists measure what the models are for, ranking what a candidate generator proposes; the "
    "catalogue measures recommending without one."
)
# By the metric: where it ranks, and what it measures.
_PLACES = {
    "catalogue_ndcg_at_10": ("Over the whole catalogue", _USE),
    "proposed_ndcg_at_10": (
        "Among what a candidate generator proposes",
        "What it does not propose counts as missed.",
    ),
}


def sentences_beside(metrics: ModelMetrics, best: str) -> list[str]:
    """Say whether the model that ranks lists best also ranks best what stands beside them.

    Args:
        metrics: Of every model.
        best: The model with the best lists.

    Returns:
        Nothing where no model ranked anything beside.
    """
    names = [name for name in metric_names(metrics) if without_split(name) in _PLACES]
    if not names:
        return []
    name = names[0]
    values = {}
    for model, flat in metrics.items():
        value = metric_value(flat, name)
        if not math.isnan(value):
            values[model] = value
    if best not in values:
        return []
    where, meaning = _PLACES[without_split(name)]
    best_of_all = max(values, key=lambda model: values[model])
    if values[best] == values[best_of_all]:
        return [f"{where} it ranks best, too: {_figure(metrics, name, best)}."]
    order = f"{best_of_all} ranks best, {_figure(metrics, name, best_of_all)}"
    reached = f"{best} reaches {_figure(metrics, name, best)}"
    return [f"{where} the order differs: {order}; {reached}. {meaning}"]


def _figure(metrics: ModelMetrics, name: str, model: str) -> str:
    """`NDCG@10 .083 [.078, .089]`."""
    flat = metrics[model]
    low = metric_value(flat, f"{name}_low")
    high = metric_value(flat, f"{name}_high")
    value = format_number(metric_value(flat, name))
    return f"NDCG@10 {value} {format_interval(low, high)}".strip()
