"""The headline of an evaluation: the best model, and whether that can be told from noise."""

import math
from collections.abc import Sequence

from dynamicpo.reports.number_format import format_interval, format_number, format_signed
from dynamicpo.reports.pages.comparisons import (
    PairedComparison,
    interval_of,
    is_clear_difference,
)
from dynamicpo.reports.pages.metric_names import (
    HEADLINE_METRICS,
    ModelMetrics,
    accuracy_names,
    metric_label,
    metric_value,
    split_of,
    without_split,
)


def evaluation_headline(
    metrics: ModelMetrics, comparisons: Sequence[PairedComparison] = ()
) -> list[str]:
    """The best model, its lead over others, and whether that can be told from noise."""
    names = accuracy_names(metrics)
    if not names:
        return ["Nothing was evaluated."]
    name = _headline_metric(names)
    best = _best_model(metrics, name)
    if best is None:
        return ["No model has a usable score."]
    first_sentence = _best_sentence(metrics, name, best)
    return [first_sentence, *_comparison_sentences(best, name, comparisons)]


def _headline_metric(names: Sequence[str]) -> str:
    candidates = (name for name in names if without_split(name) == HEADLINE_METRICS[0])
    return next(candidates, names[0])


def _usable_values(metrics: ModelMetrics, name: str) -> dict[str, float]:
    values = {model: metric_value(flat, name) for model, flat in metrics.items()}
    return {model: value for model, value in values.items() if not math.isnan(value)}


def _best_model(metrics: ModelMetrics, name: str) -> str | None:
    values = _usable_values(metrics, name)
    return max(values, key=lambda model: values[model], default=None)


def _best_sentence(metrics: ModelMetrics, name: str, best: str) -> str:
    flat = metrics[best]
    value = metric_value(flat, name)
    low = metric_value(flat, f"{name}_low")
    high = metric_value(flat, f"{name}_high")
    words = [metric_label(name), format_number(value), format_interval(low, high)]
    result = " ".join(words).strip()
    split = split_of(name)
    if split:
        result += f" on the {split} split"
    num_models = len(_usable_values(metrics, name))
    if num_models > 1:
        return f"{best} ranks best: {result}."
    return f"{best} reaches {result}."


def _comparison_sentences(
    best: str, name: str, comparisons: Sequence[PairedComparison]
) -> list[str]:
    better: list[str] = []
    unclear: list[str] = []
    unknown: list[str] = []
    for comparison in comparisons:
        is_same_metric = comparison["metric"] in (name, without_split(name))
        pair = (comparison["a"], comparison["b"])
        if not is_same_metric or best not in pair:
            continue
        other = pair[1] if pair[0] == best else pair[0]
        # The best one leads, whichever of the two the difference is taken from.
        lead = format_signed(abs(float(comparison["difference"])))
        group = unclear
        # Rows of a single user have no interval over users.
        if math.isnan(interval_of(comparison)[0]):
            group = unknown
        elif is_clear_difference(comparison):
            group = better
        group.append(f"{other} ({lead})")
    sentences = []
    if better:
        sentences.append(f"It is clearly better than {_listed(better)}.")
    if unclear:
        sentences.append(f"It can't be told apart from {_listed(unclear)}.")
    if unknown:
        sentences.append(f"Intervals against {_listed(unknown)} are not available.")
    return sentences


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    if not others:
        return last
    return f"{', '.join(others)} and {last}"
