"""Data sets as they were published, in small: the real formats with their real quirks."""

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.rows import EXAMPLES, read_items, read_rows
from dynamicpo.data.prepare import prepare_data
from dynamicpo.runs.parameters import check_parameters

USERS, PLAYS = 8, 5
START = 1_300_000_000  # in 2011
SPLITS = ("train", "validation", "test")


def events() -> list[tuple[int, int, int]]:
    """User, item and seconds of each event, in the order of time."""
    return [
        (user, (user + 2 * play) % 10, START + 86_400 * play + user)
        for play in range(PLAYS)
        for user in range(USERS)
    ]


def write_gz(path: Path, lines: list[str]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.writelines(line + "\n" for line in lines)


def write_hetrec(folder: Path) -> int:
    """Tabs, CR LF, raw quotes; a time in 1956; several tags of an artist at one time."""
    names = ["MALICE MIZER", '"Weird Al" Yankovic', "Die Ärzte", "Sigur Rós", "AC/DC", "!!!"]
    names += ["Guns N' Roses", "Björk", '"Heroes"', "NA"]
    lines = ["id\tname\turl\tpictureURL"]
    lines += [
        f"{10 + item}\t{name}\thttp://www.last.fm/music/{item}\thttp://userserve-ak.last.fm/{item}"
        for item, name in enumerate(names)
    ]
    (folder / "artists.dat").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    rows = ["userID\tartistID\ttagID\ttimestamp"]
    for user, item, seconds in events():
        rows += [f"{2 + user}\t{10 + item}\t{tag}\t{seconds}000" for tag in (13, 15)]
    rows.append("2\t10\t13\t-428720400000")
    text = "".join(f"{row}\r\n" for row in rows)
    (folder / "user_taggedartists-timestamps.dat").write_bytes(text.encode())
    (folder / "user_artists.dat").write_text("userID\tartistID\tweight\r\n2\t10\t13883\r\n")
    return 2 * len(events()) + 1


def write_lastfm_1k(folder: Path) -> int:
    """No header, ISO times, raw quotes, artists without an id of MusicBrainz."""
    rows = []
    for user, item, seconds in events():
        time = pd.Timestamp(seconds, unit="s").strftime("%Y-%m-%dT%H:%M:%SZ")
        mbid = "" if item % 3 else f"f1b1cf71-bd35-4e99-8624-24a6e15f133{item}"
        name = '"Weird Al" Yankovic' if item == 4 else f"Artist {item}"
        rows.append(f'user_{user:06d}\t{time}\t{mbid}\t{name}\t\tFuck Me Im "Famous" - {item}')
    path = folder / "userid-timestamp-artid-artname-traid-traname.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return len(rows)


def write_lfm_1b(folder: Path) -> int:
    """No headers, `.txt`, raw quotes, artists without a name."""
    rows = [f"{user}\t{item}\t9\t{item}\t{seconds}" for user, item, seconds in events()]
    (folder / "LFM-1b_LEs.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    names = [f'{item}\t"Band" {item}' for item in range(10)]
    artists = "\n".join([*names, "11\t"]) + "\n"
    (folder / "LFM-1b_artists.txt").write_text(artists, encoding="utf-8")
    return len(rows)


def write_lfm_2b(folder: Path) -> int:
    """Headers, ISO times without a zone, tracks of several artists with one name."""
    lines = ["user_id\ttrack_id\talbum_id\ttimestamp"]
    for user, item, seconds in events():
        time = pd.Timestamp(seconds, unit="s").strftime("%Y-%m-%d %H:%M:%S")
        lines.append(f"{user}\t{item}\t{item}\t{time}")
    (folder / "listening-events.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tracks = ["track_id\tartist_name\ttrack_name"]
    tracks += [f"{item}\tBand {item}\tIntro" for item in range(10)]
    (folder / "tracks.tsv").write_text("\n".join(tracks) + "\n", encoding="utf-8")
    return len(lines) - 1


def write_steam(folder: Path) -> int:
    """Python literals in .json.gz; a game without an id, one without a name, one twice."""
    reviews = []
    for user, item, seconds in events():
        date = pd.Timestamp(seconds, unit="s").strftime("%Y-%m-%d")
        review = {"username": f"Chaos Syren {user}", "hours": 0.1, "products": 41}
        review |= {"product_id": str(725280 + item), "page_order": 0, "date": date}
        review |= {"text": "This would not be acceptable as 'it' is\n", "early_access": False}
        reviews.append(repr(review).replace("'username'", "u'username'"))
    write_gz(folder / "steam_reviews.json.gz", reviews)
    games = []
    for item in range(10):
        game = {"publisher": "Kotoshiro", "genres": ["Action", "Casual"], "price": 4.99}
        games.append({**game, "app_name": f"Lost Kitty {item}", "id": str(725280 + item)})
    games.append({"url": "http://store.steampowered.com/", "price": 19.99})
    games.append({"genres": ["Action"], "title": None, "app_name": None, "id": "317160"})
    games.append(games[0])
    write_gz(folder / "steam_games.json.gz", [repr(game) for game in games])
    return len(reviews)


def write_goodreads(folder: Path) -> int:
    """Times as Ruby writes them; ids of digits as text; editions of one title, one without."""
    rows = []
    for user, item, seconds in events():
        added = pd.Timestamp(seconds, unit="s", tz="US/Pacific")
        row = {"user_id": f"8842281e1d1347389f2ab93d60773d4{user}", "book_id": f"00{item}"}
        row |= {"is_read": item % 2 == 0, "rating": 5, "review_text_incomplete": "", "read_at": ""}
        row["date_added"] = added.strftime("%a %b %d %H:%M:%S %z %Y")
        rows.append(json.dumps(row))
    write_gz(folder / "goodreads_interactions_poetry.json.gz", rows)
    books = []
    for item in range(10):
        shelves = [{"count": "3", "name": "to-read"}]
        book = {"isbn": "0312853122", "popular_shelves": shelves, "book_id": f"00{item}"}
        title = "Leaves of Grass" if item < 2 else f"Poems {item}"
        books.append({**book, "title": title, "publication_year": str(1984 + item)})
    books.append({"book_id": "99", "title": "", "publication_year": ""})
    write_gz(folder / "goodreads_books_poetry.json.gz", [json.dumps(book) for book in books])
    return len(rows)


def write_amazon(folder: Path) -> int:
    """Milliseconds; variants under one parent; a review's own title; a product without one."""
    rows = []
    for user, item, seconds in events():
        row = {"rating": 5.0, "title": "Such a lovely scent", "text": "...", "images": []}
        row |= {"asin": f"B00YQ6X8E{user}", "parent_asin": f"B00YQ6X8E{item}"}
        row |= {"user_id": f"AGKHLEW2SOWHNMFQIJGBECAF7IN{user}", "timestamp": seconds * 1000 + 923}
        rows.append(json.dumps({**row, "helpful_vote": 0, "verified_purchase": True}))
    write_gz(folder / "All_Beauty.jsonl.gz", rows)
    products = []
    for item in range(11):
        product = {"main_category": "All Beauty", "title": f"Lotion {item}" if item < 10 else ""}
        product |= {"average_rating": 4.8, "features": [], "price": None, "details": {}}
        products.append(json.dumps({**product, "parent_asin": f"B00YQ6X8E{item}"}))
    write_gz(folder / "meta_All_Beauty.jsonl.gz", products)
    return len(rows)


WRITERS: dict[str, tuple[Callable[[Path], int], dict[str, str]]] = {
    "hetrec-lastfm": (write_hetrec, {"11": '"Weird Al" Yankovic', "19": "NA"}),
    "lastfm-1k": (write_lastfm_1k, {'"Weird Al" Yankovic': '"Weird Al" Yankovic'}),
    "lfm-1b": (write_lfm_1b, {"3": '"Band" 3'}),
    "lfm-2b": (write_lfm_2b, {"0": "Intro", "1": "Intro (2)"}),
    "steam": (write_steam, {"725280": "Lost Kitty 0"}),
    "goodreads": (write_goodreads, {"000": "Leaves of Grass (1984)", "002": "Poems 2"}),
    "amazon-2023": (write_amazon, {"B00YQ6X8E3": "Lotion 3"}),
}
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


def write_later_movielens(folder: Path, name: str, end: str) -> None:
    """MovieLens from 20m on: headers, titles in quotes, times in seconds, files beside."""
    inner = folder / name
    inner.mkdir()
    titles = ['"American President, The (1995)"', '"Amélie (Fabuleux destin, Le) (2001)"']
    titles += [
        '"""Great Performances"" Cats (1998)"',
        *(f"Film {item} (2000)" for item in range(7)),
    ]
    movies = ["movieId,title,genres"]
    for item, title in enumerate(titles):
        genres = "(no genres listed)" if item == 2 else "Comedy|Drama"
        movies.append(f"{item + 1},{title},{genres}")
    ratings = ["userId,movieId,rating,timestamp"]
    ratings += [f"{user + 1},{item + 1},3.5,{time}" for user, item, time in events()]
    others = {
        "links.csv": ["movieId,imdbId,tmdbId", "1,0114709,862"],
        "tags.csv": ["userId,movieId,tag,timestamp", "2,1,funny,1445714994"],
    }
    for file, lines in {"movies.csv": movies, "ratings.csv": ratings, **others}.items():
        (inner / file).write_bytes("".join(line + end for line in lines).encode())
    (inner / "README.txt").write_text("Summary\n=======\n")


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
