"""No file changes its meaning in silence: each kind is read as it was meant, or refused by name."""

import csv
import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.messages import LINE_LIMIT, LINES_LIMIT, limited, quoted, shown
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.rows import read_items
from dynamicpo.data.prepare import prepare_data

FIXTURES = Path(__file__).parents[2] / "fixtures"
INTERACTIONS, ITEMS = FIXTURES / "interactions.csv", FIXTURES / "items.csv"
FRAME, ITEM_FRAME = pd.read_csv(INTERACTIONS), pd.read_csv(ITEMS)
ALL = DataConfig(k_core=1)
# Of these users' ids a half of the rows each, so that no part is like the other.
HALF = len(FRAME) // 2


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the plain files become."""
    folder = tmp_path_factory.mktemp("plain") / "out"
    prepare_data(str(INTERACTIONS), str(ITEMS), folder, ALL)
    return content(folder)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def prepare(
    tmp_path: Path, interactions: Path | str = INTERACTIONS, items: Path = ITEMS
) -> Manifest:
    return prepare_data(str(interactions), str(items), tmp_path / "out", ALL)


def as_csv(frame: pd.DataFrame = FRAME, **options: object) -> bytes:
    text: str = frame.to_csv(index=False, **options)  # type: ignore[call-overload]
    return text.encode()


def with_ends(raw: bytes, *ends: bytes) -> bytes:
    """The lines of a text, with line ends in turn."""
    lines = raw.splitlines()
    return b"".join(line + ends[number % len(ends)] for number, line in enumerate(lines))


def write_parts(folder: Path, **parts: bytes) -> Path:
    folder.mkdir()
    for name, raw in parts.items():
        (folder / name.replace("_dot_", ".")).write_bytes(raw)
    return folder


FIRST, SECOND = FRAME.iloc[:HALF], FRAME.iloc[HALF:]
MIXED_ORDER = SECOND[["item_id", "rating", "timestamp", "user_id"]]
READ_ALIKE: dict[str, dict[str, bytes]] = {
    "columns in another order": {"a.csv": as_csv(FIRST), "b.csv": as_csv(MIXED_ORDER)},
    "an empty first part": {"a.csv": b"", "b.csv": as_csv()},
    "a header without rows": {"a.csv": as_csv(FIRST[:0]), "b.csv": as_csv()},
    "compressed parts beside plain ones": {
        "a.csv": as_csv(FIRST),
        "b.csv.gz": gzip.compress(as_csv(SECOND)),
    },
    "upper-case suffixes": {"A.CSV": as_csv(FIRST), "B.Csv": as_csv(SECOND)},
    "bookkeeping of Spark": {
        "a.csv": as_csv(),
        "_SUCCESS": b"",
        ".a.csv.crc": b"crc",
        "README.md": b"# Data",
    },
    "parts named like notes": {
        "notice-1.csv": as_csv(FIRST),
        "_part_2.csv": as_csv(SECOND),
        "LICENSE.txt": b"CC0",
        "a.csv.md5": b"0",
    },
    "another delimiter in each part": {
        "a.csv": as_csv(FIRST),
        "b.csv": as_csv(SECOND, sep=";"),
    },
    "a pandas index": {"a.csv": FRAME.to_csv().encode()},
    "a comma at the end of rows": {"a.csv": with_ends(as_csv(), b",\n")},
    "a hint for Excel": {"a.csv": b"sep=;\r\n" + as_csv(sep=";")},
    "an empty first line": {"a.csv": b"\n" + as_csv()},
    "a byte order mark": {"a.csv": b"\xef\xbb\xbf" + as_csv()},
    "line ends of three systems": {"a.csv": with_ends(as_csv(), b"\n", b"\r\n", b"\r")},
    "line ends of two systems in a TSV": {"a.tsv": with_ends(as_csv(sep="\t"), b"\n", b"\r\n")},
    "a hint for Excel in quotes": {"a.csv": b'"sep=;"\n' + as_csv(sep=";")},
    "semicolons": {"a.csv": as_csv(sep=";")},
    "every value in quotes": {"a.csv": as_csv(quoting=csv.QUOTE_ALL)},
    "every value of a TSV in quotes": {"a.tsv": as_csv(sep="\t", quoting=csv.QUOTE_ALL)},
    "a name with the characters of a pattern": {"a[1].csv": as_csv()},
    "compressed JSON lines": {
        "a.jsonl.gz": gzip.compress(FRAME.to_json(orient="records", lines=True).encode())
    },
    "Python literals": {
        "a.json": "\n".join(map(str, FRAME.to_dict("records"))).encode(),
    },
    "names that differ in case": {
        "a.csv": as_csv(FRAME.assign(Item_ID="other", USER_ID="other")),
    },
    "names that differ in case in JSON": {
        "a.jsonl": FRAME.assign(Item_ID="other", TIMESTAMP=1)[
            ["Item_ID", "TIMESTAMP", *FRAME.columns]
        ]
        .to_json(orient="records", lines=True)
        .encode(),
    },
    "ISO times": {
        "a.csv": as_csv(
            FRAME.assign(
                timestamp=pd.to_datetime(FRAME["timestamp"], unit="s").dt.strftime(
                    "%Y-%m-%dT%H:%M:%SZ"
                )
            )
        )
    },
    "spaces around ids": {
        "a.csv": as_csv(
            FRAME.assign(
                user_id=[
                    f"\u00a0{name}\u2003" if i % 2 else f" {name}"
                    for i, name in enumerate(FRAME["user_id"])
                ]
            )
        )
    },
    "fixed width with NUL bytes": {
        "a.csv": as_csv(FRAME.assign(user_id=FRAME["user_id"] + "\0\0"))
    },
}


@pytest.mark.parametrize("kind", READ_ALIKE)
def test_it_is_read_like_the_plain_file(
    tmp_path: Path, expected: dict[str, bytes], kind: str
) -> None:
    parts = READ_ALIKE[kind]
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, raw in parts.items():
        (folder / name).write_bytes(raw)
    source = folder if len(parts) > 1 else folder / next(iter(parts))
    prepare(tmp_path, source)
    assert content(tmp_path / "out") == expected


@pytest.mark.parametrize("guess", ["user_id=77", "rating=1", "timestamp=2020-01-01"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_names_of_folders_are_no_columns(
    tmp_path: Path, expected: dict[str, bytes], guess: str, suffix: str
) -> None:
    path = tmp_path / guess / f"interactions.{suffix}"
    path.parent.mkdir()
    writers: dict[str, Callable[[], object]] = {
        "csv": lambda: FRAME.to_csv(path, index=False),
        "jsonl": lambda: FRAME.to_json(path, orient="records", lines=True),
        "json": lambda: FRAME.to_json(path, orient="records"),
        "parquet": lambda: FRAME.to_parquet(path),
    }
    writers[suffix]()
    prepare(tmp_path, path)
    assert content(tmp_path / "out") == expected


def test_a_glob_names_parts_in_folders(tmp_path: Path, expected: dict[str, bytes]) -> None:
    for number, frame in enumerate([FIRST, SECOND]):
        (tmp_path / f"day={number}").mkdir()
        (tmp_path / f"day={number}" / "rows.csv").write_bytes(as_csv(frame))
    prepare(tmp_path, f"{tmp_path}/day=*/*.csv")
    assert content(tmp_path / "out") == expected
    with pytest.raises(DataError, match="must match at least one file, got none"):
        prepare_data(f"{tmp_path}/no/*.csv", str(ITEMS), tmp_path / "none", ALL)


REFUSED_PARTS: dict[str, tuple[dict[str, bytes], str]] = {
    "a header in the first part only": (
        {"a.csv": as_csv(FIRST), "b.csv": as_csv(SECOND, header=False)},
        r"b\.csv: must have the columns user_id, item_id, timestamp, as a\.csv has; .* same header",
    ),
    "a file beside its compressed copy": (
        {"a.csv": as_csv(), "a.csv.gz": gzip.compress(as_csv())},
        r"must hold each part once, but a\.csv and a\.csv\.gz have one name",
    ),
    "ratings in one part only": (
        {"a.csv": as_csv(FIRST), "b.csv": as_csv(SECOND.drop(columns="rating"))},
        r"b\.csv: must have the column rating, as a\.csv has",
    ),
    "two formats": (
        {"a.csv": as_csv(FIRST), "b.tsv": as_csv(SECOND, sep="\t")},
        r"must be a .* got \.csv, \.tsv",
    ),
    "a format that is not read": (
        {"a.csv": as_csv(FIRST), "b.xlsx": b"PK"},
        r"must be a .* got \.csv, \.xlsx",
    ),
    "a part without a suffix": (
        {"a.csv": as_csv(FIRST), "part-00001": as_csv(SECOND)},
        r"got no suffix, \.csv with part-00001\. Rename or remove it, or name the parts by a glob",
    ),
    "a part of an unknown format": (
        {"a.csv": as_csv(FIRST), "b.csv.lz4": b"lz4"},
        r"got \.csv, \.lz4 with b\.csv\.lz4",
    ),
    "a copy whose name differs in case": (
        {"A.CSV": as_csv(), "a.csv.gz": gzip.compress(as_csv())},
        r"a\.csv and a\.csv\.gz have one name",
    ),
    "only empty parts": ({"a.csv": b"", "b.csv": b""}, "it is empty"),
    "ids with a point in one part": (
        {
            "a.csv": as_csv(FIRST.assign(user_id=range(HALF))),
            "b.csv": as_csv(SECOND.assign(user_id=[float(n) for n in range(len(SECOND))])),
        },
        r"b\.csv: every user_id must be written in one way, but data row 1 has '0\.0'",
    ),
}


@pytest.mark.parametrize("kind", REFUSED_PARTS)
def test_parts_that_do_not_fit_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    parts, message = REFUSED_PARTS[kind]
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, raw in parts.items():
        (folder / name).write_bytes(raw)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_folder_with_data_in_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lake" / "day=1").mkdir(parents=True)
    (tmp_path / "lake" / "a.csv").write_bytes(as_csv(FIRST))
    (tmp_path / "lake" / "day=1" / "b.csv").write_bytes(as_csv(SECOND))
    with pytest.raises(DataError, match=r"lake: must hold its files itself, but day=1 is .* glob"):
        prepare(tmp_path, tmp_path / "lake")


def titles_of(tmp_path: Path, name: str, raw: bytes) -> list[str]:
    """The titles in the order of the ids, from a file of items."""
    (tmp_path / name).write_bytes(raw)
    prepare(tmp_path, INTERACTIONS, tmp_path / name)
    titles: list[str] = read_items(tmp_path / "out").sort_values("item_id")["title"].tolist()
    return titles


def retitled(**titles: str) -> pd.DataFrame:
    frame = ITEM_FRAME.set_index("item_id")
    for item_id, title in titles.items():
        frame.loc[item_id, "title"] = title
    return frame.reset_index()


def raw_tsv(frame: pd.DataFrame) -> bytes:
    rows = [list(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "".join("\t".join(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    "title", ['"Heroes"', '"Odd Al" Jankowski', 'The "Best"', '"', '"Weird', 'Say "hi', '""']
)
def test_quotes_of_a_raw_tsv_belong_to_the_title(tmp_path: Path, title: str) -> None:
    frame = retitled(m03=title)
    assert titles_of(tmp_path, "items.tsv", raw_tsv(frame))[3] == title


@pytest.mark.parametrize("title", ['"Heroes"', 'The "Best"', "with\ttab", "two\nlines"])
def test_quotes_around_values_of_a_tsv_do_not(tmp_path: Path, title: str) -> None:
    raw = as_csv(retitled(m03=title), sep="\t")
    assert titles_of(tmp_path, "items.tsv", raw)[3] == " ".join(title.split())


def test_tsv_of_both_kinds_is_refused(tmp_path: Path) -> None:
    frame = retitled(m03='"Odd Al" Jankowski', m04='"say ""hi"""')
    with pytest.raises(DataError, match=r"items\.tsv:5: quotes must be .* not so in line 6"):
        titles_of(tmp_path, "items.tsv", raw_tsv(frame))


def write_parquet(path: Path, frame: pd.DataFrame = FRAME, **columns: pa.Array) -> Path:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, path)
    return path


def test_bytes_of_a_parquet_file_are_text(tmp_path: Path, expected: dict[str, bytes]) -> None:
    ids = pa.array([name.encode() for name in FRAME["user_id"]], pa.binary())
    prepare(tmp_path, write_parquet(tmp_path / "i.parquet", user_id=ids))
    assert content(tmp_path / "out") == expected
    titles = pa.array(["Amélie".encode()] + [b"\xff"] * (len(ITEM_FRAME) - 1), pa.binary())
    broken = write_parquet(tmp_path / "items.parquet", ITEM_FRAME, title=titles)
    with pytest.raises(DataError, match="every title must be text, .* first in data row 2"):
        prepare_data(str(INTERACTIONS), str(broken), tmp_path / "o", ALL)


def test_title_and_Title_of_a_parquet_file_are_two(tmp_path: Path) -> None:
    names = ["item_id", "Title", "title"]
    columns = [ITEM_FRAME["item_id"], ["X"] * len(ITEM_FRAME), ITEM_FRAME["title"]]
    pq.write_table(pa.table(columns, names=names), tmp_path / "items.parquet")
    prepare(tmp_path, INTERACTIONS, tmp_path / "items.parquet")
    assert set(read_items(tmp_path / "out")["title"]) == set(ITEM_FRAME["title"])


INEXACT: dict[str, pa.Array] = {
    "floats of 2^53 and more": pa.array([2.0**56 + 64 * n for n in range(len(FRAME))]),
    "short floats of 2^24 and more": pa.array([2.0**25] * len(FRAME), pa.float32()),
    "decimal numbers": pa.array([n + 0.5 for n in range(len(FRAME))]),
    "lists": pa.array([[str(n)] for n in range(len(FRAME))]),
    "objects": pa.array([{"id": n} for n in range(len(FRAME))]),
    "bytes that are no text": pa.array([b"\xff\xfe"] * len(FRAME), pa.binary()),
}


@pytest.mark.parametrize("kind", INEXACT)
def test_ids_that_are_not_exact_are_refused(tmp_path: Path, kind: str) -> None:
    path = write_parquet(tmp_path / "i.parquet", user_id=INEXACT[kind])
    message = r"i\.parquet: every user_id must be text or a whole number .* first in data row 1 "
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, path)


@pytest.mark.parametrize("value", ["[1]", '{"id": 1}', "1.5", "1e300", "72057594037928000.0"])
def test_ids_of_json_that_are_not_exact_are_refused(tmp_path: Path, value: str) -> None:
    row = '{"user_id": %s, "item_id": "m01", "timestamp": %d}\n'
    (tmp_path / "i.jsonl").write_text(row % ('"u1"', 1) + row % (value, 2))
    with pytest.raises(DataError, match="every user_id must be .* first in data row 2 "):
        prepare(tmp_path, tmp_path / "i.jsonl")


def test_text_of_json_stays_text(tmp_path: Path) -> None:
    """A title or an id that looks like a date or a number is not made one."""
    titles = {"m00": "2012-11-01", "m01": "007", "m02": "1e5", "m03": "12:30:00"}
    raw = retitled(**titles).to_json(orient="records", lines=True).encode()
    assert titles_of(tmp_path, "items.jsonl", raw)[:4] == list(titles.values())


@pytest.mark.parametrize(
    ("value", "must"),
    [
        (marker, "must be given")
        for marker in ("", "\\N", "NA", "NULL", "None", "nan", "<NA>", "\u00a0", "\u200b")
    ]
    + [("a\0b", "characters that show"), ("a\u200bb", "characters that show")]
    + [("1.23457E+15", "not be shortened by a program")],
)
def test_ids_that_mean_nothing_are_refused(tmp_path: Path, value: str, must: str) -> None:
    frame = FRAME.copy()
    frame.loc[4, "user_id"] = value
    (tmp_path / "i.csv").write_bytes(as_csv(frame))
    message = rf"i\.csv: every user_id .*{must}.* in 1 of .* first in data row 5 \(user_id "
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, tmp_path / "i.csv")


@pytest.mark.parametrize(
    ("scale", "unit"), [(10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")]
)
def test_a_certain_unit_is_converted_and_said(
    tmp_path: Path,
    expected: dict[str, bytes],
    caplog: pytest.LogCaptureFixture,
    scale: int,
    unit: str,
) -> None:
    (tmp_path / "i.csv").write_bytes(as_csv(FRAME.assign(timestamp=FRAME["timestamp"] * scale)))
    with caplog.at_level(logging.WARNING):
        manifest = prepare(tmp_path, tmp_path / "i.csv")
    assert content(tmp_path / "out") == expected
    note = f"timestamp: {len(FRAME)} values converted from {unit} to seconds"
    assert manifest.extra["conversions"] == [note]
    assert manifest.counts["timestamps_converted"] == len(FRAME)
    assert note in caplog.text


def test_days_are_converted(tmp_path: Path) -> None:
    days = pd.to_datetime("2020-01-01") + pd.to_timedelta(range(len(FRAME)), unit="D")
    (tmp_path / "i.csv").write_bytes(as_csv(FRAME.assign(timestamp=days.strftime("%Y%m%d"))))
    manifest = prepare(tmp_path, tmp_path / "i.csv")
    first, _ = manifest.extra["dates"]["train"]
    assert first >= 1_577_836_800  # 2020-01-01
    assert first % 86_400 == 0
    assert manifest.extra["conversions"][0].endswith("from days (YYYYMMDD) to seconds")


@pytest.mark.parametrize(
    "values",
    [
        [1_600_000_000, 1_600_000_000_000],
        [1_600_000_000, 20_200_101],
        [1_600_000_000_000, 5],
        ["2020-01-01", 1_600_000_000],
    ],
)
def test_times_of_two_units_are_refused(tmp_path: Path, values: list[object]) -> None:
    times = [values[number % 2] for number in range(len(FRAME))]
    (tmp_path / "i.csv").write_bytes(as_csv(FRAME.assign(timestamp=times)))
    with pytest.raises(DataError, match=r"i\.csv: every timestamp must be in one unit"):
        prepare(tmp_path, tmp_path / "i.csv")


def test_numbers_of_a_series_are_no_days(tmp_path: Path) -> None:
    times = range(20_200_000, 20_200_000 + len(FRAME))
    (tmp_path / "i.csv").write_bytes(as_csv(FRAME.assign(timestamp=times)))
    (note,) = prepare(tmp_path, tmp_path / "i.csv").extra["conversions"]
    assert "numbers of a series" in note


@pytest.mark.parametrize("split", ["time", "leave-one-out"])
def test_one_time_for_all_is_refused(tmp_path: Path, split: str) -> None:
    (tmp_path / "i.csv").write_bytes(as_csv(FRAME.assign(timestamp=0)))
    config = DataConfig(k_core=1, split=split)
    with pytest.raises(DataError, match="must tell the order .* --columns timestamp=NAME"):
        prepare_data(str(tmp_path / "i.csv"), str(ITEMS), tmp_path / "out", config)


def test_fractions_of_seconds_order_times(tmp_path: Path) -> None:
    times = pd.to_datetime(FRAME["timestamp"] * 10**9 + 500_000_000, unit="ns")
    path = tmp_path / "i.parquet"
    FRAME.assign(timestamp=times).to_parquet(path)
    manifest = prepare(tmp_path, path)
    assert manifest.extra["dates"]["train"][0] % 1 == 0.5


@pytest.mark.parametrize(
    "title", ["\u200e", "\u2060", "\u3164", "\u2800", "\u00ad", "\ufe0f", "\u200d", "\U000e0041"]
)
def test_titles_that_show_nothing_are_refused(tmp_path: Path, title: str) -> None:
    with pytest.raises(
        DataError, match="every item must have a title that shows, 1 have none: m03"
    ):
        titles_of(tmp_path, "items.csv", as_csv(retitled(m03=title)))


def test_titles_that_differ_by_what_does_not_show_are_told_apart(tmp_path: Path) -> None:
    same = {"m00": "Amélie", "m01": "Ame\u0301lie", "m02": "Am\u00adélie", "m03": "Amélie\ufe0e"}
    titles = titles_of(tmp_path, "items.csv", as_csv(retitled(**same)))
    assert titles[:3] == ["Amélie", "Amélie (2)", "Amélie (3)"]
    assert titles[3].endswith("(4)")


@pytest.mark.parametrize("title", ["👩‍👩‍👧 Family", "❤️ Love", "🏴󠁧󠁢󠁥󠁮󠁧󠁿 England", "می‌خواهم", "👍🏽"])
def test_emoji_and_joined_letters_stay_whole(tmp_path: Path, title: str) -> None:
    assert titles_of(tmp_path, "items.csv", as_csv(retitled(m03=title)))[3] == title


BAD_TEXT: dict[str, tuple[bytes, str]] = {
    "a long field": (as_csv() + b"u1," + b"x" * 3_000_000 + b",5,3\nu1\n", r":\d+: .*at most"),
    "escapes with a backslash": (
        b'user_id,item_id,timestamp\n"say \\"hi\\"",m01,5\n',
        r':2: a double quote within quotes must be doubled \(""\)',
    ),
    "UTF-16": ("user_id,item_id\n".encode("utf-16"), "begins with the mark of UTF-16"),
    "UTF-32": ("user_id,item_id\n".encode("utf-32"), "mark of UTF-32.*iconv -f UTF-32"),
    "UTF-16 without a mark": ("user_id,item_id\n".encode("utf-16-le"), "iconv -f UTF-16LE"),
    "a comment before the header": (b"# May\n" + as_csv(), "remove what stands before it"),
    "an unknown delimiter": (as_csv(sep="^"), "or write the file with these"),
    "large letters": (
        as_csv(FRAME.rename(columns=str.upper)),
        "--columns user_id=USER_ID,item_id=ITEM_ID,timestamp=TIMESTAMP",
    ),
    "Latin-1": (
        as_csv() + "é,m01,5,3\n".encode("latin-1"),
        ":432: must be UTF-8, but byte 1 .* 0xe9",
    ),
}


@pytest.mark.parametrize("kind", BAD_TEXT)
def test_message_names_the_line_and_what_helps(tmp_path: Path, kind: str) -> None:
    raw, message = BAD_TEXT[kind]
    (tmp_path / "i.csv").write_bytes(raw)
    with pytest.raises(DataError, match=message) as caught:
        prepare(tmp_path, tmp_path / "i.csv")
    assert len(str(caught.value)) <= LINE_LIMIT


@pytest.mark.parametrize("orient", ["columns", "index", "split", "table"])
def test_json_that_is_not_of_rows_says_how_to_write_it(tmp_path: Path, orient: str) -> None:
    FRAME.to_json(tmp_path / "i.json", orient=orient)  # type: ignore[call-overload]
    with pytest.raises(DataError, match=r"must hold one object for each row.*orient='records'"):
        prepare(tmp_path, tmp_path / "i.json")


def test_json_object_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    lines = FRAME.to_json(orient="records", lines=True)
    path = tmp_path / "i.jsonl"
    path.write_text(lines.replace('{"user_id"', '{"user_id":"zz","user_id"'))
    with pytest.raises(DataError, match=r"must be there once, but data row 1 has one twice"):
        prepare(tmp_path, path)


def test_parts_without_a_header_must_have_as_many_columns(tmp_path: Path) -> None:
    names = ["user_id", "item_id", "timestamp"]
    parts = {
        "a_dot_csv": as_csv(FIRST[names], header=False),
        "b_dot_csv": as_csv(SECOND[["user_id", "item_id", "rating", "timestamp"]], header=False),
    }
    folder = write_parts(tmp_path / "parts", **parts)
    config = DataConfig(k_core=1, columns="user_id=1,item_id=2,timestamp=3")
    with pytest.raises(DataError, match=r"b\.csv: must have 3 columns, as a\.csv has, .* got 4"):
        prepare_data(str(folder), str(ITEMS), tmp_path / "out", config)


@pytest.mark.parametrize("name", ["i.csv.gz", "i.jsonl.gz"])
def test_gzip_that_is_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    is_csv = name.startswith("i.csv")
    raw = as_csv() if is_csv else FRAME.to_json(orient="records", lines=True).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw)[:-600])
    with pytest.raises(DataError, match=r"must be a whole gzip file"):
        prepare(tmp_path, tmp_path / name)


def test_python_literals_run_nothing(tmp_path: Path) -> None:
    code = f"{{'user_id': open({str(tmp_path / 'made')!r}, 'w'), 'item_id': 1, 'timestamp': 1}}\n"
    (tmp_path / "i.json").write_text(code)
    with pytest.raises(DataError, match="line 1 is not"):
        prepare(tmp_path, tmp_path / "i.json")
    assert not (tmp_path / "made").exists()


def published(history: str, candidates: list[str], target: str) -> dict[str, object]:
    return {"historyList": history, "itemList": candidates, "trueSelection": target}


def write_published(tmp_path: Path, *rows: dict[str, object]) -> None:
    filler = published("a::b::c", ["a", "d"], "d")
    lines = [json.dumps(row) for row in [*rows, *[filler] * 10]]
    (tmp_path / "train.json").write_text("\n".join(lines))


def test_title_with_the_separator_stays_whole(tmp_path: Path) -> None:
    write_published(tmp_path, published("a::Face::Off::c", ["Face::Off", "b"], "b"))
    prepare_data(str(tmp_path / "train.json"), "", tmp_path / "out", DataConfig(source="published"))
    titles = set(read_items(tmp_path / "out")["title"])
    assert "Face::Off" in titles
    assert not {"Face", "Off"} & titles


def test_separator_that_can_be_read_in_two_ways_is_refused(tmp_path: Path) -> None:
    write_published(tmp_path, published("Face::Off::c", ["Face::Off", "Face"], "Off"))
    with pytest.raises(
        DataError, match=r"'Face::Off' is one title or 2\. Write histories as lists"
    ):
        prepare_data(
            str(tmp_path / "train.json"), "", tmp_path / "out", DataConfig(source="published")
        )


def test_pickled_rows_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    (tmp_path / "train.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match=r"A pickle runs code .* pandas\.read_pickle\(FILE\)"):
        prepare_data(
            str(tmp_path / "train.pkl"), "", tmp_path / "out", DataConfig(source="published")
        )


def test_frames_of_llara_are_refused_with_what_helps(tmp_path: Path) -> None:
    folder = tmp_path / "llara"
    folder.mkdir()
    (folder / "train_data.df").write_bytes(b"\x80\x04never read")
    with pytest.raises(DataError, match=r"train_data\.df.*runs code.*read_pickle"):
        prepare_data(str(folder), "", tmp_path / "o", DataConfig(source="published"))
    row = '{"seq": [[1, 5.0], [2, 4.0]], "len_seq": 2, "next": [3, 5.0]}\n'
    (folder / "train.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(DataError, match=r"has seq and next.*historyList.*id2name\.txt"):
        prepare_data(str(folder), "", tmp_path / "o", DataConfig(source="published"))


@pytest.mark.parametrize("hash_users", [True, False])
def test_advice_names_no_column_that_cannot_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hash_users: bool
) -> None:
    monkeypatch.setenv("DYNAMICPO_HASH_KEY", "x" * 32)
    (tmp_path / "i.csv").write_text("user_id,item_id,time\x1estamps\nu1,m01,5\n")
    with pytest.raises(DataError, match="--columns timestamp=NAME") as caught:
        config = DataConfig(hash_users=hash_users)
        prepare_data(str(tmp_path / "i.csv"), str(ITEMS), tmp_path / "out", config)
    assert "\x1e" not in str(caught.value)
    assert ("time\\x1estamps" in str(caught.value)) != hash_users
    (line,) = str(caught.value).split("\n")


def test_messages_are_short_and_few() -> None:
    lines = limited("\n".join(f"{number}: {'x' * 10_000}. Do this." for number in range(30)))
    first, *_, last = lines.split("\n")
    assert len(lines.split("\n")) == LINES_LIMIT + 1
    assert max(map(len, lines.split("\n"))) <= LINE_LIMIT
    assert first.startswith("0: xxx")
    assert first.endswith("Do this.")
    assert last == "10 more problems. Mend these first."
    assert limited(lines) == lines == str(DataError(lines))
    address = f"s3://b/?{'x' * 230}&token={'secret' * 100}: must be there. Correct it."
    assert "secret" not in str(DataError(address))
    assert shown("a\nb") == "'a\\nb'"
    assert len(quoted("x" * 1000)) < 70
