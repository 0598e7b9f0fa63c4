"""The leak audit, on published files and on preferences folders."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dynamicpo.audit import audit_candidates
from dynamicpo.errors import ConfigError, DataError
from dynamicpo.records import PREFERENCES, Manifest, stage_output, write_items, write_rows

KEYS = {"hit_ratio_at_1", "chance", "low", "high", "leak"}


def write_published(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def with_clean_lists(path: Path, output: Path, catalogue: list[str], seed: int) -> Path:
    """The same rows, each with a uniform list of its own."""
    random, rows = np.random.default_rng(seed), []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        taken = {*row["historyList"].split("::"), row["trueSelection"]}
        drawn = [name for name in random.choice(catalogue, 60, replace=False) if name not in taken][:19]
        rows.append({**row, "itemList": random.permutation([*drawn, row["trueSelection"]]).tolist()})
    return write_published(output, rows)


@pytest.fixture(scope="module")
def lastfm(shared: Path) -> tuple[Path, Path]:
    folder = shared / "data" / "lastfm"
    return folder / "rows-train.jsonl", folder / "rows-test.jsonl"


def test_published_lists_leak(lastfm: tuple[Path, Path]) -> None:
    found = audit_candidates(*lastfm)
    assert {*found} == KEYS
    assert found["leak"] is True
    assert 0.58 < found["hit_ratio_at_1"] < 0.66
    assert 0.05 < found["low"] < found["chance"] < found["high"] < 0.3


def test_clean_lists_of_the_same_rows_are_inside_the_null(lastfm: tuple[Path, Path], tmp_path: Path) -> None:
    train, test = lastfm
    rows = [json.loads(line) for path in lastfm for line in path.read_text(encoding="utf-8").splitlines()]
    names = {name for row in rows for name in (*row["historyList"].split("::"), *row["itemList"])}
    clean = (
        with_clean_lists(train, tmp_path / "train.jsonl", sorted(names), seed=1),
        with_clean_lists(test, tmp_path / "test.jsonl", sorted(names), seed=2),
    )
    found = audit_candidates(*clean)
    assert found["leak"] is False
    assert found["low"] <= found["hit_ratio_at_1"] <= found["high"]


def preferences(output: Path, exclude: str, leak: bool = False) -> Path:
    """Rows of 60 users over 80 items with Zipf popularity; with `leak` the target stands first."""
    random, popularity = np.random.default_rng(0), 1 / np.arange(1, 81)
    rows: list[dict] = []
    for user in range(60):
        seen = random.choice(80, 20, replace=False, p=popularity / popularity.sum())
        for place in range(3, 20):
            window, target = seen[max(0, place - 10) : place], seen[place]
            barred = {"window": [*window, target], "past": seen[: place + 1], "all": seen}[exclude]
            drawn = random.choice(np.setdiff1d(np.arange(80), barred), 7, replace=False)
            listed = [target, *drawn] if leak else random.permutation([target, *drawn])
            rows.append(
                {
                    "example_id": f"{user}:{place}",
                    "user_id": str(user),
                    "history": [str(item) for item in window],
                    "target": str(target),
                    "timestamp": float(place),
                    "candidates": [str(item) for item in listed],
                    "rejected": [str(item) for item in drawn],
                }
            )
    items = pd.DataFrame({"item_id": [str(item) for item in range(80)], "popularity": 0, "category": ""})
    with stage_output(output, Manifest("sample_negatives", {"exclude": exclude}, {})) as folder:
        write_items(folder, items.assign(title="title " + items["item_id"]))
        for split, part in {"train": rows[::2], "validation": rows[1::4], "test": rows[3::4]}.items():
            write_rows(folder, split, pa.Table.from_pylist(part, schema=PREFERENCES))
    return output


@pytest.mark.parametrize("exclude", ["window", "past", "all"])
def test_a_clean_folder_is_clean_by_its_own_protocol(exclude: str, tmp_path: Path) -> None:
    folder = preferences(tmp_path / "preferences", exclude)
    found = audit_candidates(folder, folder)
    assert found["leak"] is False
    assert found["low"] <= found["hit_ratio_at_1"] <= found["high"]


def test_what_is_excluded_moves_the_null(tmp_path: Path) -> None:
    chances = [
        audit_candidates(folder, folder)["chance"]
        for folder in (preferences(tmp_path / exclude, exclude) for exclude in ("window", "all"))
    ]
    assert chances[1] > chances[0] + 0.02


def test_a_folder_with_the_target_first_leaks(tmp_path: Path) -> None:
    folder = preferences(tmp_path / "preferences", "window", leak=True)
    found = audit_candidates(folder, folder / "validation")
    assert found["hit_ratio_at_1"] == 1.0
    assert found["leak"] is True
    assert audit_candidates(folder, folder / "validation") == found


ROW = {"historyList": "a::b", "itemList": ["c", "d"], "trueSelection": "c"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "must hold at least one row"),
        ([ROW, {"itemList": ["c"]}], "every historyList must be a list of titles"),
        ([ROW, {**ROW, "trueSelection": "x"}], "must list its target once, 1 do not, first row 1 with target 'x'"),
        ([ROW, {**ROW, "itemList": ["c", "d", "e"]}], "as many candidates, got 2 to 3"),
    ],
)
def test_unusable_rows_are_named(rows: list[dict], message: str, tmp_path: Path) -> None:
    path = write_published(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=message):
        audit_candidates(path, path)


def test_a_json_list_and_lines_give_the_same(tmp_path: Path) -> None:
    rows = [
        {"historyList": ["h"], "itemList": [f"i{n}", f"j{n}", f"k{n % 7}"], "trueSelection": f"i{n}"} for n in range(40)
    ]
    lines = write_published(tmp_path / "rows.jsonl", rows)
    whole = tmp_path / "rows.json"
    whole.write_text(json.dumps(rows), encoding="utf-8")
    assert audit_candidates(lines, lines) == audit_candidates(whole, whole)


def test_what_is_no_row_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match="broken.jsonl: must be"):
        audit_candidates(tmp_path / "broken.jsonl", tmp_path / "broken.jsonl")
    with pytest.raises(DataError, match="must be a .json or .jsonl file or a preferences folder"):
        audit_candidates(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="redraws: must be >= 20"):
        audit_candidates(tmp_path, tmp_path, redraws=5)
