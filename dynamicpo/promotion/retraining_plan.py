"""The decision whether retraining starts, on which window, and from which weights.

`plan_retraining` decides from facts alone; `decide_retraining` reads them, and writes it down.
"""

import datetime
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dynamicpo.core.config_inputs import epoch_seconds
from dynamicpo.core.config_retraining import SCRATCH, WARM, RetrainConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.model_names import short_version
from dynamicpo.core.records.manifest import Manifest, config_dict, write_json
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.storage.addresses import join
from dynamicpo.promotion.retraining_facts import RetrainingFacts, retraining_facts
from dynamicpo.promotion.retraining_history import (
    DAY_SECONDS,
    NOT_STARTED,
    STARTED,
    RetrainingEntry,
    add_retraining,
    recent_entries,
    spent_hours,
    trainings_since_scratch,
)
from dynamicpo.promotion.versions import version_uri

# Clocks of several machines are never quite the same.
_CLOCK_TOLERANCE_SECONDS = 3600


class DataWindow(NamedTuple):
    """The cuts of a window, epoch seconds: training, validation and fresh rows end there."""

    train_until: float
    validation_until: float
    data_until: float

    def as_settings(self) -> dict[str, str]:
        """The settings of data preparation that cut so."""
        cuts = {name: _as_date(seconds) for name, seconds in self._asdict().items()}
        return {"split": "dates", **cuts}


@dataclass(frozen=True)
class RetrainingPlan:
    """The decision.

    Attributes:
        starts: The window is prepared, checked, and trained on if it drifted.
        why: In sentences.
        champion: The champion that everything after this compares with; "" for none.
        start_from: URI of the model that SFT starts from; "" for the backbone.
        mode: "warm" or "scratch".
        window: The new window.
        data: A name for the content of the data.
        run: A name for this run.
        store: The store of versions and decisions.
        forced: It trains though nothing drifted.
        hour_price: Price of an hour of training.
    """

    starts: bool
    why: str
    champion: str
    start_from: str
    mode: str
    window: DataWindow
    data: str
    run: str
    store: str
    forced: bool
    hour_price: float

    def entry(self, kind: str, why: str, hours: float = 0.0, version: str = "") -> RetrainingEntry:
        """An entry of the history about this run."""
        now = time.time()
        end = self.window.data_until
        return RetrainingEntry(
            self.run, kind, now, end, self.champion, self.mode, why, hours, version
        )

    def to_json(self) -> JsonObject:
        """The decision as tasks of one run hand it on."""
        return {**asdict(self), "window": list(self.window)}


def plan_of(value: Mapping[str, Any]) -> RetrainingPlan:
    """The decision that was handed on."""
    return RetrainingPlan(**{**value, "window": DataWindow(*value["window"])})


def decide_retraining(sources: Sequence[str], output: Path, config: RetrainConfig) -> Manifest:
    """Decide whether retraining starts, by a store and a listing of the data, and write it down.

    Args:
        sources: Files, folders or prefixes of the data.
        output: Folder to make: `decision.json`, `decision.md`.
        config: The store, the window, mode and limits.

    Returns:
        The manifest; `counts` holds `starts`, `extra` the decision.

    Raises:
        ConfigError: No store is named, or the window begins before all times.
        DataError: Something can't be read or written, or the clock is behind the history.
    """
    facts = retraining_facts(sources, config, time.time())
    inputs = {"champion": facts.champion, "data": facts.data, "history": str(len(facts.history))}
    manifest = Manifest("decide_retraining", config_dict(config), inputs)
    if (existing := finished(output, manifest)) is not None:
        return existing
    plan = plan_retraining(facts, config)
    with stage_output(output, manifest) as folder:
        write_json(folder / "decision.json", plan.to_json())
        (folder / "decision.md").write_text(f"{plan.why}\n", encoding="utf-8")
        manifest.counts = {"starts": plan.starts}
        manifest.extra = {"decision": plan.to_json()}
    if not plan.starts:
        add_retraining(config.store, plan.entry(NOT_STARTED, plan.why))
    return manifest


def plan_retraining(facts: RetrainingFacts, config: RetrainConfig) -> RetrainingPlan:
    """Decide whether retraining starts.

    Args:
        facts: The champion, the history, the data, the time.
        config: The window, mode and limits.

    Raises:
        ConfigError: The window begins before all times.
        DataError: The clock is behind the history.
    """
    _check_clock(facts, config.store)
    window = _window(config, facts.now)
    mode, why_mode = _mode(facts, config)
    objection = _objection(facts, window, config)
    hours = _last_hours(facts.history)
    expected = cost_text(hours, config.hour_price)
    why = objection or f"Look at the window {_window_text(window)}: {why_mode}. {expected}"
    return RetrainingPlan(
        starts=not objection,
        why=why,
        champion=facts.champion,
        start_from=_start_uri(facts, mode, config),
        mode=mode,
        window=window,
        data=facts.data,
        run=f"{facts.now:.3f}",
        store=config.store,
        forced=config.forced,
        hour_price=config.hour_price,
    )


def cost_text(hours: float, price: float, subject: str = "The last training took") -> str:
    """A sentence on hours and their price."""
    if math.isnan(hours):
        return "No training has told yet what one takes."
    cost = f", {hours * price:.2f} at {price:g} an hour" if price else ""
    time_text = f"{hours:.2f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
    return f"{subject} {time_text}{cost}."


def _check_clock(facts: RetrainingFacts, store: str) -> None:
    times = [entry.time for entry in facts.history]
    latest = max(times, default=-math.inf)
    if latest > facts.now + _CLOCK_TOLERANCE_SECONDS:
        raise DataError(
            f"retraining: this machine's clock must not be behind the history, but it says "
            f"{_as_time(facts.now)}, and the last decision was made at {_as_time(latest)}. "
            f"Set this clock; if it is right, delete later decisions from {store}/retrainings."
        )


def _window(config: RetrainConfig, now: float) -> DataWindow:
    end = epoch_seconds("until", config.until)
    if end is None:
        # Whole days: two runs of a day look at the same window.
        end = now // DAY_SECONDS * DAY_SECONDS
    fresh_from = end - config.window_days * DAY_SECONDS
    validation_from = fresh_from - config.validation_days * DAY_SECONDS
    if validation_from < 0:
        raise ConfigError(
            f"window_days and validation_days: must end after 1970, counted back from "
            f"{_as_date(end)}, got {config.window_days} and {config.validation_days}. Lower them."
        )
    return DataWindow(validation_from, fresh_from, end)


def _mode(facts: RetrainingFacts, config: RetrainConfig) -> tuple[str, str]:
    """Warm or scratch, and why."""
    if not facts.champion:
        return SCRATCH, "there is no champion yet, so training starts from the backbone"
    if config.mode == SCRATCH:
        return SCRATCH, "training would start from the backbone, as asked for"
    num_warm = trainings_since_scratch(facts.history)
    if config.scratch_every and num_warm >= config.scratch_every - 1:
        return SCRATCH, f"training would start from the backbone, after {num_warm} warm ones"
    return WARM, f"training would start from champion {short_version(facts.champion)}"


def _start_uri(facts: RetrainingFacts, mode: str, config: RetrainConfig) -> str:
    if mode == SCRATCH:
        return ""
    return join(version_uri(config.store, facts.champion), "model")


Objection = Callable[[RetrainingFacts, DataWindow, RetrainConfig], str]


def _objection(facts: RetrainingFacts, window: DataWindow, config: RetrainConfig) -> str:
    """The reason why nothing starts; "" where there is none."""
    # To force is to know better about the data, not about the budget.
    rules: list[Objection] = [_too_many_runs, _too_many_hours]
    if facts.champion:
        rules.append(_nothing_fresh)
        rules += [] if config.forced else [_answered]
    for rule in rules:
        reason = rule(facts, window, config)
        if reason:
            return f"Nothing starts: {reason}"
    return ""


def _too_many_runs(facts: RetrainingFacts, _: DataWindow, config: RetrainConfig) -> str:
    recent = recent_entries(facts.history, facts.now)
    num_runs = sum(entry.kind == STARTED for entry in recent)
    if not config.max_runs or num_runs < config.max_runs:
        return ""
    return f"{num_runs} trainings in 30 days, and max_runs is {config.max_runs}."


def _too_many_hours(facts: RetrainingFacts, _: DataWindow, config: RetrainConfig) -> str:
    hours = spent_hours(recent_entries(facts.history, facts.now))
    if not config.max_gpu_hours or hours < config.max_gpu_hours:
        return ""
    return f"{hours:.2f} hours in 30 days, and max_gpu_hours is {config.max_gpu_hours:g}."


def _nothing_fresh(facts: RetrainingFacts, window: DataWindow, _: RetrainConfig) -> str:
    if window.validation_until > facts.seen_until:
        return ""
    return (
        f"champion {short_version(facts.champion)} was trained or chosen on rows until "
        f"{_as_time(facts.seen_until)}, and fresh rows would begin at "
        f"{_as_time(window.validation_until)}: nothing could be told from them."
    )


def _answered(facts: RetrainingFacts, window: DataWindow, config: RetrainConfig) -> str:
    outcomes = [entry for entry in facts.history if entry.is_outcome]
    if not outcomes:
        return ""
    last = outcomes[-1]
    if last.window_end == window.data_until:
        return f"this window was answered already ({last.kind}): {last.why}"
    days = (window.data_until - last.window_end) / DAY_SECONDS
    if days < config.min_days:
        return (
            f"the last training's window ended {days:g} days before this one, and min_days is "
            f"{config.min_days}."
        )
    return ""


def _last_hours(history: Sequence[RetrainingEntry]) -> float:
    hours = [entry.hours for entry in history if entry.is_outcome]
    return hours[-1] if hours else math.nan


def _window_text(window: DataWindow) -> str:
    return f"{_as_date(window.validation_until)} to {_as_date(window.data_until)}"


def _as_time(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="seconds").removesuffix("+00:00")


def _as_date(seconds: float) -> str:
    """A date, or a time where it is none of midnight, as data preparation reads it."""
    return _as_time(seconds).removesuffix("T00:00:00")
