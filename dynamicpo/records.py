"""The files between stages: row schemas, whole-or-nothing outputs, and the manifest.

A stage's output is a folder that appears by one rename, with `manifest.json` (what determines the
result: stage, configuration, inputs, counts, a checksum of each file) and `run.json` (what does not:
duration, host, versions).
"""

import dataclasses
import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dynamicpo.errors import DataError

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
EXAMPLES = pa.schema(
    [
        ("example_id", pa.string()),
        ("user_id", pa.string()),
        ("history", pa.list_(pa.string())),
        ("target", pa.string()),
        ("timestamp", pa.float64()),
    ]
)
CANDIDATES = pa.field("candidates", pa.list_(pa.string()))
PREFERENCES = pa.schema([*EXAMPLES, CANDIDATES, pa.field("rejected", pa.list_(pa.string()))])
ITEMS = pa.schema(
    [("item_id", pa.string()), ("title", pa.string()), ("popularity", pa.int64()), ("category", pa.string())]
)
_PART_ROWS = 100_000


@dataclass(frozen=True)
class Row:
    """Token ids of a prompt and of the answers to it, scored exactly as given.

    Attributes:
        prompt_ids: The prompt. At least one token.
        answer_ids: Each answer, with its end-of-sequence token where it has one. At least one token each.
    """

    prompt_ids: Sequence[int]
    answer_ids: Sequence[Sequence[int]]


def canonical(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that name a JSON value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


@dataclass
class Manifest:
    """What determines a stage's result, and what the result is.

    Attributes:
        stage: The stage's name.
        config: Its configuration, field by field.
        inputs: A checksum for each input (for a folder of ours: its `fingerprint`).
        counts: Numbers of rows, kept and dropped, by reason.
        extra: What later stages need to know (prompt settings, base model, protocol).
        files: SHA-256 of each file of the output.
    """

    stage: str
    config: dict[str, Any]
    inputs: dict[str, str]
    counts: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def cause(self) -> str:
        """Names what was asked for: stage, configuration and inputs."""
        return fingerprint({"stage": self.stage, "config": self.config, "inputs": self.inputs})

    @property
    def fingerprint(self) -> str:
        """Names the output's content."""
        return fingerprint(dataclasses.asdict(self))


def read_manifest(folder: Path, stage: str = "") -> Manifest:
    """The manifest of a finished output.

    Args:
        folder: An output folder of a stage.
        stage: The stage it must come from ("" for any).

    Raises:
        DataError: No such folder, an unfinished one, or one of another stage.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        what = "is not finished (it has no manifest.json)" if folder.is_dir() else "does not exist"
        raise DataError(
            f"{folder}: must be the finished output of {stage or 'a stage'}, but it {what}. Run that stage first."
        )
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: must be a manifest, but it can't be read ({error}). Run the stage again.") from error
    if stage and manifest.stage != stage:
        raise DataError(
            f"{folder}: must be the output of {stage}, but it comes from {manifest.stage}. Give the right folder."
        )
    return manifest


@contextmanager
def stage_output(output: Path, manifest: Manifest) -> Iterator[Path]:
    """A folder to write into, which becomes `output` by a rename when the block ends without an error.

    The block fills `manifest.counts` and `manifest.extra`; checksums are added here.

    Args:
        output: Where the result shall be. Must not exist, or be an empty folder.
        manifest: Stage, configuration and inputs.

    Raises:
        DataError: The output exists, or can't be written.
    """
    started = time.time()
    check_output(output)
    partial = output.parent / f".{output.name}.partial-{os.getpid()}"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    except OSError as error:
        raise DataError(f"{output}: must be writable, but {error.strerror}. Choose another output.") from error
    try:
        yield partial
        manifest.files = {
            str(path.relative_to(partial)): file_checksum(path) for path in sorted(partial.rglob("*")) if path.is_file()
        }
        write_json(partial / "run.json", _run_facts(started))
        write_json(partial / "manifest.json", dataclasses.asdict(manifest))
        if output.is_dir():
            output.rmdir()
        partial.replace(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_output(output: Path) -> None:
    """Refuse an output that holds something already.

    Raises:
        DataError: It exists and is not an empty folder.
    """
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        raise DataError(f"{output}: must not exist yet, but something is there. Remove it or choose another output.")


def finished(output: Path, manifest: Manifest) -> Manifest | None:
    """The manifest of an output that was already made from the same configuration and inputs.

    Returns:
        None where nothing is there; the stage should then run.

    Raises:
        DataError: The output exists and comes from something else, or its files have changed.
    """
    if not (output / "manifest.json").is_file():
        check_output(output)
        return None
    existing = read_manifest(output)
    if existing.cause != manifest.cause:
        raise DataError(
            f"{output}: must be new or made from the same configuration and inputs, but it differs in "
            f"{_difference(existing, manifest)}. Remove it or choose another output."
        )
    _check_files(output, existing)
    log.info("%s: already there from the same configuration and inputs, used as it is", output)
    return existing


def _check_files(folder: Path, manifest: Manifest) -> None:
    wrong = [
        name
        for name, checksum in manifest.files.items()
        if not (folder / name).is_file() or file_checksum(folder / name) != checksum
    ]
    if wrong:
        raise DataError(
            f"{folder}: must hold the files that its manifest names, but {', '.join(wrong)} are missing or changed. "
            "Remove it and run the stage again."
        )


def _difference(old: Manifest, new: Manifest) -> str:
    if old.stage != new.stage:
        return f"stage ({old.stage}, asked for {new.stage})"
    names = [
        f"{name} ({before.get(name)}, asked for {after.get(name)})"
        for before, after in ((old.config, new.config), (old.inputs, new.inputs))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    return ", ".join(names)


def _run_facts(started: float) -> dict[str, Any]:
    packages = ("dynamicpo", "torch", "transformers", "peft", "kfp", "pandas", "pyarrow")
    return {
        "started": started,
        "duration_seconds": round(time.time() - started, 3),
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def write_rows(folder: Path, split: str, rows: pa.Table) -> None:
    """Write a split as `part-*.parquet` of at most 100,000 rows each. The same rows give the same bytes."""
    (folder / split).mkdir(parents=True)
    for part in range(max(1, -(-len(rows) // _PART_ROWS))):
        piece = rows.slice(part * _PART_ROWS, _PART_ROWS).combine_chunks()
        pq.write_table(piece, folder / split / f"part-{part:05d}.parquet", compression="zstd")


def read_rows(folder: Path, split: str, schema: pa.Schema = PREFERENCES) -> pa.Table:
    """A split's rows, with at least the columns of `schema`.

    Raises:
        DataError: No such split, or a column is missing.
    """
    parts = sorted((folder / split).glob("part-*.parquet"))
    if not parts:
        raise DataError(
            f"{folder / split}: must hold part-*.parquet files, but none is there. Run the stage before this one."
        )
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise DataError(
            f"{folder / split}: must have the columns {', '.join(schema.names)}, but {', '.join(missing)} is missing."
        )
    return table


def write_items(folder: Path, items: pd.DataFrame) -> None:
    """Write `items.parquet`, sorted by item id."""
    table = pa.Table.from_pandas(items.sort_values("item_id"), schema=ITEMS, preserve_index=False)
    pq.write_table(table, folder / "items.parquet", compression="zstd")


def read_items(folder: Path) -> pd.DataFrame:
    """The items table: `item_id`, `title`, `popularity` (training split only), `category`; sorted by item id."""
    path = folder / "items.parquet"
    if not path.is_file():
        raise DataError(f"{path}: must be there, but it is missing. Run the stage before this one.")
    items: pd.DataFrame = pq.read_table(path).to_pandas()
    return items


def config_dict(config: Any) -> dict[str, Any]:
    """A config as it stands in a manifest."""
    return dataclasses.asdict(config)


def input_fingerprint(folder: Path) -> str:
    """What names an input folder of ours in a manifest."""
    return read_manifest(folder).fingerprint


def keep_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    """A plain copy, as JSON gives it back (tuples become lists)."""
    return dict(json.loads(canonical(values)))
