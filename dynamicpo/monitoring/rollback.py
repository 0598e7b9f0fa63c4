"""The previous champion on fresh rows: where it is clearly better, a rollback is recommended."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.config import DriftConfig
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.model_names import short_version
from dynamicpo.core.records.manifest import write_json
from dynamicpo.core.records.version_folders import model_of
from dynamicpo.metrics.intervals import Difference, paired_difference
from dynamicpo.metrics.ranking import row_metrics
from dynamicpo.monitoring.signals import ListedScores, window_scores
from dynamicpo.monitoring.windows import Window
from dynamicpo.reports.number_format import format_count, format_number, format_signed
from dynamicpo.reports.pages.rollback import RollbackReport, rollback_markdown, rollback_page

_TEXT_FILE = "rollback.md"  # of a drift check against a champion
_METRIC = "ndcg_at_10"
_CUT_OFF = 10


class VersionCopy(NamedTuple):
    """A version that was copied.

    Attributes:
        name: The version's name.
        folder: The copy.
        seen_until: Time of the last row that it may know, in epoch seconds.
    """

    name: str
    folder: Path
    seen_until: float


class ChampionPair(NamedTuple):
    """The champion, and the version that was it before; None where there is none any more."""

    champion: VersionCopy
    previous: VersionCopy | None


@dataclass(frozen=True)
class RollbackCheck:
    """The comparison of both on fresh rows.

    Attributes:
        champion: Version.
        previous: Version; "" where there is none.
        recommends: The previous champion is clearly better, by the margin.
        reason: Why, or why not.
        num_rows: Rows that were compared.
        num_users: Their users.
        difference: Previous champion minus champion in NDCG@10 of listed candidates; None where
            they were not compared.
    """

    champion: str
    previous: str
    recommends: bool
    reason: str
    num_rows: int = 0
    num_users: int = 0
    difference: Difference | None = None

    def to_json(self) -> JsonObject:
        """The content of `rollback.json`."""
        values: JsonObject = asdict(self)
        values["difference"] = None if self.difference is None else self.difference._asdict()
        return values


def check_rollback(
    pair: ChampionPair, scores: ListedScores | None, window: Window, config: DriftConfig
) -> RollbackCheck:
    """Compare the previous champion with the champion.

    Args:
        pair: Both.
        scores: Those of the champion on the rows, where they are known.
        window: Fresh rows.
        config: Margin, fewest users, seed.

    Raises:
        DataError: A model can't be read.
    """
    champion = pair.champion.name
    if pair.previous is None:
        reason = "There is no champion before the present one to go back to."
        return RollbackCheck(champion, "", recommends=False, reason=reason)
    known = _not_fresh(pair.champion, window) or _not_fresh(pair.previous, window)
    if known:
        return RollbackCheck(champion, pair.previous.name, recommends=False, reason=known)
    if scores is None:
        scores = _scores(pair.champion, "champion", window, config)
    previous = _scores(pair.previous, "previous champion", window, config)
    users = window.rows["user_id"].to_pylist()
    difference = paired_difference(_gains(previous), _gains(scores), users, seed=config.seed)
    num_users = len({*users})
    recommends, reason = _judge(difference, num_users, pair.previous.name, config)
    return RollbackCheck(
        champion=champion,
        previous=pair.previous.name,
        recommends=recommends,
        reason=reason,
        num_rows=len(users),
        num_users=num_users,
        difference=difference,
    )


def write_rollback(folder: Path, check: RollbackCheck) -> None:
    """Write the files of a comparison beside those of a drift check."""
    write_json(folder / "rollback.json", check.to_json())
    report = RollbackReport(check.reason, check.to_json())
    (folder / _TEXT_FILE).write_text(rollback_markdown(report), encoding="utf-8")
    (folder / "rollback.html").write_text(rollback_page(report), encoding="utf-8")


def rollback_text(drift: Path) -> str:
    """The recommendation of a drift check, in Markdown."""
    path = drift / _TEXT_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    return "The check was not against a champion: there is none to compare it with.\n"


def _judge(
    difference: Difference, num_users: int, previous: str, config: DriftConfig
) -> tuple[bool, str]:
    margin = format_number(config.rollback_margin)
    measured = (
        f"{short_version(previous)} differs by {format_signed(difference.difference)} in NDCG@10 "
        f"from the champion on fresh rows of {format_count(num_users)} users"
    )
    if num_users < config.min_users:
        fewest = format_count(config.min_users)
        return False, f"Keep the champion: {measured}, too few to tell (it takes {fewest})."
    # Of a single user nothing is clear.
    low = difference.low
    if low is None or low <= config.rollback_margin:
        return False, f"Keep the champion: {measured}, not clearly by more than {margin}."
    return True, f"Roll back: {measured}, clearly by more than {margin}."


def _not_fresh(version: VersionCopy, window: Window) -> str:
    """The reason why rows can't judge a version that may know them; empty where they can."""
    first = float(window.rows["timestamp"].to_numpy().min())
    if first > version.seen_until:
        return ""
    return (
        f"Not compared: rows must be later than all that {short_version(version.name)} was trained "
        f"or chosen on, but they begin at {first:.0f} and that ended at {version.seen_until:.0f} "
        "(epoch seconds)."
    )


def _scores(version: VersionCopy, name: str, window: Window, config: DriftConfig) -> ListedScores:
    where = f"current window with the {name}"
    return window_scores(model_of(version.folder), window, where, config)


def _gains(scores: ListedScores) -> FloatArray:
    """NDCG@10 of each row; what a model can't score it ranks last. Shape (N,)."""
    target = scores.target[:, None]
    num_negatives = scores.negatives.shape[1]
    better = (scores.negatives > target).sum(axis=1)
    tied = (scores.negatives == target).sum(axis=1)
    is_unknown = np.isnan(scores.target)
    better = np.where(is_unknown, num_negatives, better)
    tied = np.where(is_unknown, 0, tied)
    values = row_metrics(better, tied, num_candidates=_CUT_OFF, ks=[_CUT_OFF])
    return values[_METRIC]
