"""The command on decisions of retraining: what was decided, when, why, and what it took."""

import argparse
import datetime
from typing import TypedDict

from dynamicpo.core.model_names import short_version


class ListedRetraining(TypedDict):
    """A decision in the list.

    Attributes:
        time: When it was made, in UTC.
        kind: Not started, not needed, rolled back, started, promoted or kept.
        window_end: The end of its window, a date in UTC.
        champion: The champion that it was made against; "" where there was none.
        mode: "warm" or "scratch".
        why: In words.
        hours: Hours of trainings and evaluations.
        version: The version that was promoted; "" where none was.
    """

    time: str
    kind: str
    window_end: str
    champion: str
    mode: str
    why: str
    hours: float
    version: str


class RetrainingList(TypedDict):
    """The result of `list-retrainings`: the oldest decision first."""

    retrainings: list[ListedRetraining]


def list_retrainings(arguments: argparse.Namespace) -> RetrainingList:
    """List the decisions of retraining in a store."""
    from dynamicpo.promotion.retraining_history import read_retrainings

    entries: list[ListedRetraining] = []
    for entry in read_retrainings(arguments.store):
        window_end = _as_utc(entry.window_end)
        entries.append(
            {
                "time": _as_utc(entry.time).isoformat(timespec="seconds"),
                "kind": entry.kind,
                "window_end": window_end.date().isoformat(),
                "champion": entry.champion,
                "mode": entry.mode,
                "why": entry.why,
                "hours": entry.hours,
                "version": entry.version,
            }
        )
    return {"retrainings": entries}


def retraining_lines(result: RetrainingList, arguments: argparse.Namespace) -> list[str]:
    """A line for each decision: the end of its window, what was decided, and why."""
    entries = result["retrainings"]
    if not entries:
        return [f"no decisions in {arguments.store}"]
    return [_line(entry) for entry in entries]


def _line(entry: ListedRetraining) -> str:
    line = f"{entry['window_end']}  {entry['kind']:<11}  {entry['why']}"
    if entry["version"]:
        line += f" Version {short_version(entry['version'])}."
    return line


def _as_utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
