"""Importers of data sets as they were published."""

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.rows import EXAMPLES, read_items, read_rows
from dynamicpo.data.prepare import prepare_data
from dynamicpo.runs.parameters import check_parameters
from tests.fixtures.datasets import (
    START,
    USERS,
    WRITERS,
    events,
    write_amazon,
    write_goodreads,
    write_later_movielens,
    write_lfm_2b,
    write_movielens_10m,
    write_movielens_100k,
    write_steam,
)

SPLITS = ("train", "validation", "test")
CONFIG = {"k_core": 1, "min_history": 1}


def prepared(folder: Path, name: str, **config: object) -> Manifest:
    settings = DataConfig(source=name, **{**CONFIG, **config})
    return prepare_data(str(folder), "", examples_of(folder), settings)


def examples_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-examples")


@pytest.mark.parametrize("name", WRITERS)
def test_it_is_read_as_it_was_published(tmp_path: Path, name: str) -> None:
    write, titles = WRITERS[name]
    num_rows = write(tmp_path)
    manifest = prepared(tmp_path, name)
    assert manifest.counts["interactions_read"] == num_rows - (name == "hetrec-lastfm")
    assert manifest.counts["users"] == USERS
    assert manifest.counts["interactions"] == len(events())
    items = read_items(examples_of(tmp_path)).set_index("item_id")["title"]
    assert len(items) == 10
    assert titles.items() <= dict(items).items()
    rows = [read_rows(examples_of(tmp_path), split, EXAMPLES).to_pandas() for split in SPLITS]
    times = pd.concat(rows).groupby("user_id")["timestamp"].agg(["min", "max"])
    # The first play is a history; dates without a time begin their day.
    assert times["min"].between(START, START + 86_400 + USERS).all()
    assert times["max"].between(START + 3 * 86_400, START + 4 * 86_400 + USERS).all()


@pytest.mark.parametrize(
    ("name", "count", "number"),
    [
        ("hetrec-lastfm", "dropped_early_times", 1),
        ("lfm-1b", "dropped_unnamed_items", 1),
        ("steam", "dropped_unnamed_items", 2),
        ("steam", "dropped_duplicate_items", 1),
        ("goodreads", "dropped_unnamed_items", 1),
        ("amazon-2023", "dropped_unnamed_items", 1),
    ],
)
def test_known_faults_are_left_out_and_said(
    tmp_path: Path, name: str, count: str, number: int
) -> None:
    WRITERS[name][0](tmp_path)
    manifest = prepared(tmp_path, name)
    assert manifest.counts[count] == number
    if count != "dropped_duplicate_items":
        assert "left out" in " ".join(manifest.extra["conversions"])


def test_the_same_faults_of_other_tables_are_refused(tmp_path: Path) -> None:
    write_steam(tmp_path)
    columns = "user_id=username,item_id=product_id,item_id=id,timestamp=date,title=app_name"
    files = (tmp_path / "steam_reviews.json.gz", tmp_path / "steam_games.json.gz")
    with pytest.raises(DataError, match="every item_id must be given, not so in 1 of 13"):
        prepare_data(*map(str, files), tmp_path / "o", DataConfig(columns=columns, **CONFIG))


def test_one_name_of_ours_may_stand_for_two_of_theirs(tmp_path: Path) -> None:
    write_goodreads(tmp_path)
    books = pd.DataFrame({"id": [f"00{item}" for item in range(10)], "name": "A", "n": range(10)})
    books.assign(name=books["name"] + books["n"].astype(str)).to_csv(tmp_path / "b.csv")
    columns = "item_id=book_id,item_id=id,title=name,timestamp=date_added"
    config = DataConfig(columns=columns, time_format="%a %b %d %H:%M:%S %z %Y", **CONFIG)
    files = (tmp_path / "goodreads_interactions_poetry.json.gz", tmp_path / "b.csv")
    manifest = prepare_data(*map(str, files), tmp_path / "o", config)
    assert manifest.counts["items"] == 10


def test_files_may_be_given_themselves(tmp_path: Path) -> None:
    write_amazon(tmp_path)
    files = (tmp_path / "All_Beauty.jsonl.gz", tmp_path / "meta_All_Beauty.jsonl.gz")
    config = DataConfig(source="amazon-2023", **CONFIG)
    both = prepare_data(*map(str, files), tmp_path / "both", config)
    beside = prepare_data(str(files[0]), "", tmp_path / "beside", config)
    assert both.counts == beside.counts


def test_amazon_ratings_without_reviews(tmp_path: Path) -> None:
    write_amazon(tmp_path)
    (tmp_path / "All_Beauty.jsonl.gz").unlink()
    lines = [f"A{user},B00YQ6X8E{item},5.0,{time}000\n" for user, item, time in events()]
    header = "user_id,parent_asin,rating,timestamp\n"
    (tmp_path / "All_Beauty.csv").write_text(header + "".join(lines), encoding="utf-8")
    assert prepared(tmp_path, "amazon-2023").counts["interactions"] == len(events())


def test_read_books_alone(tmp_path: Path) -> None:
    write_goodreads(tmp_path)
    manifest = prepared(tmp_path, "goodreads", keep_events="true")
    num_read = sum(item % 2 == 0 for _, item, _ in events())
    assert manifest.counts["interactions"] == num_read


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    write_steam(tmp_path)
    (tmp_path / "steam_games.json.gz").unlink()
    with pytest.raises(DataError, match=r"must hold steam_games\.json\* of steam.*Give both"):
        prepared(tmp_path, "steam")
    assert not (examples_of(tmp_path)).exists()


def test_two_files_of_one_kind_are_refused(tmp_path: Path) -> None:
    write_goodreads(tmp_path)
    books = tmp_path / "goodreads_books_poetry.json.gz"
    (tmp_path / "goodreads_books_comics.json.gz").write_bytes(books.read_bytes())
    with pytest.raises(DataError, match="must hold one goodreads_books.*comics.*poetry"):
        prepared(tmp_path, "goodreads")


def test_packed_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    write_lfm_2b(tmp_path)
    (tmp_path / "listening-events.tsv").rename(tmp_path / "listening-events.tsv.bz2")
    with pytest.raises(DataError, match=r"must be unpacked or a \.gz file, got \.bz2"):
        prepared(tmp_path, "lfm-2b")


def test_plays_without_times_are_refused(tmp_path: Path) -> None:
    """Of LFM-360K: its plays are counts, and nothing comes next."""
    path = tmp_path / "usersha1-artmbid-artname-plays.tsv"
    path.write_text("00000c289a1829a808ac09c00daf10bc3c4e223b\t3bd73256\tbetty blowtorch\t2137\n")
    (tmp_path / "items.csv").write_text("item_id,title\n3bd73256,betty blowtorch\n")
    with pytest.raises(DataError, match="timestamp"):
        config = DataConfig(columns="user_id=1,item_id=2", **CONFIG)
        prepare_data(str(path), str(tmp_path / "items.csv"), tmp_path / "o", config)


def test_a_pipeline_takes_one_folder(tmp_path: Path) -> None:
    write_steam(tmp_path)
    given = {"data_source": "steam", "data_interactions": str(tmp_path)}
    assert check_parameters("training", given)["data_source"] == "steam"
    with pytest.raises(ConfigError, match="data_interactions: must be given"):
        check_parameters("training", {"data_source": "steam"})


EARLY_MOVIELENS = {
    "100k": (write_movielens_100k, "ml-100k.zip", {"1": "The Godfather (1972)"}),
    "10m": (write_movielens_10m, "", {"4": "Amélie 3: Act 2 (2001)"}),
}


@pytest.mark.parametrize("name", EARLY_MOVIELENS)
def test_early_movielens(tmp_path: Path, name: str) -> None:
    write, path, titles = EARLY_MOVIELENS[name]
    write(tmp_path)
    config = DataConfig(source="movielens", **CONFIG)
    manifest = prepare_data(str(tmp_path / path), "", examples_of(tmp_path), config)
    assert manifest.counts["interactions"] == len(events())
    items = read_items(examples_of(tmp_path)).set_index("item_id")["title"]
    assert titles.items() <= dict(items).items()
    assert name == "10m" or items["2"] == "Les Misérables (1995)"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["ml-20m", "ml-25m", "ml-32m", "ml-latest-small"])
def test_later_movielens(tmp_path: Path, name: str, end: str) -> None:
    write_later_movielens(tmp_path, name, end)
    archive = tmp_path / f"{name}.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in (tmp_path / name).iterdir():
            packed.write(file, f"{name}/{file.name}")
    config = DataConfig(source="movielens", min_rating=3, **CONFIG)
    from_zip = prepare_data(str(archive), "", tmp_path / "zip", config)
    from_folder = prepare_data(str(tmp_path / name), "", tmp_path / "folder", config)
    assert from_zip.counts == from_folder.counts
    assert from_zip.counts["interactions"] == len(events())
    items = read_items(tmp_path / "zip").set_index("item_id")
    titles = dict(items["title"])
    assert titles["1"] == "The American President (1995)"
    assert titles["2"] == "Amélie (Le Fabuleux destin) (2001)"
    assert titles["3"] == '"Great Performances" Cats (1998)'
    assert dict(items["category"])["3"] == ""
