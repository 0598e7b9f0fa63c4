"""The leak audit, on published files and on preferences folders."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dynamicpo.core.choices import SPLITS
from dynamicpo.core.errors import CheckFailedError, ConfigError, DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.outputs import stage_output
from dynamicpo.core.records.rows import PREFERENCES, read_items, read_rows, write_items, write_rows
from dynamicpo.negatives.audit.audit import audit_candidates
from dynamicpo.negatives.audit.leak_check import audit_split, check_audit

KEYS = {"hit_ratio_at_1", "chance", "low", "high", "leak"}


def write_published(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def with_clean_lists(path: Path, output: Path, catalogue: list[str], seed: int) -> Path:
    """The same rows, each with a list drawn uniformly for it."""
    random, rows = np.random.default_rng(seed), []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        taken = {*row["historyList"].split("::"), row["trueSelection"]}
        drawn = [name for name in random.choice(catalogue, 60, replace=False) if name not in taken][
            :19
        ]
        rows.append(
            {**row, "itemList": random.permutation([*drawn, row["trueSelection"]]).tolist()}
        )
    return write_published(output, rows)


@pytest.fixture(scope="module")
def lastfm(shared: Path) -> tuple[Path, Path]:
    folder = shared / "data" / "lastfm"
    return folder / "rows-train.jsonl", folder / "rows-test.jsonl"


def test_published_lists_leak(lastfm: tuple[Path, Path]) -> None:
    audit = audit_candidates(*lastfm)
    assert {*audit} == KEYS
    assert audit["leak"] is True
    assert 0.58 < audit["hit_ratio_at_1"] < 0.66
    assert 0.05 < audit["low"] < audit["chance"] < audit["high"] < 0.3


def test_clean_lists_of_the_same_rows_are_inside_the_null(
    lastfm: tuple[Path, Path], tmp_path: Path
) -> None:
    train, test = lastfm
    rows = [
        json.loads(line)
        for path in lastfm
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    names = {name for row in rows for name in (*row["historyList"].split("::"), *row["itemList"])}
    clean = (
        with_clean_lists(train, tmp_path / "train.jsonl", sorted(names), seed=1),
        with_clean_lists(test, tmp_path / "test.jsonl", sorted(names), seed=2),
    )
    audit = audit_candidates(*clean)
    assert audit["leak"] is False
    assert audit["low"] <= audit["hit_ratio_at_1"] <= audit["high"]


def preferences(output: Path, exclude: str, leak: bool = False) -> Path:
    """Rows of 60 users over 80 items with Zipf popularity; with `leak` the target stands first."""
    random, popularity = np.random.default_rng(0), 1 / np.arange(1, 81)
    rows: list[dict] = []
    for user in range(60):
        seen = random.choice(80, 20, replace=False, p=popularity / popularity.sum())
        for position in range(3, 20):
            window, target = seen[max(0, position - 10) : position], seen[position]
            excluded = {"window": [*window, target], "past": seen[: position + 1], "all": seen}[
                exclude
            ]
            drawn = random.choice(np.setdiff1d(np.arange(80), excluded), 7, replace=False)
            listed = [target, *drawn] if leak else random.permutation([target, *drawn])
            rows.append(
                {
                    "example_id": f"{user}:{position}",
                    "user_id": str(user),
                    "history": [str(item) for item in window],
                    "target": str(target),
                    "timestamp": float(position),
                    "candidates": [str(item) for item in listed],
                    "rejected": [str(item) for item in drawn],
                }
            )
    items = pd.DataFrame(
        {"item_id": [str(item) for item in range(80)], "popularity": 0, "category": ""}
    )
    with stage_output(output, Manifest("sample_negatives", {"exclude": exclude}, {})) as folder:
        write_items(folder, items.assign(title="title " + items["item_id"]))
        for split, part in {
            "train": rows[::2],
            "validation": rows[1::4],
            "test": rows[3::4],
        }.items():
            write_rows(folder, split, pa.Table.from_pylist(part, schema=PREFERENCES))
    return output


@pytest.mark.parametrize("exclude", ["window", "past", "all"])
def test_a_clean_folder_is_clean_by_its_own_protocol(exclude: str, tmp_path: Path) -> None:
    folder = preferences(tmp_path / "preferences", exclude)
    audit = audit_candidates(folder, folder)
    assert audit["leak"] is False
    assert audit["low"] <= audit["hit_ratio_at_1"] <= audit["high"]


def test_what_is_excluded_moves_the_null(tmp_path: Path) -> None:
    chances = [
        audit_candidates(folder, folder)["chance"]
        for folder in (preferences(tmp_path / exclude, exclude) for exclude in ("window", "all"))
    ]
    assert chances[1] > chances[0] + 0.02


def test_a_folder_with_the_target_first_leaks(tmp_path: Path) -> None:
    folder = preferences(tmp_path / "preferences", "window", leak=True)
    audit = audit_candidates(folder, folder / "validation")
    assert audit["hit_ratio_at_1"] == 1.0
    assert audit["leak"] is True
    assert audit_candidates(folder, folder / "validation") == audit


def tables_of(folder: Path) -> dict[str, pa.Table]:
    return {split: read_rows(folder, split) for split in SPLITS}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_stage_finds_the_leak_of_a_split_and_lets_clean_lists_pass(
    split: str, tmp_path: Path
) -> None:
    """Training rows are attacked with their other half: the attacker must not know the rows."""
    for leak in (True, False):
        folder = preferences(tmp_path / str(leak), "window", leak=leak)
        audit = audit_split(tables_of(folder), split, read_items(folder), "window")
        assert audit["leak"] is leak
        assert (audit["hit_ratio_at_1"] == 1.0) is leak
        assert audit["high"] < audit["limit"] < 0.6


def small_tables(seed: int, rows: int, width: int, num_items: int) -> dict[str, pa.Table]:
    """Clean lists, few of them, over items of Zipf popularity."""
    random, popularity = np.random.default_rng(seed), 1 / np.arange(1, num_items + 1)
    tables = {}
    for split in ("train", "test"):
        drawn = []
        for row in range(rows):
            target = random.choice(num_items, p=popularity / popularity.sum())
            others = random.choice(
                np.setdiff1d(np.arange(num_items), target), width - 1, replace=False
            )
            listed = [str(item) for item in random.permutation([target, *others])]
            names = {
                "example_id": f"{split}{row}:3",
                "user_id": f"{row}",
                "history": [],
                "timestamp": 0.0,
            }
            drawn.append({**names, "target": str(target), "candidates": listed, "rejected": []})
        tables[split] = pa.Table.from_pylist(drawn, schema=PREFERENCES)
    return tables


@pytest.mark.parametrize(("rows", "width"), [(1, 3), (2, 2), (8, 6), (30, 6), (120, 10)])
def test_few_rows_never_raise_an_alarm(rows: int, width: int) -> None:
    items = pd.DataFrame({"item_id": [str(item) for item in range(30)]})
    audits = [
        audit_split(small_tables(seed, rows, width, 30), "test", items, "window")
        for seed in range(40)
    ]
    assert not any(audit["leak"] for audit in audits)
    assert all(audit["limit"] >= audit["high"] for audit in audits)


def test_the_usual_interval_would_stop_some_clean_run() -> None:
    items = pd.DataFrame({"item_id": [str(item) for item in range(30)]})
    audits = [
        audit_split(small_tables(seed, 120, 10, 30), "test", items, "window") for seed in range(40)
    ]
    assert 0 < np.mean([audit["hit_ratio_at_1"] > audit["high"] for audit in audits]) < 0.1


def test_rows_that_cannot_be_audited_are_skipped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    items = pd.DataFrame({"item_id": [str(item) for item in range(30)]})
    tables = small_tables(0, 5, 4, 30)
    empty = {**tables, "train": tables["train"].slice(0, 0)}
    assert audit_split(empty, "test", items, "window") == {
        "skipped": "too few rows in the train split"
    }
    one = {"train": tables["train"].slice(0, 1)}
    assert audit_split(one, "train", items, "window") == {
        "skipped": "too few rows in the train split"
    }
    crowded = small_tables(0, 5, 4, 4)["test"].set_column(2, "history", pa.array([["0"]] * 5))
    few = pd.DataFrame({"item_id": ["0", "1", "2", "3"]})
    audit = audit_split({"train": crowded, "test": crowded}, "test", few, "window")
    assert "can't be redrawn from 4 items" in audit["skipped"]
    assert check_audit(audit, "test split", False) == []
    assert "test split: candidate lists not audited" in caplog.text


FOUND = {
    "hit_ratio_at_1": 0.5,
    "chance": 0.1,
    "low": 0.08,
    "high": 0.12,
    "limit": 0.15,
    "rows": 900,
    "leak": True,
}


def test_a_leak_is_an_error_or_a_warning() -> None:
    with pytest.raises(
        CheckFailedError, match=r"HitRatio@1 0\.500 on 900 rows, against 0\.100 \[0\.080, 0\.120\]"
    ) as error:
        check_audit(FOUND, "test split", False)
    assert error.value.exit_code == 3 and "--allow-leak" in str(error.value)
    (line,) = check_audit(FOUND, "test split", True)
    assert line.startswith("LEAK: ") and "0.500" in line
    assert check_audit({**FOUND, "leak": False}, "test split", False) == []


ROW = {"historyList": "a::b", "itemList": ["c", "d"], "trueSelection": "c"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "must hold at least one row"),
        ([ROW, {"itemList": ["c"]}], "every historyList must be a list of titles"),
        (
            [ROW, {**ROW, "trueSelection": "x"}],
            "must list its target once, 1 do not, first row 1 with target 'x'",
        ),
        ([ROW, {**ROW, "itemList": ["c", "d", "e"]}], "as many candidates, got 2 to 3"),
    ],
)
def test_unusable_rows_are_named(rows: list[dict], message: str, tmp_path: Path) -> None:
    path = write_published(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=message):
        audit_candidates(path, path)


def test_a_json_list_and_lines_give_the_same(tmp_path: Path) -> None:
    rows = [
        {
            "historyList": ["h"],
            "itemList": [f"i{n}", f"j{n}", f"k{n % 7}"],
            "trueSelection": f"i{n}",
        }
        for n in range(40)
    ]
    lines = write_published(tmp_path / "rows.jsonl", rows)
    array = tmp_path / "rows.json"
    array.write_text(json.dumps(rows), encoding="utf-8")
    assert audit_candidates(lines, lines) == audit_candidates(array, array)


def test_what_is_no_row_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match="broken.jsonl:1: must be UTF-8"):
        audit_candidates(tmp_path / "broken.jsonl", tmp_path / "broken.jsonl")
    with pytest.raises(DataError, match="must be a .json or .jsonl file or a preferences folder"):
        audit_candidates(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="redraws: must be >= 20"):
        audit_candidates(tmp_path, tmp_path, redraws=5)


def test_the_check_of_other_stages_imports_neither_ibis_nor_duckdb() -> None:
    """Only published files are read with them; sampling and evaluation read preferences folders."""
    code = (
        "import sys, dynamicpo.negatives.audit.leak_check; "
        "raise SystemExit(bool({'ibis', 'duckdb'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
