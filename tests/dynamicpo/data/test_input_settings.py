"""Names of columns, events, windows between dates, and user ids that are hashed or forgotten."""

import json
import traceback
from pathlib import Path

import pandas as pd
import pytest

from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.rows import EXAMPLES, read_items, read_rows
from dynamicpo.data.prepare import prepare_data
from dynamicpo.data.sources.engine import open_engine

FIXTURES = Path(__file__).parents[2] / "fixtures"
INTERACTIONS, ITEMS = FIXTURES / "interactions.csv", FIXTURES / "items.csv"
FRAME = pd.read_csv(INTERACTIONS)
DAY = 86_400
START = 1_577_836_800  # 2020-01-01 in UTC


def prepare(
    folder: Path, interactions: Path = INTERACTIONS, **settings: object
) -> tuple[Manifest, pd.DataFrame]:
    """The manifest and all examples."""
    config = DataConfig(**({"k_core": 1} | settings))  # type: ignore[arg-type]
    manifest = prepare_data(str(interactions), str(ITEMS), folder, config)
    parts = [read_rows(folder, name, EXAMPLES).to_pandas().assign(split=name) for name in SPLITS]
    return manifest, pd.concat(parts).set_index("example_id")


@pytest.mark.parametrize(
    ("columns", "write"),
    [
        (
            "user_id=userId,item_id=movieId,timestamp=rated at",
            lambda path: FRAME.rename(
                columns={"user_id": "userId", "item_id": "movieId", "timestamp": "rated at"}
            ).to_csv(path, index=False),
        ),
        (
            "user_id=1,item_id=2,timestamp=3,rating=4",
            lambda path: FRAME[["user_id", "item_id", "timestamp", "rating"]].to_csv(
                path, index=False, header=False
            ),
        ),
    ],
)
def test_columns_may_have_other_names_or_none(tmp_path: Path, columns: str, write) -> None:
    write(tmp_path / "i.csv")
    _, expected = prepare(tmp_path / "plain", min_rating=2)
    _, mapped = prepare(tmp_path / "out", tmp_path / "i.csv", columns=columns, min_rating=2)
    assert mapped.astype(str).equals(expected.astype(str))


def test_events_are_chosen_by_name(tmp_path: Path) -> None:
    views = FRAME.assign(event="view", timestamp=FRAME["timestamp"] - 1)
    frame = pd.concat([FRAME.assign(event="play"), views])
    frame.to_csv(tmp_path / "i.csv", index=False)
    _, expected = prepare(tmp_path / "plain")
    manifest, plays = prepare(tmp_path / "out", tmp_path / "i.csv", keep_events="play,purchase")
    assert plays.astype(str).equals(expected.astype(str))
    assert manifest.counts["dropped_events"] == len(FRAME)
    with pytest.raises(DataError, match="there are only 'play', 'view'"):
        prepare(tmp_path / "none", tmp_path / "i.csv", keep_events="buy")


def test_time_format_is_as_the_user_says(tmp_path: Path) -> None:
    times = pd.to_datetime(FRAME["timestamp"], unit="s").dt.strftime("%d.%m.%Y %H:%M:%S")
    FRAME.assign(timestamp=times).to_csv(tmp_path / "i.csv", index=False)
    _, expected = prepare(tmp_path / "plain")
    _, read = prepare(tmp_path / "out", tmp_path / "i.csv", time_format="%d.%m.%Y %H:%M:%S")
    assert read.astype(str).equals(expected.astype(str))


def test_markers_of_missing_values_may_be_ids(tmp_path: Path) -> None:
    FRAME.assign(user_id=FRAME["user_id"].replace("u00", "NA")).to_csv(
        tmp_path / "i.csv", index=False
    )
    _, rows = prepare(tmp_path / "out", tmp_path / "i.csv", missing_values="-")
    assert rows["user_id"].nunique() == prepare(tmp_path / "plain")[1]["user_id"].nunique()


def test_the_last_of_repeats_may_be_kept(tmp_path: Path) -> None:
    again = FRAME.assign(timestamp=FRAME["timestamp"] + 10**6)
    pd.concat([FRAME, again]).to_csv(tmp_path / "i.csv", index=False)
    manifest, rows = prepare(tmp_path / "out", tmp_path / "i.csv", repeats="last")
    assert rows["timestamp"].min() > FRAME["timestamp"].min() + 10**6
    assert manifest.extra["repeats"] == "the last interaction of a user with an item"


def dated(tmp_path: Path) -> Path:
    """Users with an interaction a day, one of them new on day 25, and an item that is new then."""
    rows = [
        (f"u{user}", f"m{day % 20:02d}", START + day * DAY)
        for user in range(4)
        for day in range(20)
    ]
    rows += [
        (f"u{user}", f"m{day - 20 + 20:02d}", START + day * DAY)
        for user in range(4)
        for day in range(20, 30)
    ]
    rows += [("new", f"m{item:02d}", START + (25 * DAY) + item) for item in range(5)]
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(
        tmp_path / "dated.csv", index=False
    )
    items = pd.DataFrame({"item_id": [f"m{item:02d}" for item in range(30)]})
    items.assign(title="Title " + items["item_id"]).to_csv(tmp_path / "items.csv", index=False)
    return tmp_path / "dated.csv"


WINDOWS = {
    "split": "dates",
    "data_from": "2020-01-06",
    "train_until": "2020-01-16",
    "validation_until": "2020-01-21",
    "data_until": "2020-01-29",
}


def test_windows_are_half_open_and_histories_reach_back(tmp_path: Path) -> None:
    path = dated(tmp_path)
    config = DataConfig(k_core=4, **WINDOWS)  # type: ignore[arg-type]
    manifest = prepare_data(str(path), str(tmp_path / "items.csv"), tmp_path / "out", config)
    rows = {name: read_rows(tmp_path / "out", name, EXAMPLES).to_pandas() for name in SPLITS}
    days = {
        name: ((frame["timestamp"] - START) // DAY).agg(["min", "max"]).tolist()
        for name, frame in rows.items()
    }
    # A date belongs to the window after it, and what is at the last one is late.
    assert days == {"train": [5, 14], "validation": [15, 19], "test": [20, 27]}
    assert manifest.counts["dropped_late"] == 2 * 4
    # Of the days before the first window nothing is a target; the items that are in a window serve
    # as history: the new user's five.
    first = rows["train"].sort_values("timestamp").iloc[0]
    assert list(first["history"]) == ["m00", "m01", "m02", "m03", "m04"]
    assert manifest.counts["new_users"] == 1
    assert manifest.counts["new_items"] == 5 + 8 + 5
    assert "new" in set(rows["test"]["user_id"])
    popularity = read_items(tmp_path / "out").set_index("item_id")["popularity"]
    assert popularity["m05"] == 4
    assert popularity["m15"] == 0
    assert manifest.extra["windows"]["train_until"] == "2020-01-16"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_until": "2020-01-16"}, "train_until: must go with split dates"),
        ({"split": "dates"}, "train_until: must be given .*\nvalidation_until: must be given"),
        (WINDOWS | {"data_from": "2020-02-30"}, "data_from: must be a date such as"),
        (WINDOWS | {"data_from": "2020-01-16"}, "train_until: must be later than data_from"),
        ({"columns": "user=userId"}, "columns: must be OURS=THEIRS"),
        ({"hash_key_file": "key"}, "must go with hash_users"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(**settings)  # type: ignore[arg-type]


def test_users_are_hashed_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "not-to-be-found-0123456789abcdef"
    monkeypatch.setenv("DYNAMICPO_HASH_KEY", key)
    _, plain = prepare(tmp_path / "plain")
    _, rows = prepare(tmp_path / "out", hash_users=True)
    names = {*plain["user_id"]}
    assert rows["user_id"].nunique() == len(names)
    assert rows["user_id"].str.fullmatch("[0-9a-f]{64}").all()
    assert rows.index.str.fullmatch("[0-9a-f]{64}:[0-9]+").all()
    manifest = (tmp_path / "out" / "manifest.json").read_text()
    assert key not in manifest
    assert not [name for name in names if f'"{name}"' in manifest]
    (tmp_path / "key").write_text(key + "\n")
    _, again = prepare(tmp_path / "again", hash_users=True, hash_key_file=str(tmp_path / "key"))
    assert again.astype(str).equals(rows.astype(str))


SECRETS = ("7349117", "zelda.quimby@example.org", "se\u200bcret-Ωmega")


def _write(path: Path, frame: pd.DataFrame) -> Path:
    frame.to_csv(path, index=False)
    return path


def planted(folder: Path, secret: str) -> dict[str, Path]:
    """Files with a user's id and every kind of error, the id in every column and in the header."""
    frame = FRAME.assign(user_id=secret)
    half = FRAME["user_id"].where(FRAME.index % 2 == 0, secret)
    files = {
        f"{column}.csv": frame.assign(**{column: value})
        for column, value in {
            "item_id": secret,
            "timestamp": secret,
            "rating": secret,
            "user_id": f"{secret}\0",
        }.items()
    }
    files["two ways.csv"] = FRAME.assign(user_id=half.where(half == secret, "8") + ".0")
    files["mixed.csv"] = FRAME.assign(
        user_id=[secret if row % 2 else "7349117.0" for row in FRAME.index]
    )
    files["no item.csv"] = frame.assign(item_id="")
    files["no time.csv"] = frame.assign(timestamp="soon")
    files["two units.csv"] = frame.assign(
        timestamp=[time * 1000 if row == 3 else time for row, time in enumerate(frame["timestamp"])]
    )
    files["names.csv"] = frame.rename(columns={"item_id": secret})
    files["twice.csv"] = frame.rename(columns={"item_id": secret, "rating": secret})
    paths = {name: _write(folder / name, rows) for name, rows in files.items()}
    text = frame.to_csv(index=False)
    raw = {
        "no header.csv": text.partition("\n")[2],
        "long line.csv": text + f"{secret},a,b,c,d,e,f,g\n",
        "open quote.csv": text + f'"{secret},m1,1\n',
        "bytes.csv": text.encode() + b"\xff" + secret.encode() + b",m1,1\n",
        "cut.jsonl": json.dumps({"user_id": secret})[:-1],
        "list.jsonl": json.dumps({"user_id": [secret], "item_id": "m1", "timestamp": 1}),
        "no object.jsonl": json.dumps([secret]),
        "odd.parquet": f"PAR1{secret}PAR1",
    }
    for name, content in raw.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
        paths[name] = folder / name
    return paths


@pytest.mark.parametrize("secret", SECRETS)
def test_messages_hold_hashes_only(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    secret: str,
) -> None:
    monkeypatch.setenv("DYNAMICPO_HASH_KEY", "x" * 32)
    num_errors = 0
    for name, path in planted(tmp_path, secret).items():
        try:
            prepare(tmp_path / "out" / name, path, hash_users=True, min_rating=1)
        except DataError as error:
            num_errors += 1
            # As a pod's log shows it, with everything that led to it.
            shown = "".join(traceback.format_exception(error))
            ids = (secret, "7349117", *(part for part in secret.split("\u200b") if len(part) > 4))
            assert not [text for text in ids if text in shown], (name, shown)
    assert num_errors >= 15
    assert secret not in caplog.text
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_no_query_holds_an_id_or_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "not-to-be-found-0123456789abcdef"
    monkeypatch.setenv("DYNAMICPO_HASH_KEY", key)
    engines = []

    def logged_engine(spill: Path | None = None):
        engine = open_engine(spill)
        engine.con.execute("CALL enable_logging('QueryLog', storage = 'memory')")
        engines.append(engine)
        return engine

    monkeypatch.setattr("dynamicpo.data.prepare.open_engine", logged_engine)
    FRAME.assign(user_id="person-" + FRAME["user_id"]).to_csv(tmp_path / "i.csv", index=False)
    (tmp_path / "forget.txt").write_text("person-u00\n")
    prepare(
        tmp_path / "out", tmp_path / "i.csv", hash_users=True, forget=str(tmp_path / "forget.txt")
    )
    (engine,) = engines
    queries = " ".join(
        row[0] for row in engine.con.execute("SELECT message FROM duckdb_logs").fetchall()
    )
    assert "read_csv" in queries
    assert "person-" not in queries
    assert key not in queries
    for path in (tmp_path / "out").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert b"person-" not in content and key.encode() not in content


@pytest.mark.parametrize("key", ["", "short"])
def test_a_key_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("DYNAMICPO_HASH_KEY", key)
    with pytest.raises(ConfigError, match="needs a key of at least 16 bytes"):
        prepare(tmp_path / "out", hash_users=True)


def test_forgotten_users_leave_their_number_only(tmp_path: Path) -> None:
    users = sorted({*FRAME["user_id"]})
    (tmp_path / "forget.txt").write_text(f"{users[0]}\n{users[1]}\nnobody\n")
    manifest, rows = prepare(tmp_path / "out", forget=str(tmp_path / "forget.txt"))
    assert not {users[0], users[1]} & {*rows["user_id"]}
    assert manifest.counts["forgotten_users"] == 2
    text = json.dumps(manifest.counts | manifest.extra | manifest.inputs)
    assert users[0] not in text


def test_a_forgotten_id_may_be_written_as_a_float(tmp_path: Path) -> None:
    numbers = FRAME["user_id"].str[1:].astype(int) + 100
    FRAME.assign(user_id=numbers.astype(float)).to_csv(tmp_path / "i.csv", index=False)
    (tmp_path / "forget.txt").write_text("100.0\n")
    forget = str(tmp_path / "forget.txt")
    manifest, rows = prepare(tmp_path / "out", tmp_path / "i.csv", forget=forget)
    assert manifest.counts["forgotten_users"] == 1
    assert "100" not in {*rows["user_id"]}
    # The size of the file would tell how long a single id is.
    assert manifest.inputs["forget"].split()[0] == "2"
    assert str(len("100.0\n")) not in manifest.inputs["forget"].split()
