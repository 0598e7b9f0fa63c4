"""The check of a new window: whether the champion's successor is trained on it, and why."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dynamicpo.core.config import DriftConfig
from dynamicpo.core.model_names import short_version
from dynamicpo.core.records.manifest import Manifest, config_dict, input_fingerprint
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.promotion.retraining_facts import current_champion
from dynamicpo.promotion.retraining_history import (
    NOT_NEEDED,
    ROLLED_BACK,
    STARTED,
    add_retraining,
)
from dynamicpo.promotion.retraining_plan import RetrainingPlan
from dynamicpo.promotion.version_drift import monitor_window
from dynamicpo.reports.pages.layout import page

NO_CHAMPION = "no champion"


class WindowCheck(NamedTuple):
    """The result.

    Attributes:
        trains: A successor is trained.
        why: In a sentence.
        drift: The manifest of the drift check.
    """

    trains: bool
    why: str
    drift: Manifest


def check_window(
    current: Path, output: Path, config: DriftConfig, plan: RetrainingPlan
) -> WindowCheck:
    """Decide whether a successor is trained on a window, and keep the decision in the history.

    Args:
        current: The window's rows, an output of `sample-negatives`.
        output: Folder to make: the drift check against the plan's champion.
        config: Its thresholds and users.
        plan: The decision that the run began with.

    Raises:
        DataError: The window is empty, or something can't be read or written.
    """
    if plan.champion:
        drift = monitor_window(None, current, output, _against_champion(config, plan))
    else:
        drift = _first_window(current, output, config)
    kind, why = _verdict(drift, plan)
    add_retraining(plan.store, plan.entry(kind, why))
    return WindowCheck(kind == STARTED, why, drift)


def _against_champion(config: DriftConfig, plan: RetrainingPlan) -> DriftConfig:
    # By its name: another one may be the champion by now.
    return replace(config, store=plan.store, version=plan.champion)


def _verdict(drift: Manifest, plan: RetrainingPlan) -> tuple[str, str]:
    """The kind of the decision, and why."""
    if not plan.champion:
        return STARTED, "Train: there is no champion yet."
    champion = current_champion(plan.store)
    if champion != plan.champion:
        return ROLLED_BACK, _moved(champion, drift, plan)
    status = f"{drift.extra['status']} since champion {short_version(plan.champion)}"
    if drift.counts["drifted"]:
        return STARTED, f"Train: {status}."
    if plan.forced:
        return STARTED, f"Train, as asked for: {status}."
    return NOT_NEEDED, f"Train nothing: {status}."


def _moved(champion: str, drift: Manifest, plan: RetrainingPlan) -> str:
    check = drift.extra.get("rollback") or {}
    reason = check.get("reason", "It moved while this run was under way.")
    # A challenger of this run would have to face a version that the run does not know.
    return (
        f"Train nothing: the champion is {short_version(champion)} now, no longer "
        f"{short_version(plan.champion)}. {reason} The next run compares with it."
    )


def _first_window(current: Path, output: Path, config: DriftConfig) -> Manifest:
    """The output of a check where there is nothing to compare with."""
    inputs = {"current": input_fingerprint(current)}
    manifest = Manifest("monitor_drift", config_dict(config), inputs)
    if (existing := finished(output, manifest)) is not None:
        return existing
    with stage_output(output, manifest) as folder:
        text = page("Drift", ["There is no champion yet: nothing to compare with."], [], {})
        (folder / "report.html").write_text(text, encoding="utf-8")
        manifest.counts = {"drifted": False}
        manifest.extra = {"status": NO_CHAMPION}
    return manifest
