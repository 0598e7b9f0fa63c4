"""The watch for a collapse: what it finds in looks, and what a training says of it."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.config import PreferenceConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.models.checkpoints import load_model
from dynamicpo.training import collapse_watch
from dynamicpo.training.checkpoints.state import trained_weights
from dynamicpo.training.collapse_signals import (
    GRADIENT_SIGNAL,
    HIT_RATIO_SIGNAL,
    CollapseSignals,
    SampleLook,
)
from dynamicpo.training.collapse_watch import CollapseWatch
from dynamicpo.training.preference_objective import PreferenceObjective
from dynamicpo.training.preference_training import train_preferences
from dynamicpo.training.watched_sample import make_watch
from tests.fixtures.folders import preference_rows, write_preferences, write_title_model

USERS, EACH = 40, 5
USER_OF_ROW = [f"user {number // EACH}" for number in range(USERS * EACH)]


def look(step: int, wrong_users: int, gradient: float = 1.0, loss_fell: bool = True) -> SampleLook:
    """The first rows of so many users are wrong, all others right."""
    hits = np.ones(USERS * EACH)
    hits[: wrong_users * EACH : EACH] = 0
    return SampleLook(step, hits, gradient, loss_fell)


def judged(*looks: SampleLook, num_looks: int = 4, users: list[str] = USER_OF_ROW) -> Any:
    signals = CollapseSignals(users, num_looks)
    for each in looks:
        signals.add(each)
    return signals


def test_a_clear_fall_below_the_best_look_is_a_collapse_since_its_first_look() -> None:
    signals = judged(look(0, 20), look(100, 0), look(200, 12), look(300, 14))
    assert signals.since == {HIT_RATIO_SIGNAL: (200, 2)}
    assert signals.sentences() == [
        "preference optimization collapse since step 200: HitRatio@1 of validation rows is 0.930, "
        "clearly below the 1.000 of step 100, while the loss fell."
    ]


def test_it_is_over_when_ranking_recovers() -> None:
    signals = judged(look(0, 0), look(100, 12), look(200, 1), look(300, 12))
    assert signals.since == {HIT_RATIO_SIGNAL: (300, 1)}


def test_the_number_of_looks_counts() -> None:
    looks = look(0, 0), look(100, 5)
    assert HIT_RATIO_SIGNAL in judged(*looks, num_looks=1).since
    assert HIT_RATIO_SIGNAL not in judged(*looks, num_looks=40).since


def test_users_and_not_rows_are_counted() -> None:
    """The same rows, as those of four users."""
    looks = look(0, 0), look(100, 14)
    few = [f"user {number // (10 * EACH)}" for number in range(USERS * EACH)]
    assert HIT_RATIO_SIGNAL in judged(*looks).since
    assert HIT_RATIO_SIGNAL not in judged(*looks, users=few).since
    assert not judged(*looks, users=["one"] * len(few)).since


def test_a_fall_while_the_loss_rises_is_none() -> None:
    assert not judged(look(0, 0), look(100, 20, gradient=0.1, loss_fell=False)).since


@pytest.mark.parametrize(("gradient", "is_given"), [(0.19, True), (0.21, False)])
def test_the_boundary_gradient_is_a_signal_of_its_own(gradient: float, is_given: bool) -> None:
    signals = judged(look(0, 0, gradient=2.0), look(100, 0, gradient=2 * gradient))
    assert (signals.since == {GRADIENT_SIGNAL: (100, 1)}) == is_given
    assert (signals.sentences() != []) == is_given


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_preferences(tmp_path_factory.mktemp("rows") / "preferences")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_title_model(tmp_path_factory.mktemp("backbone") / "model")


def config_of(**settings: Any) -> PreferenceConfig:
    values = {"num_negatives": 2, "max_steps": 6, "batch_size": 4, "learning_rate": 0.01}
    return PreferenceConfig(**{**values, **settings})


def lines_of(output: Path) -> list[dict[str, float]]:
    text = (output / "steps.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_looks_stand_in_the_log_and_change_nothing_else(
    preferences: Path, model: Path, tmp_path: Path
) -> None:
    config = config_of(watch_steps=3, watch_rows=20)
    watched = train_preferences(preferences, model, tmp_path / "watched", config)
    plain = train_preferences(preferences, model, tmp_path / "plain", config_of(watch_rows=0))
    lines = lines_of(tmp_path / "watched")
    looks = [line["step"] for line in lines if collapse_watch.HIT_RATIO_MEASURE in line]
    assert looks == [3, 6]
    for line in lines:
        for name in collapse_watch.WATCH_MEASURES:
            line.pop(name, None)
    assert lines == lines_of(tmp_path / "plain")
    weights = "model.safetensors"
    assert watched.files[weights] == plain.files[weights]
    assert watched.counts == plain.counts


def test_the_last_look_is_at_the_model_that_is_delivered(
    preferences: Path, model: Path, tmp_path: Path
) -> None:
    config = config_of(watch_steps=3, watch_rows=20)
    train_preferences(preferences, model, tmp_path / "dpo", config)
    loaded = load_model(tmp_path / "dpo")
    watch = make_watch(preferences, loaded, PreferenceObjective(config), num_steps=6)
    assert watch is not None
    watch.measures_of_step(3, 0.0)
    again = watch.signals.looks[-1]
    last = lines_of(tmp_path / "dpo")[-1]
    assert last[collapse_watch.HIT_RATIO_MEASURE] == pytest.approx(again.hits.mean())


def falling_hits(start: float = 1.0) -> Iterator[FloatArray]:
    """All rows right at first, then none."""
    yield np.ones(20)
    while True:
        yield np.zeros(20)


@pytest.mark.parametrize("stops", [False, True])
def test_log_metrics_and_page_name_the_collapse_and_its_step(
    stops: bool,
    preferences: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hits = falling_hits()
    monkeypatch.setattr(collapse_watch, "_hits", lambda logps: next(hits))
    monkeypatch.setattr(collapse_watch, "_loss_fell", lambda losses: True)
    config = config_of(watch_steps=1, watch_rows=20, stop_on_collapse=stops)
    with caplog.at_level(logging.WARNING):
        manifest = train_preferences(preferences, model, tmp_path / "dpo", config)
    said = "preference optimization collapse since step 1: HitRatio@1 of validation rows is 0.000"
    assert f"step 2: {said}" in caplog.text
    assert manifest.counts["steps"] == (2 if stops else 6)
    assert manifest.counts["preference_optimization_collapse_step"] == 1
    assert read_manifest(tmp_path / "dpo").counts == manifest.counts
    assert said in (tmp_path / "dpo" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("ranked", "best_step"),
    # At steps 0, 3, 6 and 8: the start does not count, of equal ones the first does.
    [((1.0, 0.2, 0.6, 0.6), 6), ((0.1, 0.2, 0.3, 0.4), 8)],
)
def test_the_weights_of_the_best_look_are_delivered(
    ranked: tuple[float, ...],
    best_step: int,
    preferences: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hits = iter([np.full(20, value) for value in ranked])
    monkeypatch.setattr(collapse_watch, "_hits", lambda logps: next(hits))
    seen = {}
    measure = CollapseWatch.error_rate

    def look_and_copy(watch: CollapseWatch) -> float:
        error_rate = measure(watch)
        weights = trained_weights(watch._model)
        seen[len(watch.signals.looks)] = {name: each.clone() for name, each in weights.items()}
        return error_rate

    monkeypatch.setattr(CollapseWatch, "error_rate", look_and_copy)
    config = config_of(watch_steps=3, watch_rows=20, max_steps=8, deliver="best")
    manifest = train_preferences(preferences, model, tmp_path / "best", config)
    assert manifest.counts["steps"] == 8
    assert manifest.counts["best_step"] == best_step
    assert manifest.counts["best_validation_error_rate"] == pytest.approx(1 - max(ranked[1:]))
    number = {6: 3, 8: 4}[best_step]
    delivered = trained_weights(load_model(tmp_path / "best", trainable=True).model)
    for name, weight in delivered.items():
        assert torch.equal(weight, seen[number][name]), name
    page = (tmp_path / "best" / "report.html").read_text(encoding="utf-8")
    assert f"The weights of step {best_step} are delivered" in page


def test_the_best_weights_need_looks_and_whole_weights(model: Path, tmp_path: Path) -> None:
    for settings, text in (({"watch_rows": 0}, "watch_rows 0"), ({"sharding": "full"}, "sharding")):
        with pytest.raises(ConfigError, match=rf"^deliver: 'best' needs .* got {text}"):
            config_of(deliver="best", **settings)
    train_alone = {"train": preference_rows("train")}
    preferences = write_preferences(tmp_path / "preferences", train_alone)
    with pytest.raises(DataError, match="deliver 'best' needs rows in the validation split"):
        train_preferences(preferences, model, tmp_path / "best", config_of(deliver="best"))
    assert not (tmp_path / "best").exists()


def test_it_goes_on_from_its_looks(preferences: Path, model: Path) -> None:
    config = config_of(watch_steps=1, watch_rows=20)
    losses = [1.0 / number for number in range(1, 13)]
    first, second = (
        make_watch(preferences, load_model(model), PreferenceObjective(config), num_steps=12)
        for _ in range(2)
    )
    assert first is not None and second is not None
    for step, loss in enumerate(losses, start=1):
        first.measures_of_step(step, loss)
    second.go_on(first.state(), losses)
    assert second.signals.since == first.signals.since
    assert [each.step for each in second.signals.looks] == list(range(1, 13))
    state, other = first.state(), second.state()
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_rows_without_validation_are_not_watched(model: Path, tmp_path: Path) -> None:
    splits = {"train": [], "validation": [], "test": []}
    preferences = write_preferences(tmp_path / "preferences", splits)
    objective = PreferenceObjective(config_of())
    assert make_watch(preferences, load_model(model), objective, num_steps=6) is None
