"""Windows between dates, against plain Python: borders, histories, what is new, what is late."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.rows import EXAMPLES, read_items, read_rows
from dynamicpo.data.prepare import prepare_data

START = 1_577_836_800_000  # 2020-01-01, milliseconds
DAY = 86_400_000
DATES = {
    "data_from": "2020-01-11",
    "train_until": "2020-02-10T02:00:00+02:00",
    "validation_until": "2020-02-20",
    "data_until": "2020-03-01T00:00:00.250Z",
}
CUTS = [START + 10 * DAY, START + 40 * DAY, START + 50 * DAY, START + 60 * DAY + 250]
NAMES = ["before", "train", "validation", "test", "after"]
CORE, SHORTEST, LONGEST = 5, 3, 10
Event = tuple[str, str, int]  # user, item, milliseconds


def window(time: int) -> str:
    return NAMES[sum(time >= cut for cut in CUTS)]


def events() -> list[Event]:
    """Users and items that come and go, some repeats, and rows at each border."""
    rng = np.random.default_rng(5)
    rows = []
    for user in range(40):
        first = int(rng.integers(0, 55))
        days = rng.uniform(first, 66, size=30)
        items = rng.integers(0, 20, size=30) + (days // 3).astype(int)
        rows += [
            (f"u{user}", f"i{item}", START + round(day * DAY))
            for item, day in zip(items, days, strict=True)
        ]
    for number, cut in enumerate(CUTS):
        rows += [(f"u{number}", f"edge{number}", cut), (f"u{number}", f"before{number}", cut - 1)]
    return list(dict.fromkeys(rows))


class Expected(NamedTuple):
    rows: dict[str, tuple[str, str, float, list[str]]]
    counts: dict[str, int]
    popularity: Counter[str]


def expected(rows: list[Event], repeats: str) -> Expected:
    """The examples, their counts and the items' popularity, by loops."""
    kept = [row for row in rows if window(row[2]) != "after"]
    if repeats != "all":
        times = defaultdict(list)
        for user, item, time in kept:
            times[user, item].append(time)
        choose = min if repeats == "first" else max
        kept = [(user, item, choose(found)) for (user, item), found in times.items()]
    train = [row for row in kept if window(row[2]) == "train"]
    size = 0
    while size != len(train):
        size = len(train)
        users, items = Counter(row[0] for row in train), Counter(row[1] for row in train)
        train = [row for row in train if users[row[0]] >= CORE and items[row[1]] >= CORE]
    later = [row for row in kept if window(row[2]) in ("validation", "test")]
    users, items = {row[0] for row in train + later}, {row[1] for row in train + later}
    history = [row for row in kept if window(row[2]) == "before"]
    history = [row for row in history if row[0] in users and row[1] in items]
    examples = {}
    for user in users:
        own = sorted((time, item) for who, item, time in train + later + history if who == user)
        for position, (time, item) in enumerate(own):
            if window(time) != "before" and position >= SHORTEST:
                past = [name for _, name in own[max(0, position - LONGEST) : position]]
                examples[f"{user}:{position}"] = (window(time), item, time / 1000, past)
    counts = {
        "dropped_late": sum(window(row[2]) == "after" for row in rows),
        "new_users": len({row[0] for row in later} - {row[0] for row in train}),
        "new_items": len({row[1] for row in later} - {row[1] for row in train}),
        "history_interactions": len(history),
    }
    return Expected(examples, counts, Counter(row[1] for row in train))


def prepare(folder: Path, rows: list[Event], **settings: object) -> Manifest:
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    frame.sample(frac=1, random_state=1).to_csv(folder / "i.csv", index=False)
    items = pd.DataFrame({"item_id": sorted(set(frame["item_id"]))})
    items.assign(title="Title " + items["item_id"]).to_csv(folder / "items.csv", index=False)
    given = {"split": "dates", "k_core": CORE} | DATES | settings
    config = DataConfig(**given)  # type: ignore[arg-type]
    return prepare_data(str(folder / "i.csv"), str(folder / "items.csv"), folder / "out", config)


@pytest.mark.parametrize("repeats", ["first", "last", "all"])
def test_examples_are_those_of_plain_loops(tmp_path: Path, repeats: str) -> None:
    rows = events()
    manifest = prepare(tmp_path, rows, repeats=repeats)
    wanted = expected(rows, repeats)
    found = {
        row.example_id: (split, row.target, row.timestamp, list(row.history))
        for split in SPLITS
        for row in read_rows(tmp_path / "out", split, EXAMPLES).to_pandas().itertuples()
    }
    assert found == wanted.rows
    assert {name: manifest.counts[name] for name in wanted.counts} == wanted.counts
    assert min(wanted.counts.values()) > 0
    popularity = read_items(tmp_path / "out").set_index("item_id")["popularity"]
    assert popularity[popularity > 0].to_dict() == dict(wanted.popularity)
    # Half-open: what is at a cut belongs to the window after it.
    edges = {target: split for split, target, *_ in found.values()}
    assert edges["before2"] == "validation"
    assert edges["edge2"] == edges["before3"] == "test"
    assert "edge3" not in edges


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        (
            {"train_until": "2001-01-01", "data_from": ""},
            r"some must be in training, from the start until 2001-01-01, .* are from 2020-01-0",
        ),
        (
            {
                "data_from": "2000-01-01",
                "train_until": "2001-01-01",
                "validation_until": "2001-02-01",
            }
            | {"data_until": "2001-03-01"},
            r"some must be before data_until \(2001-03-01\), but all \d+ are later",
        ),
    ],
)
def test_windows_without_training_say_where_the_data_are(
    tmp_path: Path, dates: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, events(), **dates)
    assert not (tmp_path / "out").exists()


def test_published_rows_have_no_windows(tmp_path: Path) -> None:
    config = DataConfig(source="published", split="dates", **DATES)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="split: 'dates' must go with interactions"):
        prepare_data(str(tmp_path), "", tmp_path / "out", config)
