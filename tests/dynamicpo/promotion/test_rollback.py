"""The previous champion is scored at every check: clearly better, it is recommended again."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from dynamicpo.cli.main import main
from dynamicpo.core.config import DriftConfig, EvaluationConfig
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.models.checkpoints import load_model
from dynamicpo.promotion.champion import Reason, promote_version, read_moves
from dynamicpo.promotion.version_drift import monitor_window
from dynamicpo.promotion.versions import VersionSource, delete_version, make_version
from dynamicpo.prompts.encoding import item_token
from tests.fixtures.folders import preference_rows, write_model, write_preferences

REASON = Reason("ann", "because", {})
LATER = 1e8
NUM_USERS = 40


class Shop(NamedTuple):
    """A store whose champion is worse than the one before it, and fresh rows.

    Attributes:
        store: The store.
        good: The previous champion.
        bad: The champion.
        fresh: Rows whose next item is always the previous champion's first.
    """

    store: str
    good: str
    bad: str
    fresh: Path


def favoured(model: Path, num_users: int, later: float = LATER) -> list[dict[str, Any]]:
    """Rows whose target is the candidate that a model ranks first."""
    loaded = load_model(model)
    tokens = loaded.tokenizer.get_vocab()
    rows = preference_rows("test", num_users, each=2, seed=3)
    for row in rows:
        history = torch.tensor([[0, *(tokens[item_token(item)] for item in row["history"])]])
        with torch.no_grad():
            logits = loaded.model(input_ids=history).logits[0, -1]
        best = max(row["candidates"], key=lambda item: float(logits[tokens[item_token(item)]]))
        row["rejected"] = [item for item in row["candidates"] if item != best]
        row["target"] = best
        row["timestamp"] += later
    return rows


def publish(folder: Path, preferences: Path, seed: int, store: str) -> str:
    """Publish a model with random weights."""
    fingerprint = read_manifest(preferences).fingerprint
    model = write_model(folder / f"model-{seed}", seed=seed, preferences=fingerprint)
    config = EvaluationConfig(resamples=100, sasrec=False, allow_leak=True)
    evaluate(preferences, {"m": model}, folder / f"evaluation-{seed}", config)
    source = VersionSource(model, folder / f"evaluation-{seed}", preferences)
    return make_version(source, store).name


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh rows of many users and of few, and old ones."""
    folder = tmp_path_factory.mktemp("rollback")
    preferences = write_preferences(folder / "preferences")
    publish(folder, preferences, 1, str(folder / "scratch"))
    model = folder / "model-1"
    train = {"train": preference_rows("train")}
    fresh = {**train, "test": favoured(model, NUM_USERS)}
    write_preferences(folder / "fresh", fresh)
    write_preferences(folder / "few", {**train, "test": favoured(model, 5)})
    write_preferences(folder / "old", {**train, "test": favoured(model, NUM_USERS, later=0.0)})
    return folder


@pytest.fixture(scope="module")
def published(folders: Path) -> tuple[Path, list[str]]:
    """A store of two champions, the second worse, and their names."""
    store = folders / "store"
    names = [publish(folders / "of-store", folders / "preferences", n, str(store)) for n in (1, 2)]
    for name in names:
        promote_version(str(store), name, REASON)
    return store, names


@pytest.fixture
def shop(folders: Path, published: tuple[Path, list[str]], tmp_path: Path) -> Shop:
    """A copy of that store, to move its champion."""
    store, names = published
    shutil.copytree(store, tmp_path / "store")
    return Shop(str(tmp_path / "store"), *names, folders / "fresh")


def check(shop: Shop, output: Path, current: Path | None = None, **settings: Any) -> dict[str, Any]:
    config = DriftConfig(**{"store": shop.store, "min_users": 20, **settings})
    monitor_window(None, current or shop.fresh, output, config)
    text = (output / "rollback.json").read_text(encoding="utf-8")
    rollback: dict[str, Any] = json.loads(text)
    return rollback


def test_spoiled_champion_is_to_go_back_and_nothing_moves_by_itself(
    shop: Shop, tmp_path: Path
) -> None:
    rollback = check(shop, tmp_path / "drift")
    assert rollback["recommends"], rollback["reason"]
    assert (rollback["champion"], rollback["previous"]) == (shop.bad, shop.good)
    # The previous champion ranks every next item first.
    assert 0.3 < rollback["difference"]["low"] < rollback["difference"]["difference"] < 1
    assert rollback["num_users"] == NUM_USERS
    for name in ("rollback.md", "rollback.html"):
        text = (tmp_path / "drift" / name).read_text(encoding="utf-8")
        assert f"Roll back: {shop.good[:12]} differs by" in text
    assert [move.version for move in read_moves(shop.store)] == [shop.good, shop.bad]


def test_champion_goes_back_by_itself_once(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["monitor-drift", "--store", shop.store, "--current", str(shop.fresh)]
    argv += ["--min-users", "20", "--auto-rollback"]
    # The second check is one of the champion that is back, before which there was none.
    for output in ("first", "second"):
        assert main([*argv, "--output", str(tmp_path / output)]) == 0
    moves = read_moves(shop.store)
    assert [move.version for move in moves] == [shop.good, shop.bad, shop.good]
    last = moves[-1]
    assert (last.kind, last.reason.who) == ("rollback", "monitor-drift")
    assert last.reason.why.startswith("Roll back: ")
    assert last.reason.numbers["difference"]["low"] > 0.01  # type: ignore[call-overload,index]
    capsys.readouterr()


def test_better_champion_stays(shop: Shop, tmp_path: Path) -> None:
    promote_version(shop.store, shop.good, REASON)
    rollback = check(shop, tmp_path / "drift", auto_rollback=True)
    assert not rollback["recommends"]
    assert rollback["previous"] == shop.bad
    assert rollback["difference"]["high"] < 0
    assert read_moves(shop.store)[-1].version == shop.good


@pytest.mark.parametrize(
    ("current", "settings", "reason"),
    [
        ("few", {}, "too few to tell"),
        ("old", {}, "Not compared: rows must be later"),
        ("fresh", {"rollback_margin": 0.9}, "not clearly by more than"),
    ],
)
def test_what_is_not_clear_recommends_nothing(
    current: str, settings: dict[str, Any], reason: str, shop: Shop, folders: Path, tmp_path: Path
) -> None:
    output = tmp_path / "drift"
    rollback = check(shop, output, folders / current, auto_rollback=True, **settings)
    assert not rollback["recommends"]
    assert reason in rollback["reason"]
    assert reason in (output / "rollback.md").read_text(encoding="utf-8")
    assert len(read_moves(shop.store)) == 2


def test_nothing_is_compared_without_a_champion_before(shop: Shop, tmp_path: Path) -> None:
    delete_version(shop.store, shop.good)
    rollback = check(shop, tmp_path / "drift", auto_rollback=True)
    assert not rollback["recommends"]
    assert rollback["reason"].startswith("There is no champion before")


def test_champion_that_moved_meanwhile_is_left_alone(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dynamicpo.promotion import version_drift

    monitor = version_drift.monitor_drift

    def monitor_and_promote(*arguments: Any) -> Any:
        manifest = monitor(*arguments)
        preferences = write_preferences(tmp_path / "others")
        other = publish(tmp_path / "other", preferences, 5, shop.store)
        promote_version(shop.store, other, REASON)
        return manifest

    monkeypatch.setattr(version_drift, "monitor_drift", monitor_and_promote)
    rollback = check(shop, tmp_path / "drift", auto_rollback=True)
    assert rollback["recommends"]
    assert [move.kind for move in read_moves(shop.store)] == ["promotion"] * 3
    assert "not rolled back: " in caplog.text
