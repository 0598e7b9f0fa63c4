"""Names of metrics, such as `test_hit_ratio_at_1`, and what a reader sees in their place."""

import math
import re
from collections.abc import Collection, Mapping

from dynamicpo.core.choices import SPLITS

# Flat metrics of each model by its name; intervals stand beside as `NAME_low` and `NAME_high`.
ModelMetrics = Mapping[str, Mapping[str, float | None]]

HEADLINE_METRICS = ("hit_ratio_at_1", "hit_ratio_at_5", "ndcg_at_5")
# Of all of these more is better.
_ACCURACY = re.compile(r"^(hit_ratio_at_\d+|ndcg_at_\d+|mrr)$")
_CUTOFF = re.compile(r"_at_(\d+)")
_LABELS = {
    "hit_ratio": "HitRatio",
    "valid_ratio": "ValidRatio",
    "ndcg": "NDCG",
    "mrr": "MRR",
    "gini": "Gini",
}


def metric_names(metrics: ModelMetrics) -> list[str]:
    """All metrics of all models in the order they come, without the bounds of intervals."""
    names: dict[str, None] = {}
    for flat in metrics.values():
        names.update(dict.fromkeys(flat))
    return [name for name in names if not _is_bound(name, names)]


def _is_bound(name: str, names: Collection[str]) -> bool:
    metric, _, suffix = name.rpartition("_")
    return suffix in ("low", "high") and metric in names


def accuracy_names(metrics: ModelMetrics) -> list[str]:
    """The metrics that say how well the right item is ranked."""
    return [name for name in metric_names(metrics) if is_accuracy(name)]


def is_accuracy(name: str) -> bool:
    """True for a metric that says how well the right item is ranked."""
    return bool(_ACCURACY.match(without_split(name)))


def split_of(name: str) -> str:
    """`test` of `test_mrr`; nothing where no split is named."""
    first_word, _, _ = name.partition("_")
    return first_word if first_word in SPLITS else ""


def without_split(name: str) -> str:
    """`mrr` of `test_mrr`."""
    return name.removeprefix(f"{split_of(name)}_")


def metric_label(name: str, with_split: bool = False) -> str:
    """`HitRatio@1` of `test_hit_ratio_at_1`."""
    text = _CUTOFF.sub(r"@\1", without_split(name))
    for word, label in _LABELS.items():
        # As a word alone: `mrr` is not a part of another one.
        pattern = rf"(?<![a-z]){word}(?![a-z])"
        text = re.sub(pattern, label, text)
    text = text.replace("_", " ")
    if text.islower():
        text = text[:1].upper() + text[1:]
    split = split_of(name)
    if with_split and split:
        text = f"{text} ({split})"
    return text


def metric_value(metrics: Mapping[str, float | None], name: str) -> float:
    """A metric that may be missing, or None: NaN then."""
    return value_or_nan(metrics.get(name))


def value_or_nan(value: float | None) -> float:
    """A number, NaN for None (JSON has no NaN)."""
    return math.nan if value is None else float(value)
