"""Damaged files of every format: one clear error or a result, never a traceback or a part of one.

`FUZZ_CASES=20000 pytest tests/dynamicpo/data/test_fuzz.py` runs more cases than the tests do.
"""

import gzip
import io
import json
import os
import random
import shutil
from pathlib import Path

import ibis
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamicpo.core.errors import DynamicPOError
from dynamicpo.core.messages import LINE_LIMIT, LINES_LIMIT
from dynamicpo.data.sources.engine import open_engine
from dynamicpo.data.sources.options import ReadingOptions
from dynamicpo.data.sources.published import read_published
from dynamicpo.data.sources.tables import read_interactions, read_item_table
from tests.damage.values import damaged_bytes

CASES = int(os.environ.get("FUZZ_CASES", "2100"))
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


_CONNECTIONS: list[ibis.BaseBackend] = []


def _connection() -> ibis.BaseBackend:
    """A connection for a hundred reads: one for each would take longer than the reads."""
    if len(_CONNECTIONS) % 100 == 0:
        _CONNECTIONS[:] = [open_engine()]
    else:
        _CONNECTIONS.append(_CONNECTIONS[0])
    return _CONNECTIONS[0]


def _check_one(read, connection: ibis.BaseBackend) -> None:
    try:
        result = read(connection)
        if hasattr(result, "table"):
            result.table.count().execute()
    except DynamicPOError as error:
        lines = str(error).split("\n")
        assert len(lines) <= LINES_LIMIT + 1
        assert max(map(len, lines)) <= 2 * LINE_LIMIT
        assert "Traceback" not in str(error)


@pytest.mark.parametrize("name", _SEEDS)
def test_damaged_bytes_give_one_error_or_a_result(tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    for _ in range(CASES // (2 * len(_SEEDS)) + 1):
        (tmp_path / name).write_bytes(damaged_bytes(_SEEDS[name], rng, _PIECES))
        check(tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == [name]


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
    max_examples=max(10, CASES // 28),
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
