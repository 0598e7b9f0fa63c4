"""Damaged files of every format: one clear error or a result, never a traceback or a part of one.

`FUZZ_CASES=20000 pytest tests/dynamicpo/data/test_fuzz.py` runs more cases than the tests do.
"""

import gzip
import io
import json
import os
import random
import shutil
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, get_args

import ibis
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamicpo.core.choices import DataSource
from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import DynamicPOError
from dynamicpo.core.messages import LINE_LIMIT, LINES_LIMIT
from dynamicpo.core.records.manifest import check_files, read_manifest
from dynamicpo.data.prepare import prepare_data
from dynamicpo.data.sources.datasets import dataset_files, read_dataset
from dynamicpo.data.sources.engine import open_engine
from dynamicpo.data.sources.options import ReadingOptions
from dynamicpo.data.sources.published import read_published
from dynamicpo.data.sources.tables import ImportedTables, read_interactions, read_item_table
from tests.damage.case import TooSlowError, alarm
from tests.damage.values import damaged_bytes
from tests.fixtures.datasets import (
    WRITERS,
    write_later_movielens,
    write_movielens_10m,
    write_movielens_100k,
    write_published,
)
from tests.fixtures.tables import write_tables

CASES = int(os.environ.get("FUZZ_CASES", "900"))
# Their shares; the whole stage takes twenty times as long as one reader.
FORMAT_CASES = CASES * 70 // 100
DATASET_CASES = CASES * 15 // 100
VALUE_CASES = CASES * 12 // 100
STAGE_CASES = CASES * 3 // 100
_NUM_ROWS = 12
_FRAME = pd.DataFrame(
    {
        "user_id": [f"u{row % 3}" for row in range(_NUM_ROWS)],
        "item_id": [f"i{row % 5}" for row in range(_NUM_ROWS)],
        "timestamp": range(1_600_000_000, 1_600_000_000 + _NUM_ROWS),
        "title": [f'Titel "{row % 5}" é' for row in range(_NUM_ROWS)],
    }
)
_PUBLISHED = [
    {"user_id": f"u{row}", "historyList": "a::b::c", "itemList": ["a", "d"], "trueSelection": "d"}
    for row in range(20)
]
# Pieces that have meaning in some format.
_PIECES = [
    *(b'"', b'""', b"\\", b"\n", b"\r", b"\r\n", b",", b";", b"\t", b"::", b"{", b"}", b"[", b"]"),
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xc3", "\u200b".encode(), b"NaN", b"null", b"1e400"),
    *(b"{'a': 1}", b"-1", b"sep=;\n", b"user_id", b"x" * 5000),
]


def _parquet() -> bytes:
    stream = io.BytesIO()
    _FRAME.to_parquet(stream)
    return stream.getvalue()


_SEEDS: dict[str, bytes] = {
    "a.csv": _FRAME.to_csv(index=False).encode(),
    "a.tsv": _FRAME.to_csv(index=False, sep="\t").encode(),
    "a.csv.gz": gzip.compress(_FRAME.to_csv(index=False).encode(), mtime=0),
    "a.jsonl": _FRAME.to_json(orient="records", lines=True).encode(),
    "a.json": _FRAME.to_json(orient="records").encode(),
    "b.json": "\n".join(map(str, _FRAME.to_dict("records"))).encode(),
    "a.parquet": _parquet(),
    "train.json": "\n".join(map(json.dumps, _PUBLISHED)).encode(),
}


def check(path: Path) -> None:
    """Read a file with all that may read it; an error is one of ours, and short."""
    for read in (read_interactions, read_item_table):
        _check_one(
            lambda connection, read=read: read(connection, path, ReadingOptions()), _connection()
        )
    if path.name == "train.json":
        _check_one(lambda connection: read_published(connection, {"train": path}), open_engine())


@contextmanager
def collected(failures: dict[str, str], case: object) -> Iterator[None]:
    """Keep the first failure of each kind, by the place that it comes from, and go on."""
    try:
        yield
    except (Exception, TooSlowError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{Path(place.filename).name}:{place.lineno}"
        failures.setdefault(kind, f"case {case}: {error!r}")


_CONNECTIONS: list[ibis.BaseBackend] = []


def _connection() -> ibis.BaseBackend:
    """A connection for a hundred reads: one for each would take longer than the reads."""
    if len(_CONNECTIONS) % 100 == 0:
        _CONNECTIONS[:] = [open_engine()]
    else:
        _CONNECTIONS.append(_CONNECTIONS[0])
    return _CONNECTIONS[0]


def _check_one(read, connection: ibis.BaseBackend) -> str:
    """Read within a time; returns the message of an error, "" where there is none."""
    try:
        with alarm():
            result = read(connection)
            table = getattr(result, "interactions", getattr(result, "table", None))
            if table is not None:
                table.count().execute()
    except DynamicPOError as error:
        check_message(str(error))
        return str(error)
    return ""


# What a line may begin with: a file, or the table that all files make.
_PLACES = ("interactions:", "items:", "timestamp:", "quality:")


def check_message(message: str, folder: str = "/") -> None:
    """A line a problem, each short, not too many, and each with its place."""
    lines = message.split("\n")
    assert len(lines) <= LINES_LIMIT + 1
    assert max(map(len, lines)) <= LINE_LIMIT
    assert "Traceback" not in message
    for line in lines[:LINES_LIMIT]:
        assert line.startswith((folder, *_PLACES)), line


@pytest.mark.parametrize("name", _SEEDS)
def test_damaged_bytes_give_one_error_or_a_result(tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    failures: dict[str, str] = {}
    for number in range(FORMAT_CASES // len(_SEEDS) + 1):
        (tmp_path / name).write_bytes(damaged_bytes(_SEEDS[name], rng, _PIECES))
        with collected(failures, number):
            check(tmp_path / name)
            assert [path.name for path in tmp_path.iterdir()] == [name]
    assert not failures


class Source(NamedTuple):
    """A source of the stage.

    Attributes:
        name: Its name among the sources.
        write: Writes its files into a folder.
        interactions: The path within the folder that is given as the interactions.
        items: The one that is given as the items; empty for none.
        marker: A piece of every user id, where nothing else has it.
    """

    name: str
    write: Callable[[Path], object]
    interactions: str = ""
    items: str = ""
    marker: str = ""

    def prepare(self, folder: Path, output: Path, hash_users: bool) -> None:
        """Run the stage."""
        config = DataConfig(source=self.name, k_core=1, min_history=1, hash_users=hash_users)
        items = str(folder / self.items) if self.items else ""
        prepare_data(str(folder / self.interactions), items, output, config)


def _write_later(folder: Path) -> None:
    write_later_movielens(folder, "ml-latest-small", "\n")


_MARKERS = {
    "lastfm-1k": "user_0000",
    "steam": "Chaos Syren",
    "goodreads": "8842281e1d1347389f2ab93d60773d4",
    "amazon-2023": "AGKHLEW2SOWHNMFQIJGBECAF7IN",
}
SOURCES = {
    **{
        name: Source(name, write, marker=_MARKERS.get(name, ""))
        for name, (write, _) in WRITERS.items()
    },
    "movielens-100k": Source("movielens", write_movielens_100k, "ml-100k.zip"),
    "movielens-10m": Source("movielens", write_movielens_10m),
    "movielens-later": Source("movielens", _write_later),
    "published": Source("published", write_published),
    "table": Source("table", write_tables, "interactions.csv", "items.csv"),
}
assert {source.name for source in SOURCES.values()} == {*get_args(DataSource)}


def damage_one(folder: Path, rng: random.Random) -> Callable[[], None]:
    """Damage one of the files of a folder; returns what mends it."""
    path = rng.choice([file for file in sorted(folder.rglob("*")) if file.is_file()])
    raw = path.read_bytes()
    change = rng.randrange(24)
    if change == 0:
        path.unlink()
    elif change == 1:
        path.write_bytes(b"")
    elif change < 12 and path.suffix in (".gz", ".zip"):
        path.write_bytes(_damaged_within(path, rng))
    else:
        path.write_bytes(damaged_bytes(raw, rng, _PIECES))
    return lambda: (None, path.write_bytes(raw))[0]


def _damaged_within(path: Path, rng: random.Random) -> bytes:
    """A packed file, whole, whose content is damaged."""
    if path.suffix == ".gz":
        content = gzip.decompress(path.read_bytes())
        return gzip.compress(damaged_bytes(content, rng, _PIECES), mtime=0)
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(stream, "w") as changed:
        names = archive.namelist()
        damaged = rng.choice(names)
        for name in names:
            content = archive.read(name)
            changed.writestr(
                name, damaged_bytes(content, rng, _PIECES) if name == damaged else content
            )
    return stream.getvalue()


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_data_sets_give_one_error_or_a_result(tmp_path: Path, name: str) -> None:
    SOURCES[name].write(tmp_path)
    rng = random.Random(name)
    failures: dict[str, str] = {}

    def read(connection: ibis.BaseBackend) -> ImportedTables:
        files = dataset_files(name, tmp_path, None)
        return read_dataset(name, connection, files, ReadingOptions())

    for number in range(DATASET_CASES // len(WRITERS) + 1):
        mend = damage_one(tmp_path, rng)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        with collected(failures, number):
            _check_one(read, _connection())
            assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        mend()
    assert not failures


@pytest.mark.parametrize("name", SOURCES)
def test_the_stage_writes_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("DYNAMICPO_HASH_KEY", "x" * 32)
    source, folder, output = SOURCES[name], tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    source.write(folder)
    rng = random.Random(name)
    failures: dict[str, str] = {}
    for number in range(STAGE_CASES // len(SOURCES) + 1):
        mend = damage_one(folder, rng)
        hides_ids = number % 2 == 1
        with collected(failures, number):
            _check_stage(source, folder, output, hides_ids)
        mend()
        if output.exists():
            shutil.rmtree(output)
    assert not failures


def _check_stage(source: Source, folder: Path, output: Path, hides_ids: bool) -> None:
    message = _check_one(lambda _: source.prepare(folder, output, hides_ids), _connection())
    left = {path.name for path in output.parent.iterdir()} - {"in", ".out.claim"}
    assert left == (set() if message else {"out"})
    if not message:
        check_files(output, read_manifest(output))
        return
    check_message(message, str(folder))
    assert not (hides_ids and source.marker and source.marker in message), message


_VALUES = st.one_of(
    st.text(max_size=8), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.text())
)
_ROWS = st.lists(
    st.fixed_dictionaries(
        {"user_id": _VALUES, "item_id": _VALUES, "timestamp": _VALUES, "title": _VALUES}
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=max(10, VALUE_CASES // 2),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(rows=_ROWS)
def test_any_values_give_one_error_or_a_result(tmp_path_factory, rows) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    frame = pd.DataFrame(rows)
    text = frame.to_csv(index=False).encode("utf-8", "surrogatepass")
    (folder / "a.csv").write_bytes(text)
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "a.jsonl").write_text(lines)
    for path in sorted(folder.iterdir()):
        check(path)
    shutil.rmtree(folder)
