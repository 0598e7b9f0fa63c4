"""Retraining starts on a window that can tell something, within its limits, and says why."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from dynamicpo.core.config_retraining import RetrainConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.promotion.champion import Reason, promote_version
from dynamicpo.promotion.retraining_facts import (
    RetrainingFacts,
    data_fingerprint,
    retraining_facts,
)
from dynamicpo.promotion.retraining_history import (
    KEPT,
    PROMOTED,
    STARTED,
    RetrainingEntry,
    add_retraining,
    read_retrainings,
)
from dynamicpo.promotion.retraining_plan import RetrainingPlan, plan_retraining
from dynamicpo.promotion.versions import make_version
from tests.fixtures.version_sources import make_source

DAY = 86_400.0
# 2024-03-01; the window below is 2024-02-02 to 2024-03-01.
NOW = 1_709_251_200.0
CHAMPION = "c" * 64


def facts(*history: RetrainingEntry, **changes: Any) -> RetrainingFacts:
    known = RetrainingFacts(CHAMPION, NOW - 60 * DAY, history, "data", NOW)
    return known._replace(**changes)


def entry(kind: str, days_ago: float, **more: Any) -> RetrainingEntry:
    time = NOW - days_ago * DAY
    fields = {"window_end": time, "champion": CHAMPION, "mode": "warm", "why": "because", **more}
    return RetrainingEntry(f"run {days_ago}", kind, time, **fields)


def plan(known: RetrainingFacts, **config: Any) -> RetrainingPlan:
    return plan_retraining(known, RetrainConfig(store="store", **config))


def test_without_a_champion_the_first_run_starts_from_the_backbone():
    first = plan(facts(champion="", seen_until=-math.inf))
    assert (first.starts, first.champion, first.mode, first.start_from) == (True, "", "scratch", "")
    assert "there is no champion yet" in first.why
    assert first.window.as_settings() == {
        "split": "dates",
        "train_until": "2024-01-26",
        "validation_until": "2024-02-02",
        "data_until": "2024-03-01",
    }


def test_a_warm_start_is_from_the_champions_own_model():
    warm = plan(facts())
    assert (warm.mode, warm.start_from) == ("warm", f"store/versions/{CHAMPION}/model")
    assert plan(facts(), mode="scratch").start_from == ""


def test_every_fourth_training_starts_from_the_backbone():
    warm = [entry(PROMOTED, days) for days in (40, 30, 20)]
    assert plan(facts(*warm[1:])).mode == "warm"
    third = plan(facts(*warm))
    assert third.mode == "scratch" and "after 3 warm ones" in third.why
    since = entry(KEPT, 10, mode="scratch")
    assert plan(facts(*warm, since)).mode == "warm"
    assert plan(facts(*warm), scratch_every=0).mode == "warm"


def test_a_window_that_was_answered_starts_nothing_and_says_so():
    known = facts(entry(STARTED, 0), entry(KEPT, 0))
    answered = plan(known)
    assert not answered.starts
    assert answered.why == ("Nothing starts: this window was answered already (kept): because")
    assert plan(known, forced=True).starts


def test_windows_of_two_trainings_are_min_days_apart():
    known = facts(entry(PROMOTED, 5))
    close = plan(known)
    assert not close.starts and "ended 5 days before this one, and min_days is 7" in close.why
    assert plan(known, min_days=5).starts
    # A training that failed answered nothing.
    assert plan(facts(entry(STARTED, 5))).starts


def test_runs_and_hours_of_30_days_are_limited_even_where_forced():
    known = facts(*(entry(STARTED, days) for days in (29, 20, 31)))
    assert plan(known, max_runs=3).starts
    limited = plan(known, max_runs=2, forced=True)
    assert limited.why == "Nothing starts: 2 trainings in 30 days, and max_runs is 2."
    spent = facts(entry(KEPT, 20, hours=1.5), entry(KEPT, 31, hours=5.0))
    assert plan(spent, max_gpu_hours=1.6).starts
    over = plan(spent, max_gpu_hours=1.5, forced=True)
    assert not over.starts and "1.50 hours in 30 days" in over.why


def test_rows_that_the_champion_has_seen_tell_nothing():
    fresh_from = NOW - 28 * DAY
    known = facts(seen_until=fresh_from)
    unfit = plan(known, forced=True)
    assert not unfit.starts and "fresh rows would begin at 2024-02-02T00:00:00" in unfit.why
    assert plan(known._replace(seen_until=fresh_from - 1)).starts


def test_a_decision_states_hours_and_cost():
    known = facts(entry(KEPT, 20, hours=1.5))
    assert "took 1.50 hours, 3.00 at 2 an hour." in plan(known, hour_price=2.0).why
    assert "took 1.50 hours." in plan(known).why
    assert "No training has told yet" in plan(facts()).why


def test_a_clock_behind_the_history_is_refused():
    with pytest.raises(DataError, match="clock must not be behind the history"):
        plan(facts(entry(KEPT, -1)))
    assert plan(facts(entry(KEPT, -0.02, window_end=0.0))).starts


def test_a_date_can_be_given_for_the_end():
    window = plan(facts(), until="2024-02-20", window_days=7).window
    assert window.as_settings()["validation_until"] == "2024-02-13"
    with pytest.raises(ConfigError, match="until: must be a date"):
        RetrainConfig(until="soon")


@pytest.mark.parametrize(
    "given", [{"window_days": 1_000_000}, {"validation_days": 1_000_000}, {"until": "0001-01-01"}]
)
def test_a_window_before_all_times_is_refused(given: dict[str, Any]):
    with pytest.raises(ConfigError, match="must end after 1970, counted back from"):
        plan(facts(), **given)


@pytest.mark.parametrize(
    "damage", [{"time": 1e300}, {"window_end": -1}, {"hours": math.nan}, {"time": "soon"}]
)
def test_a_damaged_decision_is_named(damage: dict[str, Any], tmp_path: Path):
    note = {"run": "1", "kind": KEPT, "time": NOW, "window_end": NOW, "hours": 1.0, **damage}
    folder = tmp_path / "retrainings"
    folder.mkdir()
    content = json.dumps({"target": "1 kept", "note": note})
    (folder / "00000001.json").write_text(content, encoding="utf-8")
    (name,) = damage
    with pytest.raises(DataError, match=f"decision 1 of retraining: {name} must be a number from"):
        read_retrainings(str(tmp_path))


def test_facts_are_those_of_the_store_and_of_the_files(tmp_path: Path):
    store = str(tmp_path / "store")
    file = tmp_path / "rows.csv"
    file.write_text("a")
    config = RetrainConfig(store=store)
    first = retraining_facts([str(file), ""], config, NOW)
    assert (first.champion, first.seen_until, first.history) == ("", -math.inf, [])
    version = make_version(make_source(tmp_path / "made"), store)
    promote_version(store, version.name, Reason("ann", "because", {}))
    made = dataclasses.replace(plan(first), champion=version.name)
    for _ in range(2):
        add_retraining(store, made.entry(KEPT, "worse", hours=0.5, version="v"))
    file.write_text("b")
    second = retraining_facts([str(file), ""], config, NOW)
    assert (second.champion, second.seen_until) == (version.name, 3.0)
    (kept,) = second.history
    assert (kept.kind, kept.why, kept.hours, kept.version) == (KEPT, "worse", 0.5, "v")
    assert kept.window_end == NOW and read_retrainings(store) == [kept]
    assert first.data != second.data
    assert data_fingerprint(["", ""]) == "none"
    with pytest.raises(ConfigError, match="store: must be given"):
        retraining_facts([], RetrainConfig(), NOW)
    with pytest.raises(DataError, match="does not exist"):
        data_fingerprint([str(tmp_path / "missing")])
