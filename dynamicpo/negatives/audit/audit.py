"""Audit of candidate lists, in published rows or in a preferences folder, for leaks.

Lists leak when an attacker's hit ratio on them is above the 95 % interval that it has on lists
drawn anew, see `leak_check`.
"""

from pathlib import Path
from typing import NotRequired, TypedDict

from dynamicpo.core.errors import ConfigError
from dynamicpo.negatives.audit.leak_check import (
    MIN_REDRAWS,
    Audit,
    attackers_of,
    measure_leaks,
)
from dynamicpo.negatives.audit.sources import encode_candidates, make_id_catalogue, read_source


class AttackerFinding(TypedDict):
    """The result of one attacker.

    Attributes:
        hit_ratio_at_1: The attacker's hit ratio on the lists as they are.
        chance: Its mean on lists drawn anew.
        low: Lower end of the 95 % interval for one more redraw.
        high: Its upper end.
        leak: True where the hit ratio is above `high`.
    """

    hit_ratio_at_1: float
    chance: float
    low: float
    high: float
    leak: bool


class CandidateAudit(AttackerFinding):
    """The result of an audit: of the attacker who is blind to the history, and `leak` of both.

    Attributes:
        by_history: Of the one who picks the candidate that stands in the history, where negatives
            exclude the target alone.
    """

    by_history: NotRequired[AttackerFinding]


def audit_candidates(
    train: Path | str,
    test: Path | str,
    *,
    redraws: int = MIN_REDRAWS,
    rows: int = 10_000,
    seed: int = 0,
) -> CandidateAudit:
    """Attack the test rows' candidate lists, having learnt from those of the training rows.

    Args:
        train: Published rows (.json or .jsonl), a preferences folder (its training split), or a
            split's folder.
        test: The same; of a preferences folder its test split.
        redraws: Number of times that the lists are redrawn for the null distribution, >= 20.
        rows: At most this many rows of each are used, chosen at random by key (0: all).
        seed: Seed of the redraws and of the choice of rows.

    Raises:
        ConfigError: Too few redraws.
        DataError: Rows that can't be read or used.
    """
    if redraws < MIN_REDRAWS:
        raise ConfigError(
            f"redraws: must be >= {MIN_REDRAWS} for a 95 % interval, got {redraws}. Raise it."
        )
    train_source = read_source(Path(train), "train")
    test_source = read_source(Path(test), "test")
    catalogue = make_id_catalogue([*train_source.item_ids, *test_source.item_ids])
    first_rows = slice(rows or None)
    known = encode_candidates(train_source, catalogue, seed, first_rows)
    attacked = encode_candidates(test_source, catalogue, seed, first_rows)
    audits = measure_leaks(known, attacked, redraws, attackers_of(test_source.exclude))
    blind, *others = [_finding(audit) for audit in audits]
    if not others:
        return {**blind}  # type: ignore[typeddict-item]
    (by_history,) = others
    is_leak = blind["leak"] or by_history["leak"]
    return {**blind, "leak": is_leak, "by_history": by_history}


def _finding(audit: Audit) -> AttackerFinding:
    return {
        "hit_ratio_at_1": audit.hit_ratio_at_1,
        "chance": audit.chance,
        "low": audit.low,
        "high": audit.high,
        "leak": audit.hit_ratio_at_1 > audit.high,
    }
