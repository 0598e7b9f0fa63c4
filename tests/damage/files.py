"""Damage of files: by their format, so that it gets past the first reader, or of their bytes."""

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.damage.values import LARGE, TEXTS, damaged_bytes, damaged_value


def damage_file(path: Path, rng: random.Random) -> str:
    """Damage a file. Returns what was done, in a word."""
    change = rng.randrange(20)
    if change == 0:
        path.unlink()
        return "deleted"
    if change == 1:
        path.write_bytes(b"")
        return "emptied"
    if change == 2:
        path.unlink()
        path.mkdir()
        return "made a folder"
    by_format = _BY_SUFFIX.get(path.suffix)
    if by_format is None or change < 8:
        path.write_bytes(damaged_bytes(path.read_bytes(), rng))
        return "bytes"
    return by_format(path, rng)


def _damage_json(path: Path, rng: random.Random) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    _write_text(path, json.dumps(damaged_value(content, rng)))
    return "JSON"


def _damage_lines(path: Path, rng: random.Random) -> str:
    """Damage one line of JSON."""
    lines = path.read_text(encoding="utf-8").splitlines()
    index = rng.randrange(len(lines))
    lines[index] = json.dumps(damaged_value(json.loads(lines[index]), rng))
    _write_text(path, "\n".join(lines))
    return "JSON line"


def _damage_yaml(path: Path, rng: random.Random) -> str:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    _write_text(path, yaml.safe_dump(damaged_value(content, rng)))
    return "YAML"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def _damage_parquet(path: Path, rng: random.Random) -> str:
    table = pq.read_table(path, partitioning=None)
    index = rng.randrange(table.num_columns)
    name = rng.choice(list(_COLUMN_DAMAGE))
    pq.write_table(_COLUMN_DAMAGE[name](table, index, rng), path)
    return f"Parquet {name}"


def _with_values(table: pa.Table, index: int, rng: random.Random) -> pa.Table:
    """Some values changed, of the column's own type where they fit it."""
    column = table.column(index)
    values = column.to_pylist()
    for _ in range(min(len(values), rng.randint(1, 3))):
        row = rng.randrange(len(values))
        values[row] = damaged_value(values[row], rng)
    try:
        changed = pa.array(values, column.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        changed = _odd_array(len(values), rng)
    return table.set_column(index, table.field(index).name, changed)


def _odd_array(length: int, rng: random.Random) -> pa.Array:
    numbers = [value for value in LARGE if isinstance(value, int) and abs(value) < 2**63]
    return rng.choice(
        (
            pa.array([rng.choice(numbers)] * length, pa.int64()),
            pa.array([float("nan")] * length),
            pa.array([[None]] * length, pa.list_(pa.string())),
            pa.nulls(length),
            pa.array([{"a": 1}] * length),
            pa.array([b"\xff\xfe"] * length, pa.binary()),
        )
    )


def _with_type(table: pa.Table, index: int, rng: random.Random) -> pa.Table:
    changed = _odd_array(len(table), rng)
    return table.set_column(index, table.field(index).name, changed)


def _with_nulls(table: pa.Table, index: int, rng: random.Random) -> pa.Table:
    values = table.column(index).to_pylist()
    for row in range(len(values)):
        if rng.random() < 0.1:
            values[row] = [None] if isinstance(values[row], list) else None
    changed = pa.array(values, table.field(index).type)
    return table.set_column(index, table.field(index).name, changed)


def _with_odd_bytes(table: pa.Table, index: int, rng: random.Random) -> pa.Table:
    """Texts that are no UTF-8, in a column that says it holds texts."""
    raw = pa.array([rng.choice((b"\xff\xfe", b"\xed\xa0\x80", b"ok"))] * len(table), pa.binary())
    texts = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    return table.set_column(index, table.field(index).name, texts)


def _with_texts(table: pa.Table, index: int, rng: random.Random) -> pa.Table:
    texts = [text for text in TEXTS if text != "\ud800"]
    changed = pa.array([rng.choice(texts) for _ in range(len(table))], pa.string())
    return table.set_column(index, table.field(index).name, changed)


def _without_column(table: pa.Table, index: int, rng: random.Random) -> pa.Table:
    return table.remove_column(index)


def _with_name(table: pa.Table, index: int, rng: random.Random) -> pa.Table:
    names = list(table.column_names)
    names[index] = rng.choice((*names, "x\x1b[2J", ""))
    return table.rename_columns(names)


def _other_rows(table: pa.Table, index: int, rng: random.Random) -> pa.Table:
    return rng.choice((table.slice(0, 0), table.slice(0, 1), pa.concat_tables([table, table])))


_COLUMN_DAMAGE: Mapping[str, Callable[[pa.Table, int, random.Random], pa.Table]] = {
    "values": _with_values,
    "type": _with_type,
    "nulls": _with_nulls,
    "odd bytes": _with_odd_bytes,
    "texts": _with_texts,
    "column gone": _without_column,
    "column name": _with_name,
    "rows": _other_rows,
}


def _damage_safetensors(path: Path, rng: random.Random) -> str:
    """Damage the header, or the numbers behind it."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, numbers = raw[8 : 8 + length], raw[8 + length :]
    change = rng.randrange(4)
    if change == 0:
        size = rng.choice((0, length - 1, length + 1, len(raw), 2**31, 2**63, 2**64 - 1))
        path.write_bytes(struct.pack("<Q", size) + header + numbers)
        return "safetensors size"
    if change == 1:
        odd = struct.pack("<f", rng.choice((float("nan"), float("inf"), 3e38, 0.0)))
        path.write_bytes(raw[: 8 + length] + odd * (len(numbers) // 4))
        return "safetensors numbers"
    changed = json.dumps(damaged_value(json.loads(header), rng)).encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + numbers)
    return "safetensors header"


def _damage_zip(path: Path, rng: random.Random) -> str:
    """Damage one member, or its name."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    content = members.pop(name)
    change = rng.randrange(4)
    if change == 0:
        name = rng.choice((f"../{name}", f"/tmp/{name}", name.upper(), "ml-100k"))
    elif change < 3:
        content = damaged_bytes(content, rng)
    else:
        content = content * 2000
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, raw in {**members, name: content}.items():
            archive.writestr(member, raw)
    path.write_bytes(stream.getvalue())
    return "zip member"


_BY_SUFFIX: Mapping[str, Callable[[Path, random.Random], str]] = {
    ".json": _damage_json,
    ".jsonl": _damage_lines,
    ".yaml": _damage_yaml,
    ".parquet": _damage_parquet,
    ".safetensors": _damage_safetensors,
    ".zip": _damage_zip,
}
