"""The headline of an evaluation: the model to ship, its lead, and whether that is sure."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dynamicpo.core.choices import BASELINES
from dynamicpo.reports.number_format import (
    format_interval,
    format_number,
    format_p_value,
    format_signed,
)
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
    value_or_nan,
    without_split,
)
from dynamicpo.reports.pages.order_beside import sentences_beside

# The model in use: the champion, and before there is one what preference training starts from.
_IN_USE = ("champion", "sft")
# Of the baselines those that nothing is trained for; chance is no recommender.
_SIMPLE_BASELINES = ("popularity", "cooccurrence")


class _Lead(NamedTuple):
    """The best model against another one.

    Attributes:
        other: The other.
        difference: Best minus other.
        low: Lower bound of its interval; NaN where there is none.
        high: Upper bound.
        p: Corrected by Holm where it was; NaN where there is none.
        is_clear: It can be told from noise.
    """

    other: str
    difference: float
    low: float
    high: float
    p: float
    is_clear: bool

    @property
    def has_interval(self) -> bool:
        """False where all rows are of one user."""
        return not math.isnan(self.low)

    def as_text(self) -> str:
        """`+.119 [.100, .138], p < .001`."""
        interval = format_interval(self.low, self.high)
        text = f"{format_signed(self.difference)} {interval}".rstrip()
        if math.isnan(self.p):
            return text
        p = format_p_value(self.p)
        return f"{text}, p {p}" if p.startswith("<") else f"{text}, p = {p}"


def evaluation_headline(
    metrics: ModelMetrics, comparisons: Sequence[PairedComparison] = ()
) -> list[str]:
    """The model to ship, its lead over the one in use and over others, and how sure that is."""
    names = accuracy_names(metrics)
    if not names:
        return ["Nothing was evaluated."]
    name = _headline_metric(names)
    values = _usable_values(metrics, name)
    if not values:
        return ["No model has a usable score."]
    best = max(values, key=lambda model: values[model])
    figure = _figure(metrics, name, best)
    if len(values) == 1:
        return [f"{best} reaches {figure}."]
    leads = _leads(best, name, comparisons)
    named = {}
    for other, role in _named_rivals(best, values).items():
        if other in leads and leads[other].has_interval:
            named[other] = role
    first_sentence = _first_sentence(best, figure, leads, named)
    others = [lead for other, lead in leads.items() if other not in named]
    return [first_sentence, *_sentences_on(others), *sentences_beside(metrics, best)]


def _headline_metric(names: Sequence[str]) -> str:
    candidates = (name for name in names if without_split(name) == HEADLINE_METRICS[0])
    return next(candidates, names[0])


def _usable_values(metrics: ModelMetrics, name: str) -> dict[str, float]:
    values = {model: metric_value(flat, name) for model, flat in metrics.items()}
    return {model: value for model, value in values.items() if not math.isnan(value)}


def _figure(metrics: ModelMetrics, name: str, model: str) -> str:
    """`HitRatio@1 .405 [.390, .420] on the test split`."""
    flat = metrics[model]
    low = metric_value(flat, f"{name}_low")
    high = metric_value(flat, f"{name}_high")
    value = format_number(metric_value(flat, name))
    result = f"{metric_label(name)} {value} {format_interval(low, high)}".strip()
    split = split_of(name)
    return f"{result} on the {split} split" if split else result


def _leads(best: str, name: str, comparisons: Iterable[PairedComparison]) -> dict[str, _Lead]:
    """The comparisons of the best model in the headline's metric, by the other's name."""
    leads = {}
    for comparison in comparisons:
        is_same_metric = comparison["metric"] in (name, without_split(name))
        pair = (comparison["a"], comparison["b"])
        if is_same_metric and best in pair:
            lead = _lead(best, comparison)
            leads[lead.other] = lead
    return leads


def _lead(best: str, comparison: PairedComparison) -> _Lead:
    difference = float(comparison["difference"])
    low, high = interval_of(comparison)
    other = comparison["b"]
    # Seen from the best one, whichever of the two the difference is taken from.
    if comparison["b"] == best:
        other = comparison["a"]
        difference, low, high = -difference, -high, -low
    p = comparison.get("p_holm")
    return _Lead(other, difference, low, high, value_or_nan(p), is_clear_difference(comparison))


def _named_rivals(best: str, values: dict[str, float]) -> dict[str, str]:
    """The models that the first sentence compares the best with, and what they are.

    They are the model in use and the simplest baseline; where a baseline is best, the best model.
    """
    rivals = {}
    in_use = next((name for name in _IN_USE if name in values), None)
    models = [name for name in values if name not in BASELINES]
    if best in BASELINES and models:
        rivals[max(models, key=lambda name: values[name])] = "the best of the trained models"
    elif in_use is not None:
        rivals[in_use] = "the model in use"
    simple = [name for name in _SIMPLE_BASELINES if name in values]
    if simple:
        rivals[max(simple, key=lambda name: values[name])] = "the best simple baseline"
    rivals.pop(best, None)
    return rivals


def _first_sentence(best: str, figure: str, leads: dict[str, _Lead], named: dict[str, str]) -> str:
    parts = [f"{_advice(best, leads, named)}: {figure}"]
    for other, role in named.items():
        lead = leads[other]
        verb = "above" if lead.is_clear else "from"
        parts.append(f"{lead.as_text()} {verb} {other}, {role}")
    return f"{'; '.join(parts)}."


def _advice(best: str, leads: dict[str, _Lead], named: dict[str, str]) -> str:
    """The advice, and how sure it is."""
    if best in _IN_USE:
        return f"Keep {best}, the model in use (none ranks better)"
    unclear = [other for other in named if not leads[other].is_clear]
    if unclear:
        return f"{best} ranks best, but can't be told apart from {_listed(unclear)}"
    is_baseline = best in BASELINES
    return (
        f"Ship {best}, a baseline (no trained model ranks better)"
        if is_baseline
        else f"Ship {best}"
    )


def _sentences_on(leads: Iterable[_Lead]) -> list[str]:
    better: list[str] = []
    unclear: list[str] = []
    unknown: list[str] = []
    for lead in leads:
        group = better if lead.is_clear else unclear
        # Rows of a single user have no interval over users.
        if not lead.has_interval:
            group = unknown
        group.append(f"{lead.other} ({format_signed(lead.difference)})")
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
