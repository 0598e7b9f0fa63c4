"""Inputs after public bug reports of other tools: read as they were meant, or refused."""

from pathlib import Path

import pytest

from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import read_items
from dynamicpo.data.prepare import prepare_data


@pytest.fixture
def cases(shared: Path) -> Path:
    folder = shared / "cases" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/cases/data: the inputs after bug reports are not on this machine")
    return folder


HIVE = "06-hive-folder-name/input"
INDEX = "13-pandas-index-column/input"
SAME = [
    ("03-folder-column-order/input/interactions", "03-folder-column-order/input/items.csv"),
    (f"{HIVE}/lake/user_id=77/interactions.csv", f"{HIVE}/plain/items.csv"),
    (f"{HIVE}/lake/user_id=77/interactions.jsonl", f"{HIVE}/plain/items.csv"),
    (f"{HIVE}/lake/user_id=77/interactions.parquet", f"{HIVE}/plain/items.csv"),
    (f"{HIVE}/lake/rating=5/interactions.csv", f"{HIVE}/lake/category=Books/items.csv"),
    *(
        (
            "12-names-that-differ-in-case/input/interactions.csv",
            f"12-names-that-differ-in-case/input/items.{suffix}",
        )
        for suffix in ("csv", "jsonl", "parquet")
    ),
    *(
        (f"{INDEX}/{name}.csv", f"{INDEX}/items.csv")
        for name in ("interactions", "empty-first-line", "comma-at-end", "sep-hint")
    ),
    ("19-python-literals/input/interactions.json", "19-python-literals/input/items.csv"),
    ("21-folder-empty-first-part/input/interactions", "21-folder-empty-first-part/input/items.csv"),
]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


@pytest.mark.parametrize(("interactions", "items"), SAME)
def test_it_is_the_plain_table(tmp_path: Path, cases: Path, interactions: str, items: str) -> None:
    config = DataConfig(k_core=1)
    plain = [str(cases / INDEX / "plain" / name) for name in ("interactions.csv", "items.csv")]
    prepare_data(*plain, tmp_path / "plain", config)
    manifest = prepare_data(str(cases / interactions), str(cases / items), tmp_path / "o", config)
    assert manifest.counts["users"] == 30
    expected = content(tmp_path / "plain")
    got = content(tmp_path / "o")
    assert {name: got[name] for name in got if name != "items.parquet"} == {
        name: expected[name] for name in expected if name != "items.parquet"
    }
    titles = set(read_items(tmp_path / "o")["title"])
    assert titles == {f"Title number {number}" for number in range(1, 41)}


REFUSED = [
    ("04-folder-header-in-first-part-only/input/interactions", r"part-01\.csv: must have the col"),
    ("08-float-ids-beyond-2-53/input/interactions.parquet", "written exactly, not so in 420 of"),
    *(
        (f"10-null-markers/input/{name}.csv", "every user_id must be given, not so in 42 of 420")
        for name in ("hive", "pandas", "r", "empty")
    ),
    ("15-constant-timestamp/input/interactions.csv", "must tell the order"),
]


@pytest.mark.parametrize(("interactions", "message"), REFUSED)
def test_it_is_refused(tmp_path: Path, cases: Path, interactions: str, message: str) -> None:
    items = cases / interactions.partition("/")[0] / "input" / "items.csv"
    with pytest.raises(DataError, match=message):
        prepare_data(str(cases / interactions), str(items), tmp_path / "o", DataConfig(k_core=1))


def test_milliseconds_are_seconds(tmp_path: Path, cases: Path) -> None:
    for unit in ("seconds", "milliseconds"):
        folder = cases / "09-milliseconds" / "input" / unit
        files = [str(folder / name) for name in ("interactions.csv", "items.csv")]
        prepare_data(*files, tmp_path / unit, DataConfig(k_core=1))
    assert content(tmp_path / "seconds") == content(tmp_path / "milliseconds")


def test_titles_keep_their_letters_and_quotes(tmp_path: Path, cases: Path) -> None:
    folder = str(cases / "01-ml10m-utf8-movies-dat" / "input" / "ml-10M100K")
    prepare_data(folder, "", tmp_path / "ml", DataConfig(source="movielens", k_core=1))
    assert "Amélie (2001)" in set(read_items(tmp_path / "ml")["title"])
    folder = str(cases / "02-tsv-title-with-quotes" / "input")
    files = (f"{folder}/interactions.csv", f"{folder}/items-quoted-start.tsv")
    prepare_data(*files, tmp_path / "tsv", DataConfig(k_core=1))
    assert '"Odd Al" Jankowski' in set(read_items(tmp_path / "tsv")["title"])
