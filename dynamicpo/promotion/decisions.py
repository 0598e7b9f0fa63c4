"""The rules of the gate: paired differences to a decision, and the decision in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dynamicpo.core.arrays import BoolArray, FloatArray
from dynamicpo.core.config_gate import GateConfig
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.model_names import short_version
from dynamicpo.metrics.intervals import Difference, detectable_difference, paired_difference
from dynamicpo.promotion.gate_rows import GateResult, GateRows
from dynamicpo.reports.number_format import format_interval, format_number, format_signed

# The metric of the guardrails on rows.
GUARD_METRIC = "hit_ratio_at_10"
_NOTHING = Difference(0.0, None, None, None)


class Guard(NamedTuple):
    """A guardrail: something that must not become clearly worse.

    Attributes:
        name: What it is.
        num_rows: The rows that it is measured on.
        difference: Challenger minus champion, with its 95 % interval.
        has_failed: Clearly worse by the margin.
    """

    name: str
    num_rows: int
    difference: Difference
    has_failed: bool


@dataclass(frozen=True)
class GateDecision:
    """The decision of a gate.

    Attributes:
        promotes: The challenger becomes the champion.
        reasons: Why, in sentences; the first is the telling one.
        champion: The champion's version; "" where there is none.
        challenger: The challenger's name.
        num_rows: Rows that were compared.
        num_users: Their users.
        differences: Challenger minus each rival in the gate's metric, by version.
        guards: The guardrails against the champion.
        detectable: The smallest difference that these rows show with a probability of 80 %.
        users_needed: Users that it would take to show the margin; 0 where these are enough.
    """

    promotes: bool
    reasons: Sequence[str]
    champion: str
    challenger: str
    num_rows: int
    num_users: int
    differences: Mapping[str, Difference] = field(default_factory=dict)
    guards: Sequence[Guard] = ()
    detectable: float = 0.0
    users_needed: int = 0

    def to_json(self) -> JsonObject:
        """The content of `decision.json`."""
        differences: JsonObject = {}
        for version, difference in self.differences.items():
            differences[version] = difference._asdict()
        guards: JsonObject = {}
        for guard in self.guards:
            guards[guard.name] = {
                **guard.difference._asdict(),
                "rows": guard.num_rows,
                "failed": guard.has_failed,
            }
        return {
            "promotes": self.promotes,
            "reasons": list(self.reasons),
            "champion": self.champion,
            "challenger": self.challenger,
            "rows": self.num_rows,
            "users": self.num_users,
            "differences": differences,
            "guards": guards,
            "detectable": self.detectable,
            "users_needed": self.users_needed,
        }


def first_decision(challenger: str, rows: GateRows) -> GateDecision:
    """The decision where nothing is served yet."""
    reason = f"Promote {challenger}: there is no champion yet."
    return GateDecision(True, [reason], "", challenger, len(rows.users), len(set(rows.users)))


def decide(
    rows: GateRows,
    challenger: GateResult,
    rivals: Mapping[str, GateResult],
    config: GateConfig,
) -> GateDecision:
    """Decide between the champion and a challenger.

    Args:
        rows: The rows.
        challenger: The challenger's results.
        rivals: Those of the champion, first, and of others that it must not be worse than.
        config: Rule, margins, fewest users.
    """
    champion = next(iter(rivals))
    differences = {}
    for version, rival in rivals.items():
        differences[version] = _difference(challenger, rival, config.metric, rows, config)
    guards = _guards(rows, challenger, rivals[champion], config)
    num_users = len(set(rows.users))
    to_champion = differences[champion]
    detectable = detectable_difference(to_champion.low, to_champion.high)
    needed = max(config.min_users, _users_needed(detectable, num_users, config.margin))
    objections = [
        *_too_few(num_users, needed, detectable, config),
        *_not_shown(differences, config),
        *_failed(guards, config),
    ]
    sentence = _sentence(differences[champion], champion, rows, config)
    verb = f"Keep {short_version(champion)}" if objections else f"Promote {config.challenger}"
    return GateDecision(
        promotes=not objections,
        reasons=[f"{verb}: {sentence}", *objections],
        champion=champion,
        challenger=config.challenger,
        num_rows=len(rows.users),
        num_users=num_users,
        differences=differences,
        guards=guards,
        detectable=detectable,
        users_needed=needed if num_users < needed else 0,
    )


def _difference(
    challenger: GateResult, rival: GateResult, metric: str, rows: GateRows, config: GateConfig
) -> Difference:
    return paired_difference(
        challenger.metrics[metric],
        rival.metrics[metric],
        rows.users,
        config.resamples,
        config.seed,
    )


def _guards(
    rows: GateRows, challenger: GateResult, champion: GateResult, config: GateConfig
) -> list[Guard]:
    gains = challenger.metrics[GUARD_METRIC] - champion.metrics[GUARD_METRIC]
    everywhere: BoolArray = np.full(len(rows.users), fill_value=True)
    groups = {
        "HitRatio@10": everywhere,
        "HitRatio@10, new users": rows.is_new_user,
        "HitRatio@10, tail items": rows.is_tail,
    }
    guards = [_guard(name, gains, group, rows, config) for name, group in groups.items()]
    if challenger.valid is not None and champion.valid is not None:
        answers = challenger.valid - champion.valid
        guards.append(_guard("ValidRatio", answers, everywhere, rows, config))
    # A share of the catalogue, and no mean over rows: it has no interval.
    coverage = challenger.coverage - champion.coverage
    has_failed = coverage < -config.guard_margin
    difference = Difference(coverage, None, None, None)
    return [*guards, Guard("coverage", len(rows.users), difference, has_failed)]


def _guard(
    name: str, gains: FloatArray, group: BoolArray, rows: GateRows, config: GateConfig
) -> Guard:
    """A guardrail on some of the rows."""
    users = np.asarray(rows.users)[group]
    if not len(users):
        return Guard(name, 0, _NOTHING, has_failed=False)
    zeros = np.zeros(len(users))
    difference = paired_difference(gains[group], zeros, users, config.resamples, config.seed)
    # Of a single user nothing is clear.
    has_failed = difference.high is not None and difference.high < -config.guard_margin
    return Guard(name, len(users), difference, has_failed)


def _users_needed(detectable: float, num_users: int, margin: float) -> int:
    """The users that it takes to show the margin: errors fall with the root of their number."""
    if math.isinf(detectable):
        return 0
    return math.ceil(num_users * (detectable / margin) ** 2)


def _too_few(num_users: int, needed: int, detectable: float, config: GateConfig) -> list[str]:
    if num_users >= needed:
        return []
    return [
        f"Too few users: {num_users:,}; it takes about {needed:,} (at least {config.min_users:,}) "
        f"to show a difference of {format_number(config.margin)}, these show "
        f"{format_number(detectable)}."
    ]


def _not_shown(differences: Mapping[str, Difference], config: GateConfig) -> list[str]:
    """The rivals that the rule is not met against."""
    limit = 0.0 if config.rule == "superior" else -config.margin
    problems = []
    for version, difference in differences.items():
        if difference.low is None or difference.low <= limit:
            low = math.nan if difference.low is None else difference.low
            problems.append(
                f"Against {short_version(version)} the lower bound must be above "
                f"{format_number(limit)}, it is {format_number(low)}."
            )
    return problems


def _failed(guards: Sequence[Guard], config: GateConfig) -> list[str]:
    failed = [guard for guard in guards if guard.has_failed]
    return [
        f"{guard.name} is clearly worse, by more than {format_number(config.guard_margin)}: "
        f"{_difference_text(guard.difference)}."
        for guard in failed
    ]


def _sentence(difference: Difference, champion: str, rows: GateRows, config: GateConfig) -> str:
    num_users = len(set(rows.users))
    return (
        f"{config.metric} differs by {_difference_text(difference)} from "
        f"{short_version(champion)} on {len(rows.users):,} rows of {num_users:,} users."
    )


def _difference_text(difference: Difference) -> str:
    low = math.nan if difference.low is None else difference.low
    high = math.nan if difference.high is None else difference.high
    interval = format_interval(low, high)
    return f"{format_signed(difference.difference)} {interval}".strip()
