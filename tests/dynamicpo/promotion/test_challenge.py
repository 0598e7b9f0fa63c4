"""Each outcome of a retraining, with real models: nothing to train, kept, promoted, too few."""

import dataclasses
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from dynamicpo.cli.main import main
from dynamicpo.core.config import (
    DataConfig,
    DriftConfig,
    EvaluationConfig,
    NegativesConfig,
    SFTConfig,
)
from dynamicpo.core.config_gate import GateConfig
from dynamicpo.core.config_retraining import RetrainConfig
from dynamicpo.core.errors import CheckFailedError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.data.prepare import prepare_data
from dynamicpo.negatives.sampling import sample_negatives
from dynamicpo.promotion.challenge import (
    ChallengeOutcome,
    ChallengeOutputs,
    Challengers,
    challenge_champion,
    choose_challenger,
    rival_versions,
)
from dynamicpo.promotion.champion import Reason, promote_version, read_moves
from dynamicpo.promotion.retraining_facts import retraining_facts
from dynamicpo.promotion.retraining_history import read_retrainings
from dynamicpo.promotion.retraining_plan import RetrainingPlan, plan_retraining
from dynamicpo.promotion.versions import VersionSource, make_version
from dynamicpo.promotion.window_check import check_window
from dynamicpo.training.sft import fine_tune

NUM_ITEMS = 30
START = 1_704_067_200  # 2024-01-01
DAY = 86_400
# Users and days of each window; each user comes on one of them.
WINDOWS = {"train": (150, 0, 20), "validation": (40, 20, 25), "test": (130, 25, 45)}
DATES = {"train_until": "2024-01-21", "validation_until": "2024-01-26", "data_until": "2024-02-15"}
SFT = SFTConfig(max_steps=60, batch_size=16, loss_on="history", learning_rate=5e-3)
EVALUATION = EvaluationConfig(sasrec=False, resamples=100)
GATE = GateConfig(resamples=200, margin=0.05)
# Among 30 items a single interaction changes ranks, and so the share of a bucket.
DRIFT = DriftConfig(min_users=100, category_threshold=0.3)
# Each run begins at a time of its own.
TIMES = itertools.count(1_708_000_000.0)


def write_world(
    folder: Path, *, permuted: bool = False, num_test: int = 9, first_test_user: int = 0
) -> Path:
    """Rows of users who go on by seven items each time.

    Args:
        folder: The folder to make.
        permuted: Whether training rows are items at random.
        num_test: Interactions of each user of the last window.
        first_test_user: Its first user's number; others are other users.
    """
    folder.mkdir()
    lines = ["user_id,item_id,timestamp"]
    for split, (num_users, first_day, last_day) in WINDOWS.items():
        for number in range(num_users):
            user = number + (first_test_user if split == "test" else 0)
            rng = np.random.default_rng([user, len(split)])
            # Low numbers are popular, so that no chance decides which items are.
            first = int(NUM_ITEMS * rng.random() ** 3)
            items = (first + 7 * np.arange(9)) % NUM_ITEMS
            if permuted and split == "train":
                items = rng.permutation(NUM_ITEMS)[:9]
            day = first_day + user % (last_day - first_day)
            shown = num_test if split == "test" else 9
            lines += [
                f"{split}{user},i{item},{START + day * DAY + 60 * place}"
                for place, item in enumerate(items[:shown])
            ]
    interactions, items_file = folder / "interactions.csv", folder / "items.csv"
    interactions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    titles = "".join(f"i{item},Film {item}\n" for item in range(NUM_ITEMS))
    items_file.write_text(f"item_id,title\n{titles}", encoding="utf-8")
    config = DataConfig(split="dates", k_core=1, **DATES)
    prepare_data(str(interactions), str(items_file), folder / "examples", config)
    negatives = NegativesConfig(num_candidates=12)
    sample_negatives(folder / "examples", folder / "rows", negatives)
    return folder / "rows"


class World:
    """Rows and models that all tests share."""

    def __init__(self, folder: Path) -> None:
        self.rows = write_world(folder / "world")
        self.permuted_rows = write_world(folder / "permuted", permuted=True)
        self.good = self.train(folder / "good", self.rows, SFT)
        short = dataclasses.replace(SFT, rows=200, max_steps=4)
        self.weak = self.train(folder / "weak", self.rows, short)
        self.permuted = self.train(folder / "permuted-model", self.permuted_rows, SFT)

    def train(self, folder: Path, rows: Path, config: SFTConfig) -> Path:
        fine_tune(rows, folder, config)
        return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def plan_of_today(store: Path, **config: object) -> RetrainingPlan:
    """The decision on the window of all tests."""
    given = {"store": str(store), "until": "2024-02-15", "window_days": 20, **config}
    settings = RetrainConfig(**{"validation_days": 5, **given})  # type: ignore[arg-type]
    facts = retraining_facts([], settings, next(TIMES))
    # The entries of a test are of today.
    return plan_retraining(facts._replace(history=[]), settings)


def challenge(
    model: Path,
    rows: Path,
    store: Path,
    plan: RetrainingPlan,
    gate: GateConfig = GATE,
    attempt: str = "",
) -> ChallengeOutcome:
    folder = store.parent / f"{plan.run}{attempt}"
    outputs = ChallengeOutputs(folder / "evaluation", folder / "gate")
    trained = Challengers(rows, {"new": model}, model)
    return challenge_champion(trained, outputs, EVALUATION, gate, plan)


def champion_of(store: Path) -> str:
    return read_moves(str(store))[-1].version


def made_champion(world: World, model: Path, folder: Path) -> Path:
    """A store whose first champion is a model."""
    store = folder / "store"
    outcome = challenge(model, world.rows, store, plan_of_today(store))
    assert outcome.promoted and outcome.champion == ""
    return store


@pytest.fixture(scope="module")
def weak_stores(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_champion(world, world.weak, tmp_path_factory.mktemp("weak"))


@pytest.fixture(scope="module")
def good_stores(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_champion(world, world.good, tmp_path_factory.mktemp("good"))


@pytest.fixture
def weak_store(weak_stores: Path, tmp_path: Path) -> Path:
    """A store whose champion was trained on 200 rows."""
    shutil.copytree(weak_stores, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def good_store(good_stores: Path, tmp_path: Path) -> Path:
    """A store whose champion is good."""
    shutil.copytree(good_stores, tmp_path / "store")
    return tmp_path / "store"


def test_a_champion_of_200_rows_is_replaced(world: World, weak_store: Path, tmp_path: Path) -> None:
    store = weak_store
    weak = champion_of(store)
    outcome = challenge(world.good, world.rows, store, plan_of_today(store))
    assert outcome.promoted and outcome.version == champion_of(store) != weak
    assert outcome.champion == weak and outcome.why.startswith("Promote new: served_ndcg")
    first, second = read_retrainings(str(store))
    assert (first.kind, first.champion, first.version) == ("promoted", "", weak)
    assert (second.kind, second.champion, second.version) == ("promoted", weak, outcome.version)
    # Freshness is compared with every champion so far.
    fresh = GateConfig(store=str(store), rule="not-worse")
    assert [*rival_versions(fresh).values()] == [outcome.version, weak]
    assert [*rival_versions(GateConfig(store=str(store)))] == ["champion"]
    move = read_moves(str(store))[-1]
    assert move.reason.who == "retraining" and move.reason.numbers["champion"] == weak


def test_a_challenge_that_was_cut_off_after_its_move_ends_as_it_would_have(
    world: World, weak_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = weak_store
    plan = plan_of_today(store)

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dynamicpo.promotion.challenge.add_retraining", cut_off)
        with pytest.raises(KeyboardInterrupt):
            challenge(world.good, world.rows, store, plan)
    moves = read_moves(str(store))
    assert [entry.kind for entry in read_retrainings(str(store))] == ["promoted"]
    outcome = challenge(world.good, world.rows, store, plan, attempt="-again")
    assert outcome.promoted and outcome.version == moves[-1].version
    assert outcome.champion == moves[-2].version
    assert read_moves(str(store)) == moves
    assert [entry.kind for entry in read_retrainings(str(store))] == ["promoted", "promoted"]


def test_a_challenger_of_permuted_targets_is_kept_out(
    world: World, good_store: Path, tmp_path: Path
) -> None:
    store = good_store
    good = champion_of(store)
    outcome = challenge(world.permuted, world.permuted_rows, store, plan_of_today(store))
    assert not outcome.promoted and outcome.version == ""
    assert champion_of(store) == good
    assert outcome.why.startswith(f"Keep {good[:12]}: served_ndcg_at_10 differs by −")
    assert read_retrainings(str(store))[-1].kind == "kept"


def test_too_few_users_keep_the_champion_and_it_says_how_many_it_takes(
    world: World, weak_store: Path
) -> None:
    store = weak_store
    weak = champion_of(store)
    many = dataclasses.replace(GATE, min_users=500)
    outcome = challenge(world.good, world.rows, store, plan_of_today(store), many)
    assert not outcome.promoted and champion_of(store) == weak
    assert "Too few users: 130; it takes about 500 (at least 500)" in outcome.why


def test_halves_of_the_users_train_nothing_and_drift_trains(
    world: World, good_store: Path, tmp_path: Path
) -> None:
    store = good_store
    good = champion_of(store)
    plan = plan_of_today(store)
    others = write_world(tmp_path / "others", first_test_user=1000)
    same = check_window(others, tmp_path / "same", DRIFT, plan)
    assert not same.trains
    assert same.why == f"Train nothing: not drifted since champion {good[:12]}."
    forced = dataclasses.replace(plan, forced=True, run="2")
    asked_for = check_window(others, tmp_path / "same", DRIFT, forced)
    assert asked_for.trains and asked_for.why.startswith("Train, as asked for: not drifted")
    shorter = write_world(tmp_path / "shorter", num_test=5)
    drifted = check_window(shorter, tmp_path / "drifted", DRIFT, dataclasses.replace(plan, run="3"))
    assert drifted.trains and drifted.drift.counts["user_activity_distance"] > 0.1
    kinds = [entry.kind for entry in read_retrainings(str(store))]
    assert kinds == ["promoted", "not needed", "started", "started"]


def test_a_spoiled_champion_goes_back_and_nothing_is_trained(
    world: World, weak_stores: Path, good_store: Path, tmp_path: Path
) -> None:
    store = str(good_store)
    good = champion_of(good_store)
    (evaluation,) = weak_stores.parent.glob("*/evaluation")
    spoiled = make_version(VersionSource(world.weak, evaluation, world.rows), store).name
    promote_version(store, spoiled, Reason("ann", "by mistake", {}))
    watchful = dataclasses.replace(DRIFT, auto_rollback=True)
    plan = plan_of_today(good_store)
    checked = check_window(world.rows, tmp_path / "check", watchful, plan)
    assert plan.champion == spoiled and champion_of(good_store) == good
    assert not checked.trains
    assert checked.why.startswith(f"Train nothing: the champion is {good[:12]} now, no longer")
    assert read_retrainings(store)[-1].kind == "rolled back"


def test_too_few_users_are_no_drift_and_train_nothing(
    world: World, weak_store: Path, tmp_path: Path
) -> None:
    store = weak_store
    few = dataclasses.replace(DRIFT, min_users=1000)
    checked = check_window(world.rows, tmp_path / "few", few, plan_of_today(store))
    assert not checked.trains and "too few users" in checked.why


def test_the_first_window_trains_and_has_a_page(world: World, tmp_path: Path) -> None:
    checked = check_window(world.rows, tmp_path / "first", DRIFT, plan_of_today(tmp_path / "store"))
    assert checked.trains and checked.why == "Train: there is no champion yet."
    assert "no champion yet" in (tmp_path / "first" / "report.html").read_text(encoding="utf-8")


def test_the_best_on_validation_is_the_challenger(world: World) -> None:
    models = {"weak": world.weak, "good": world.good}
    assert choose_challenger(Challengers(world.rows, models, world.good), EVALUATION) == "good"


def test_a_champion_that_moved_meanwhile_is_not_replaced(world: World, weak_store: Path) -> None:
    weak = champion_of(weak_store)
    plan = dataclasses.replace(plan_of_today(weak_store), champion="0" * 64)
    with pytest.raises(CheckFailedError, match="Nothing has moved; start another run"):
        challenge(world.good, world.rows, weak_store, plan)
    assert champion_of(weak_store) == weak and len(read_moves(str(weak_store))) == 1


def test_commands_name_the_champion_and_list_decisions(
    world: World, weak_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(weak_store)]
    given = ["--preferences", str(world.rows), "--loss-on", "history", "--max-steps", "1"]
    output = tmp_path / "warm"
    start = ["--start-from", "champion", *store]
    assert main(["sft", *given, *start, "--output", str(output)]) == 0, capsys.readouterr().err
    inputs = read_manifest(output).inputs
    assert inputs["start"] == read_manifest(world.weak).fingerprint
    plan = ["plan-retraining", *store, "--until", "2024-02-15", "--window-days", "20"]
    assert main([*plan, "--output", str(tmp_path / "plan")]) == 0
    assert "Nothing starts: this window was answered already" in capsys.readouterr().out
    assert main(["list-retrainings", *store]) == 0
    promoted, not_started = capsys.readouterr().out.splitlines()
    assert promoted.startswith("2024-02-15  promoted     Promote new: there is no champion yet.")
    assert promoted.endswith(f"Version {champion_of(weak_store)[:12]}.")
    assert not_started.startswith("2024-02-15  not started  Nothing starts")
