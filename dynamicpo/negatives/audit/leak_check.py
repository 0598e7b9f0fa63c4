"""Measurement of what candidate lists alone give away, and the refusal of lists that leak.

A history-blind attacker learns from the training rows' lists and picks an item from each list of
the test rows. Popularity alone lifts it above 1 / A, so it is measured against itself, trained and
tested anew on lists that are drawn uniformly, by row, for the same rows.

Where users repeat items and negatives exclude the target alone, a second attacker picks the
candidate that stands in the history. Repeats are a signal, so it is better than chance on any
lists; it must be no better on these than on lists drawn anew.

Negative sampling and evaluation audit some thousand rows of every run. A false alarm in forty clean
runs, as with a 95 % interval, would be too often there: they refuse lists above the 99.9 %
interval, whose spread is at least that of coin tosses. So few rows never raise an alarm by chance.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NotRequired, TypedDict, final

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import special

from dynamicpo.core.errors import CheckFailedError, DataError
from dynamicpo.negatives.audit.attacker import attack, attack_by_history
from dynamicpo.negatives.audit.candidate_lists import CandidateLists, redraw
from dynamicpo.negatives.audit.sources import RowSource, encode_candidates, make_id_catalogue

log = logging.getLogger(__name__)

MIN_REDRAWS = 20
STAGE_ROWS = 4000  # of each kind, which takes about 2 s
_USUAL_LEVEL = 0.95
_REFUSAL_LEVEL = 0.999
_BLIND = "a lookup that ignores the history"
_BY_HISTORY = "picking the candidate that stands in the history"

# Rows to learn from and rows to guess, to a hit ratio.
Attacker = Callable[[CandidateLists, CandidateLists], float]


class Audit(NamedTuple):
    """Hit ratios of the attacker on lists as they are and on lists drawn anew.

    Attributes:
        hit_ratio_at_1: On the lists as they are.
        chance: The mean on lists drawn anew.
        low: Lower end of the 95 % interval for one more redraw.
        high: Its upper end.
        limit: The hit ratio above which a stage refuses the lists.
        rows: Rows attacked.
    """

    hit_ratio_at_1: float
    chance: float
    low: float
    high: float
    limit: float
    rows: int


class AttackResult(TypedDict):
    """The fields of `Audit`, and `leak`: True where the hit ratio is above the limit."""

    hit_ratio_at_1: float
    chance: float
    low: float
    high: float
    limit: float
    rows: int
    leak: bool


@final
class SplitAudit(AttackResult):
    """The result of the attacker who is blind to the history.

    Attributes:
        by_history: The result of the second attacker, where negatives exclude the target alone.
    """

    by_history: NotRequired[AttackResult]


@final
class SkippedAudit(TypedDict):
    """The reason for which a split was not audited."""

    skipped: str


def audit_split(
    tables: Mapping[str, pa.Table], split: str, items: pd.DataFrame, exclude: str, seed: int = 0
) -> SplitAudit | SkippedAudit:
    """Attack a split's lists, having learnt from those of the training split.

    Args:
        tables: The rows of every split, those of `split` and of training with candidates.
        split: The split to attack; the training split with its own other half.
        items: The items table.
        exclude: The rule by which the rows' negatives exclude items: window, past, all or target.
        seed: Seed of the redraws and of the random choice of rows.
    """
    min_rows = {split: 1, "train": 2 if split == "train" else 1}
    too_small = [name for name, number in min_rows.items() if len(tables[name]) < number]
    if too_small:
        return {"skipped": f"too few rows in the {too_small[0]} split"}
    item_ids = items["item_id"].tolist()
    catalogue = make_id_catalogue(item_ids)
    known_part, attacked_part = _row_parts(split, len(tables["train"]))
    known_source = RowSource("train split", "train", tables, item_ids, exclude)
    attacked_source = RowSource(f"{split} split", split, tables, item_ids, exclude)
    known = encode_candidates(known_source, catalogue, seed, known_part)
    attacked = encode_candidates(attacked_source, catalogue, seed, attacked_part)
    try:
        audits = measure_leaks(known, attacked, MIN_REDRAWS, attackers_of(exclude))
    except DataError as error:  # a catalogue hardly larger than its lists
        return {"skipped": str(error)}
    blind, *others = [_attack_result(audit) for audit in audits]
    return {**blind, "by_history": others[0]} if others else {**blind}  # type: ignore[typeddict-item]


def attackers_of(exclude: str) -> list[Attacker]:
    """The attackers that lists of a rule of exclusion must withstand, the blind one first."""
    return [attack, attack_by_history] if exclude == "target" else [attack]


def _attack_result(audit: Audit) -> AttackResult:
    return {
        "hit_ratio_at_1": audit.hit_ratio_at_1,
        "chance": audit.chance,
        "low": audit.low,
        "high": audit.high,
        "limit": audit.limit,
        "rows": audit.rows,
        "leak": audit.hit_ratio_at_1 > audit.limit,
    }


def _row_parts(split: str, num_train_rows: int) -> tuple[slice, slice]:
    """Choose the rows to learn from and those to attack: few, so that an audit takes seconds."""
    if split != "train":
        first_rows = slice(STAGE_ROWS)
        return first_rows, first_rows
    # Two halves: an attacker who has seen the very rows would know their targets.
    half = min(STAGE_ROWS, num_train_rows // 2)
    first_half = slice(half)
    second_half = slice(half, 2 * half)
    return first_half, second_half


def check_audit(audit: SplitAudit | SkippedAudit, where: str, allow: bool) -> list[str]:
    """Refuse lists that leak, unless that is allowed.

    Args:
        audit: From `audit_split`.
        where: The audited rows' name in messages.
        allow: Whether a leak becomes a warning instead of an error.

    Returns:
        Warnings for every report: one, or none.

    Raises:
        CheckFailedError: A leak that is not allowed.
    """
    if "skipped" in audit:
        log.warning("%s: candidate lists not audited: %s", where, audit["skipped"])
        return []
    warnings = _check_result(audit, _BLIND, where, allow)
    if "by_history" in audit:
        warnings += _check_result(audit["by_history"], _BY_HISTORY, where, allow)
    return warnings


def _check_result(result: AttackResult, attacker: str, where: str, allow: bool) -> list[str]:
    finding = (
        f"{attacker} reaches HitRatio@1 {result['hit_ratio_at_1']:.3f} on "
        f"{result['rows']} rows, against {result['chance']:.3f} "
        f"[{result['low']:.3f}, {result['high']:.3f}] on lists drawn anew"
    )
    if result["leak"] and not allow:
        raise CheckFailedError(
            f"{where}: candidate lists must not give the answer away, but {finding}. Draw fresh "
            "negatives (strategy uniform), or accept it with --allow-leak (allow_leak: true), "
            "which marks every report."
        )
    is_unusual = result["hit_ratio_at_1"] > result["high"]
    log.log(logging.WARNING if is_unusual else logging.INFO, "%s: %s", where, finding)
    if not result["leak"]:
        return []
    return [f"LEAK: the candidate lists of the {where} give the answer away: {finding}."]


def measure_leaks(
    known: CandidateLists, attacked: CandidateLists, redraws: int, attackers: Sequence[Attacker]
) -> list[Audit]:
    """Attack lists as they are and as often as `redraws` says on lists drawn anew.

    Args:
        known: Rows to learn from.
        attacked: Rows to attack.
        redraws: Number of times that the lists of both are drawn anew, for the null distribution.
        attackers: Each attacks the same lists.

    Returns:
        What each attacker finds.
    """
    null_hit_ratios: list[list[float]] = [[] for _ in attackers]
    for number in range(redraws):
        known_again = redraw(known, number)
        attacked_again = redraw(attacked, number)
        for attacker, hit_ratios in zip(attackers, null_hit_ratios, strict=True):
            hit_ratios.append(attacker(known_again, attacked_again))
    num_rows = len(attacked.targets)
    audits = []
    for attacker, hit_ratios in zip(attackers, null_hit_ratios, strict=True):
        hit_ratio = attacker(known, attacked)
        audits.append(_against_null(hit_ratio, hit_ratios, num_rows))
    return audits


def _against_null(hit_ratio: float, null_hit_ratios: Sequence[float], num_rows: int) -> Audit:
    """Compare a hit ratio with those on lists drawn anew."""
    redraws = len(null_hit_ratios)
    chance = float(np.mean(null_hit_ratios))
    spread = float(np.std(null_hit_ratios, ddof=1))
    low, high = _prediction_interval(chance, spread, _USUAL_LEVEL, redraws)
    # Redraws of few rows may all agree, by chance.
    safe_spread = max(spread, _coin_spread(chance, num_rows))
    _, limit = _prediction_interval(chance, safe_spread, _REFUSAL_LEVEL, redraws)
    return Audit(
        hit_ratio_at_1=hit_ratio,
        chance=chance,
        low=low,
        high=high,
        limit=limit,
        rows=num_rows,
    )


def _coin_spread(chance: float, num_rows: int) -> float:
    """Standard deviation of a hit ratio whose rows are independent coin tosses."""
    # Laplace's rule of succession: an estimate that is never 0 or 1.
    probability = (num_rows * chance + 1) / (num_rows + 2)
    variance = probability * (1 - probability)
    return math.sqrt(variance / num_rows)


def _prediction_interval(
    mean: float, spread: float, level: float, redraws: int
) -> tuple[float, float]:
    """Interval in which one more redraw falls with a probability of `level`.

    A prediction interval, not one for the mean: Student's t as the spread is estimated, and the
    factor sqrt(1 + 1 / redraws) as the mean is, too.
    """
    upper_quantile = (1 + level) / 2
    t = float(special.stdtrit(redraws - 1, upper_quantile))
    uncertainty_of_mean = math.sqrt(1 + 1 / redraws)
    half_width = t * spread * uncertainty_of_mean
    # A hit ratio lies between 0 and 1.
    low = max(mean - half_width, 0.0)
    high = min(mean + half_width, 1.0)
    return low, high
