"""Drift: distances, the rule, the page, and windows at the edge."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dynamicpo.cli.main import main
from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import DriftConfig
from dynamicpo.core.errors import DataError
from dynamicpo.monitoring.check_history import DriftCheck, add_check, read_checks
from dynamicpo.monitoring.drift import monitor_drift
from tests.fixtures.folders import NUM_ITEMS, preference_rows, write_model, write_preferences


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_preferences(tmp_path_factory.mktemp("drift") / "reference")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("drift") / "model")


# The folders of these tests have six users.
FEW = {"min_users": 2}


def settings(**values: Any) -> DriftConfig:
    return DriftConfig(**{**FEW, **values})


def busy_rows() -> list[dict[str, Any]]:
    """Training rows of other users, who have all of them on one day."""
    rows = preference_rows("train")
    return [{**row, "timestamp": 1e9, "user_id": f"busy {row['user_id']}"} for row in rows]


def drift_json(output: Path) -> dict[str, Any]:
    return json.loads((output / "drift.json").read_text(encoding="utf-8"))


def current(folder: Path, test: list[dict[str, Any]], items: pd.DataFrame | None = None) -> Path:
    """A folder with this test split."""
    return write_preferences(folder, {"train": preference_rows("train"), "test": test}, items)


def test_the_same_rows_have_not_drifted(reference: Path, tmp_path: Path) -> None:
    config = settings(split="train", held_out="train")
    manifest = monitor_drift(reference, reference, tmp_path / "drift", config)
    columns = drift_json(tmp_path / "drift")["columns"]
    windows = {name: column["compared_with"] for name, column in columns.items()}
    assert windows == {
        "user_activity": "training window",
        "popularity_bucket": "training window",
        "category": "training window",
        "history_length": "held-out window",
        "unseen_share": "held-out window",
    }
    # Training rows are no part of their own popularity, newer rows never were.
    assert 0 < columns.pop("popularity_bucket")["distance"] < 0.25
    assert all(column["distance"] == 0 and column["p"] == 1 for column in columns.values())
    assert manifest.counts["history_length_distance"] == 0
    assert drift_json(tmp_path / "drift")["rows"] == {
        "reference": 30,
        "current": 30,
        "held_out": 30,
    }


def test_every_process_gives_the_same_bytes(reference: Path, tmp_path: Path) -> None:
    """Evidently adds up over a set of texts; two orders of it differ in a distance's last digit."""
    for seed in ("2", "3"):
        command = [
            sys.executable,
            "-c",
            "from dynamicpo.cli.main import main; raise SystemExit(main())",
            "monitor-drift",
        ]
        command += ["--reference", reference, "--current", reference, "--output", tmp_path / seed]
        command += ["--min-users", "2"]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(
            [str(word) for word in command], check=True, capture_output=True, env=environment
        )
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / seed).iterdir()}
        for seed in ("2", "3")
    )
    assert {name for name in one if one[name] != other[name]} <= {"run.json"}


def test_each_column_sees_its_own_change(reference: Path, tmp_path: Path) -> None:
    """Training rows, but with histories of one item, rare targets and two rows on each day."""
    rows = preference_rows("train")
    changed = [
        {**row, "history": row["history"][-1:], "target": str(NUM_ITEMS - 1)} for row in rows
    ]
    changed = [{**row, "timestamp": row["timestamp"] // 172800 * 172800} for row in changed]
    changed = [{**row, "user_id": f"other {row['user_id']}"} for row in changed]
    # A dozen users tell little of five columns at once.
    config = settings(false_alarms=0.2)
    monitor_drift(reference, current(tmp_path / "current", changed), tmp_path / "drift", config)
    columns = drift_json(tmp_path / "drift")["columns"]
    lengths = np.array([len(row["history"]) for row in preference_rows("validation")])
    assert columns["history_length"]["distance"] == pytest.approx(
        (lengths - 1).mean() / lengths.std()
    )
    assert columns["popularity_bucket"]["drifted"]
    assert columns["category"]["drifted"]
    assert columns["user_activity"]["drifted"]
    assert drift_json(tmp_path / "drift")["drifted"] is True


def test_distance_of_activity_is_worked_out_by_hand(reference: Path, tmp_path: Path) -> None:
    """Five rows on five days against five rows on one: a Jensen-Shannon distance of sqrt(ln 2).

    It is Jensen-Shannon because the reference does not vary.
    """
    busy = busy_rows()
    monitor_drift(reference, current(tmp_path / "current", busy), tmp_path / "drift", settings())
    columns = drift_json(tmp_path / "drift")["columns"]
    assert columns["user_activity"]["distance"] == pytest.approx(np.sqrt(np.log(2)))
    assert columns["user_activity"]["method"].startswith("Jensen-Shannon")
    assert columns["history_length"]["distance"] == 0


def with_new_items() -> pd.DataFrame:
    names = [str(item) for item in range(NUM_ITEMS)] + ["new"]
    return pd.DataFrame({"item_id": names, "title": names, "popularity": 1, "category": ""})


def test_rows_of_new_items_are_unseen(reference: Path, model: Path, tmp_path: Path) -> None:
    """New items have no rank in the reference and no token in its model: rows without a score."""
    rows = [
        {**row, "target": "new", "candidates": ["new", *row["rejected"]]}
        for row in preference_rows("test")
    ]
    half = [*rows[:15], *preference_rows("test")[15:]]
    folder = current(tmp_path / "current", half, with_new_items())
    manifest = monitor_drift(reference, folder, tmp_path / "drift", settings(), model)
    assert manifest.counts["unseen_share_distance"] > 0.1
    drift = drift_json(tmp_path / "drift")
    assert drift["rows_without_score"] == {"reference": 0, "current": 15}
    # The model ranks an item that it does not know behind all others.
    ratios = drift["hit_ratio_at_1"]
    known = monitor_drift(reference, reference, tmp_path / "known", settings(), model)
    assert known.counts["hit_distance"] >= 0
    last_half = drift_json(tmp_path / "known")["hit_ratio_at_1"]["current window"]["value"]
    assert ratios["current window"]["value"] <= last_half
    assert ratios["held-out window"]["low"] <= ratios["held-out window"]["value"]
    with pytest.raises(DataError, match="must score at least one row of the current window"):
        monitor_drift(
            reference,
            current(tmp_path / "all", rows, with_new_items()),
            tmp_path / "none",
            settings(),
            model,
        )
    assert not (tmp_path / "none").exists()


def test_new_candidates_count_as_ranked_last(reference: Path, model: Path, tmp_path: Path) -> None:
    """Negatives that the model can't score are no better than the target."""
    rows = [
        {**row, "candidates": [row["target"], *["new"] * 5], "rejected": ["new"] * 5}
        for row in preference_rows("test")
    ]
    folder = current(tmp_path / "current", rows, with_new_items())
    monitor_drift(reference, folder, tmp_path / "drift", settings(), model)
    drift = drift_json(tmp_path / "drift")
    assert drift["hit_ratio_at_1"]["current window"]["value"] == 1
    assert drift["columns"]["margin"]["users"]["current"] == 0


def test_rows_of_another_catalogue_are_refused(reference: Path, tmp_path: Path) -> None:
    rows = [{**row, "history": ["new"], "target": "new"} for row in preference_rows("test")]
    folder = current(tmp_path / "current", rows, with_new_items())
    with pytest.raises(DataError, match="must have items of the reference, but it shares none"):
        monitor_drift(reference, folder, tmp_path / "drift", settings())
    assert not (tmp_path / "drift").exists()


def test_other_lists_of_candidates_are_refused(
    reference: Path, model: Path, tmp_path: Path
) -> None:
    splits = {"train": preference_rows("train"), "test": preference_rows("test")}
    folder = write_preferences(tmp_path / "hard", splits, protocol={"strategy": "popularity"})
    with pytest.raises(DataError, match="must have lists of candidates as the reference has them"):
        monitor_drift(reference, folder, tmp_path / "drift", settings(), model)
    # Without a model nobody looks at them.
    monitor_drift(reference, folder, tmp_path / "drift", settings())


def test_signals_of_the_model_are_columns(reference: Path, model: Path, tmp_path: Path) -> None:
    config = settings(split="validation")
    same = monitor_drift(reference, reference, tmp_path / "same", config, model)
    other = monitor_drift(reference, reference, tmp_path / "other", settings(), model)
    for name in ("chosen_score", "margin", "hit"):
        assert same.counts[f"{name}_distance"] == 0
        assert f"{name}_distance" in other.counts
    assert other.counts["chosen_score_distance"] > 0
    assert "model" in other.inputs


def test_too_few_users_is_not_no_drift(reference: Path, tmp_path: Path) -> None:
    busy = busy_rows()
    folder = current(tmp_path / "current", busy)
    manifest = monitor_drift(reference, folder, tmp_path / "few", settings(min_users=7))
    assert manifest.counts["drifted"] is False
    assert manifest.counts["too_few_users"] is True
    drift = drift_json(tmp_path / "few")
    assert drift["status"] == "too few users"
    assert {column["status"] for column in drift["columns"].values()} == {"too few users"}
    # The distance is there all the same, and enough users would tell.
    monitor_drift(reference, folder, tmp_path / "enough", settings(min_users=6))
    assert drift_json(tmp_path / "enough")["status"] == "drifted"


def test_data_without_held_out_rows_are_compared_by_what_there_is(tmp_path: Path) -> None:
    splits = {"train": preference_rows("train"), "test": preference_rows("test")}
    folder = write_preferences(tmp_path / "two", splits)
    monitor_drift(folder, folder, tmp_path / "drift", settings())
    columns = drift_json(tmp_path / "drift")["columns"]
    assert {*columns} == {"user_activity", "popularity_bucket", "category"}


@pytest.mark.parametrize(
    ("share", "drifted"), [(0.0, True), (0.2, True), (0.21, False), (1.0, False)]
)
def test_the_rule(share: float, drifted: bool, reference: Path, tmp_path: Path) -> None:
    """One of five columns: drifted when the share is at most a fifth."""
    busy = busy_rows()
    config = settings(drift_share=share, held_out="train")
    manifest = monitor_drift(
        reference, current(tmp_path / "current", busy), tmp_path / "drift", config
    )
    assert manifest.counts["drifted_share"] == 0.2
    assert manifest.counts["drifted"] is drifted
    expected = "at least one column has" if not share else f"at least {share:.0%} of the columns"
    assert expected in drift_json(tmp_path / "drift")["rule"]


@pytest.mark.parametrize(("threshold", "drifted"), [(0.1, True), (0.9, False)])
def test_a_distance_that_is_no_chance_has_to_matter(
    threshold: float, drifted: bool, reference: Path, tmp_path: Path
) -> None:
    busy = busy_rows()
    config = settings(threshold=threshold, held_out="train")
    folder = current(tmp_path / "current", busy)
    monitor_drift(reference, folder, tmp_path / "drift", config)
    activity = drift_json(tmp_path / "drift")["columns"]["user_activity"]
    assert activity["p_holm"] < 0.05
    assert activity["distance"] == pytest.approx(np.sqrt(np.log(2)))
    assert activity["drifted"] is drifted


def test_a_distance_that_matters_has_to_be_no_chance(reference: Path, tmp_path: Path) -> None:
    """Six users of each side: their history lengths differ by more than the threshold by chance."""
    config = settings(threshold=0.0, category_threshold=0.0)
    manifest = monitor_drift(reference, reference, tmp_path / "drift", config)
    columns = drift_json(tmp_path / "drift")["columns"].values()
    assert any(column["distance"] > 0.05 for column in columns)
    assert manifest.counts["drifted"] is False


def test_nothing_drifted_is_not_drifted_whatever_the_share(reference: Path, tmp_path: Path) -> None:
    config = settings(threshold=9.0, category_threshold=9.0, drift_share=0.0)
    assert (
        monitor_drift(reference, reference, tmp_path / "drift", config).counts["drifted"] is False
    )


def test_windows_of_one_row_and_constant_columns_work(tmp_path: Path) -> None:
    items = pd.DataFrame(
        {"item_id": [*map(str, range(NUM_ITEMS))], "title": "t", "popularity": 0, "category": None}
    )
    row = preference_rows("train")[:1]
    folder = write_preferences(tmp_path / "one", dict.fromkeys(SPLITS, row), items)
    manifest = monitor_drift(folder, folder, tmp_path / "drift", settings())
    assert manifest.counts["drifted"] is False
    assert "category_distance" not in manifest.counts  # nothing is known of it


def test_an_empty_window_is_an_error(reference: Path, tmp_path: Path) -> None:
    folder = current(tmp_path / "current", [])
    with pytest.raises(DataError, match=r"test: a window must hold at least one row, got none"):
        monitor_drift(reference, folder, tmp_path / "drift", settings())
    assert not (tmp_path / "drift").exists()


def test_rows_are_chosen_by_key(reference: Path, tmp_path: Path) -> None:
    counts = [
        monitor_drift(
            reference, reference, tmp_path / str(seed), settings(rows=7, seed=seed % 2)
        ).counts
        for seed in range(3)
    ]
    assert counts[0]["reference_rows"] == counts[0]["current_rows"] == 7
    assert counts[0] == counts[2] != counts[1]


def test_the_page_is_self_contained_states_the_rule_and_repeats(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    items = pd.DataFrame({"item_id": [*map(str, range(NUM_ITEMS))], "title": "t", "popularity": 3})
    items["category"] = [
        "</script><script>alert(1)</script>" if index % 2 else "drama" for index in range(NUM_ITEMS)
    ]
    folder = write_preferences(tmp_path / "hostile", items=items)
    for name in ("first", "second"):
        monitor_drift(folder, folder, tmp_path / name, settings())
    page = (tmp_path / "first" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", page)
    assert "alert(1)</script>" not in page
    verdict = drift_json(tmp_path / "first")
    assert verdict["verdict"] in page and verdict["rule"] in page
    assert page.index(verdict["rule"]) < page.index("drawDashboard(metric")
    for name in ("drift.json", "report.html", "manifest.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_finished_output_is_used_again_and_another_configuration_refused(
    reference: Path, tmp_path: Path
) -> None:
    first = monitor_drift(reference, reference, tmp_path / "drift", settings())
    assert monitor_drift(reference, reference, tmp_path / "drift", settings()) == first
    with pytest.raises(DataError, match="differs in threshold"):
        monitor_drift(reference, reference, tmp_path / "drift", settings(threshold=0.3))


def test_the_history_of_checks_is_kept_once_and_drawn(
    reference: Path, any_store: str, tmp_path: Path
) -> None:
    config = settings(store=any_store)
    later = [{**row, "timestamp": row["timestamp"] + 7 * 86400} for row in preference_rows("test")]
    folder = current(tmp_path / "later", later)
    for name in ("first", "again"):
        monitor_drift(reference, reference, tmp_path / name, config)
    assert "Checks so far" not in (tmp_path / "first" / "report.html").read_text(encoding="utf-8")
    monitor_drift(reference, folder, tmp_path / "second", config)
    checks = read_checks(any_store)
    assert [check.window_end for check in checks] == [1e9 + 7 * 86400, 1e9 + 14 * 86400]
    assert checks[0].distances["user_activity"] == 0
    page = (tmp_path / "second" / "report.html").read_text(encoding="utf-8")
    assert "Checks so far" in page
    assert "days before the last one" in page


@pytest.mark.parametrize(
    ("entry", "value"),
    [("window_end", None), ("distances", 1), ("distances", {"a": [1.0]}), ("window_end", "x")],
)
def test_a_check_that_can_not_be_read_is_named(entry: str, value: object, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    add_check(store, DriftCheck(1e9, "drifted", "a", "b", {"user_activity": 0.5}))
    (path,) = (tmp_path / "store").rglob("00000001.json")
    step = json.loads(path.read_text())
    step["note"][entry] = value
    path.write_text(json.dumps(step))
    with pytest.raises(DataError, match="drift check 1: must say its distances.*Delete that file"):
        read_checks(store)


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ([], 0),
        (["--gate"], 3),
        (["--gate", "--min-users", "7"], 3),
        (["--gate", "--threshold", "9", "--category-threshold", "9"], 0),
    ],
)
def test_the_command_fails_for_drift_with_a_gate_only(
    flags: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = busy_rows()
    folder = current(tmp_path / "current", busy)
    argv = ["monitor-drift", "--reference", str(folder), "--current", str(folder)]
    argv += ["--output", str(tmp_path / "drift"), "--min-users", "2", *flags]
    assert main(argv) == code
    verdict = drift_json(tmp_path / "drift")["verdict"]
    assert capsys.readouterr().out.splitlines()[0] == verdict
