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

from dynamicpo.core.config import DriftConfig
from dynamicpo.core.errors import DataError
from dynamicpo.monitoring.drift import monitor_drift
from tests.fixtures.folders import NUM_ITEMS, preference_rows, write_model, write_preferences


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_preferences(tmp_path_factory.mktemp("drift") / "reference")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("drift") / "model")


def drift_json(output: Path) -> dict[str, Any]:
    return json.loads((output / "drift.json").read_text(encoding="utf-8"))


def current(folder: Path, test: list[dict[str, Any]], items: pd.DataFrame | None = None) -> Path:
    """A folder with this test split."""
    return write_preferences(folder, {"train": preference_rows("train"), "test": test}, items)


def test_the_same_rows_have_not_drifted(reference: Path, tmp_path: Path) -> None:
    manifest = monitor_drift(reference, reference, tmp_path / "drift", DriftConfig(split="train"))
    assert manifest.counts["drifted"] is False
    columns = drift_json(tmp_path / "drift")["columns"]
    assert {*columns} == {
        "history_length",
        "user_activity",
        "popularity_bucket",
        "category",
        "unseen_share",
    }
    assert all(column["distance"] == 0 for column in columns.values())
    assert manifest.counts["reference_rows"] == manifest.counts["current_rows"] == 30


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
    monitor_drift(
        reference, current(tmp_path / "current", changed), tmp_path / "drift", DriftConfig()
    )
    columns = drift_json(tmp_path / "drift")["columns"]
    lengths = np.array([len(row["history"]) for row in rows])
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
    busy = [{**row, "timestamp": 1e9} for row in preference_rows("train")]
    monitor_drift(reference, current(tmp_path / "current", busy), tmp_path / "drift", DriftConfig())
    columns = drift_json(tmp_path / "drift")["columns"]
    assert columns["user_activity"]["distance"] == pytest.approx(np.sqrt(np.log(2)))
    assert columns["user_activity"]["method"].startswith("Jensen-Shannon")
    assert columns["history_length"]["distance"] == 0


def test_rows_of_new_items_are_unseen(reference: Path, model: Path, tmp_path: Path) -> None:
    """New items have no rank in the reference and no token in its model: rows without a score."""
    names = [str(item) for item in range(NUM_ITEMS)] + ["new"]
    items = pd.DataFrame({"item_id": names, "title": names, "popularity": 1, "category": ""})
    rows = [
        {**row, "target": "new", "candidates": ["new", *row["rejected"]]}
        for row in preference_rows("test")
    ]
    half = [*rows[:15], *preference_rows("test")[15:]]
    folder = current(tmp_path / "current", half, items)
    manifest = monitor_drift(reference, folder, tmp_path / "drift", DriftConfig(), model)
    assert manifest.counts["unseen_share_distance"] > 0.1
    assert drift_json(tmp_path / "drift")["rows_without_score"] == {"reference": 0, "current": 15}
    with pytest.raises(DataError, match="must score at least one row of the current window"):
        monitor_drift(
            reference,
            current(tmp_path / "all", rows, items),
            tmp_path / "none",
            DriftConfig(),
            model,
        )
    assert not (tmp_path / "none").exists()


def test_the_score_of_the_chosen_item_is_a_column(
    reference: Path, model: Path, tmp_path: Path
) -> None:
    same = monitor_drift(reference, reference, tmp_path / "same", DriftConfig(split="train"), model)
    assert same.counts["chosen_score_distance"] == 0
    other = monitor_drift(reference, reference, tmp_path / "other", DriftConfig(), model)
    assert other.counts["chosen_score_distance"] > 0
    assert "model" in other.inputs


@pytest.mark.parametrize(
    ("share", "drifted"), [(0.0, True), (0.2, True), (0.21, False), (1.0, False)]
)
def test_the_rule(share: float, drifted: bool, reference: Path, tmp_path: Path) -> None:
    """One of five columns: drifted when the share is at most a fifth."""
    busy = [{**row, "timestamp": 1e9} for row in preference_rows("train")]
    config = DriftConfig(drift_share=share)
    manifest = monitor_drift(
        reference, current(tmp_path / "current", busy), tmp_path / "drift", config
    )
    assert manifest.counts["drifted_share"] == 0.2
    assert manifest.counts["drifted"] is drifted
    assert f"at least {share:.0%} of the columns" in drift_json(tmp_path / "drift")["rule"]


def test_nothing_drifted_is_not_drifted_whatever_the_share(reference: Path, tmp_path: Path) -> None:
    config = DriftConfig(split="train", drift_share=0.0)
    assert (
        monitor_drift(reference, reference, tmp_path / "drift", config).counts["drifted"] is False
    )


def test_windows_of_one_row_and_constant_columns_work(tmp_path: Path) -> None:
    items = pd.DataFrame(
        {"item_id": [*map(str, range(NUM_ITEMS))], "title": "t", "popularity": 0, "category": None}
    )
    row = preference_rows("train")[:1]
    folder = write_preferences(tmp_path / "one", {"train": row, "test": row}, items)
    manifest = monitor_drift(folder, folder, tmp_path / "drift", DriftConfig())
    assert manifest.counts["drifted"] is False
    assert "category_distance" not in manifest.counts  # nothing is known of it


def test_an_empty_window_is_an_error(reference: Path, tmp_path: Path) -> None:
    folder = current(tmp_path / "current", [])
    with pytest.raises(DataError, match=r"test: a window must hold at least one row, got none"):
        monitor_drift(reference, folder, tmp_path / "drift", DriftConfig())
    assert not (tmp_path / "drift").exists()


def test_rows_are_chosen_by_key(reference: Path, tmp_path: Path) -> None:
    counts = [
        monitor_drift(
            reference, reference, tmp_path / str(seed), DriftConfig(rows=7, seed=seed % 2)
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
        monitor_drift(folder, folder, tmp_path / name, DriftConfig())
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
    first = monitor_drift(reference, reference, tmp_path / "drift", DriftConfig())
    assert monitor_drift(reference, reference, tmp_path / "drift", DriftConfig()) == first
    with pytest.raises(DataError, match="differs in threshold"):
        monitor_drift(reference, reference, tmp_path / "drift", DriftConfig(threshold=0.3))
