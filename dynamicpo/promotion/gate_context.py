"""Facts beside a gate's decision: other metrics, items that are not known, a baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dynamicpo.core.arrays import BoolArray
from dynamicpo.core.config_gate import GateConfig
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.model_names import short_version
from dynamicpo.metrics.intervals import Difference, paired_difference
from dynamicpo.promotion.gate_rows import NDCG_BESIDE, GateResult, GateRows
from dynamicpo.reports.number_format import format_percent

BASELINE = "cooccurrence"
# They can disagree with what decides, and with each other.
_BESIDE = ("hit_ratio_at_1", "ndcg_at_10", *NDCG_BESIDE.values(), "served_ndcg_at_10")


class KnownPart(NamedTuple):
    """The comparison with a rival on the rows whose next item both know.

    Attributes:
        num_unknown: Rows whose next item one of the two can't score, and ranks last.
        share: Their share.
        difference: Challenger minus rival without them; None where there is nothing to leave out,
            or nothing left.
    """

    num_unknown: int
    share: float
    difference: Difference | None


@dataclass(frozen=True)
class GateContext:
    """Facts beside a decision.

    Attributes:
        metric: The metric that it was made on.
        beside: Challenger minus champion in other metrics.
        known: By version, the comparison without what one of the two does not know.
        baseline: Co-occurrence minus challenger and minus champion in the decision's metric.
        notes: What a reader should know, in sentences.
    """

    metric: str
    beside: Mapping[str, Difference] = field(default_factory=dict)
    known: Mapping[str, KnownPart] = field(default_factory=dict)
    baseline: Mapping[str, Difference] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def to_json(self) -> JsonObject:
        """Its entries of `decision.json`."""
        known: JsonObject = {}
        for version, part in self.known.items():
            difference = None if part.difference is None else part.difference._asdict()
            known[version] = {"rows": part.num_unknown, "share": part.share, "without": difference}
        return {
            "metric": self.metric,
            "beside": _as_json(self.beside),
            "unknown_items": known,
            "baseline": _as_json(self.baseline),
            "notes": [*self.notes],
        }


def gate_context(
    rows: GateRows,
    challenger: GateResult,
    rivals: Mapping[str, GateResult],
    baseline: GateResult | None,
    config: GateConfig,
) -> GateContext:
    """Compare what does not decide.

    Args:
        rows: The rows.
        challenger: The challenger's results.
        rivals: Those of the champion, first, and of other versions; none of a first version.
        baseline: Those of co-occurrence; None where it was not evaluated.
        config: The metric that decides, resamples, seed.
    """
    pairs = _Pairs(rows, config)
    beside: dict[str, Difference] = {}
    known = {}
    for version, rival in rivals.items():
        beside = beside or _beside(pairs, challenger, rival)
        known[version] = _known_part(pairs, challenger, rival)
    models = {config.challenger: challenger}
    if rivals:
        champion = next(iter(rivals))
        models[f"champion {short_version(champion)}"] = rivals[champion]
    to_baseline = {}
    # Lists of a first version may be too short for what later decides.
    if baseline is not None and config.metric in baseline.metrics:
        for name, model in models.items():
            to_baseline[name] = pairs.difference(baseline, model, config.metric)
    notes = [_baseline_note(to_baseline), *_known_notes(known), *_repeat_notes(rows)]
    return GateContext(config.metric, beside, known, to_baseline, notes)


class _Pairs:
    """Paired differences on the rows of a gate."""

    def __init__(self, rows: GateRows, config: GateConfig) -> None:
        self.metric = config.metric
        self._users = np.asarray(rows.users)
        self._config = config

    def difference(
        self, a: GateResult, b: GateResult, metric: str, where: BoolArray | None = None
    ) -> Difference:
        """The mean difference a minus b, on some of the rows."""
        gains = a.metrics[metric] - b.metrics[metric]
        users = self._users
        if where is not None:
            gains = gains[where]
            users = users[where]
        zeros = np.zeros(len(gains))
        return paired_difference(gains, zeros, users, self._config.resamples, self._config.seed)


def _beside(pairs: _Pairs, challenger: GateResult, champion: GateResult) -> dict[str, Difference]:
    beside = {}
    for metric in _BESIDE:
        is_there = metric in challenger.metrics and metric in champion.metrics
        if is_there and metric != pairs.metric:
            beside[metric] = pairs.difference(challenger, champion, metric)
    return beside


def _known_part(pairs: _Pairs, challenger: GateResult, rival: GateResult) -> KnownPart:
    is_known = challenger.is_scored & rival.is_scored
    num_unknown = int((~is_known).sum())
    share = num_unknown / len(is_known)
    if not num_unknown or not is_known.any():
        return KnownPart(num_unknown, share, None)
    difference = pairs.difference(challenger, rival, pairs.metric, is_known)
    return KnownPart(num_unknown, share, difference)


def _baseline_note(differences: Mapping[str, Difference]) -> str:
    if not differences:
        return "Co-occurrence was not evaluated: nobody knows whether it would do better."
    beaten = [name for name, difference in differences.items() if (difference.low or 0) > 0]
    if len(beaten) == len(differences):
        return f"Co-occurrence beats {' and '.join(differences)}: serve that."
    if beaten:
        return f"Co-occurrence beats {beaten[0]} alone."
    return f"Co-occurrence beats neither {' nor '.join(differences)} clearly."


def _known_notes(known: Mapping[str, KnownPart]) -> list[str]:
    notes = []
    for version, part in known.items():
        if part.num_unknown:
            notes.append(
                f"Of {format_percent(part.share)} of the rows challenger or "
                f"{short_version(version)} does not know the next item, and ranks it last."
            )
    return notes


def _repeat_notes(rows: GateRows) -> list[str]:
    notes = []
    for version, share in rows.judged_before.items():
        notes.append(
            f"{format_percent(share)} of the rows are those that {short_version(version)} was "
            "published with: they look better for it than others would."
        )
    return notes


def _as_json(differences: Mapping[str, Difference]) -> JsonObject:
    return {name: difference._asdict() for name, difference in differences.items()}
