"""The manifest: what determines a stage's result, and a checksum of each file of it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from dynamicpo.core.config_fields import Checked, recorded_fields
from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import is_number
from dynamicpo.core.records.shapes import as_shape
from dynamicpo.core.storage.partial_copies import is_incomplete

# A stage looks at its inputs more than once. A file that was written to has another time of change,
# which no program can set back as it can the time of modification.
_checksums: dict[tuple[int, int, int, int, int], str] = {}
# Written after the checksums: the manifest, and what differs from run to run.
_UNLISTED = ("manifest.json", "run.json")


class _Protocol(TypedDict, total=False):
    strategy: str
    held_out_strategy: str
    exclude: str
    repeats: str
    num_candidates: int


class _Prompts(TypedDict, total=False):
    list_candidates: bool


class _Entries(TypedDict, total=False):
    """Entries of one stage that others read; each has more of its own, which its readers check."""

    protocol: _Protocol
    prompts: _Prompts
    base: dict[str, Any]
    # Of prepared data a fingerprint, of a model what its data said of itself.
    data: dict[str, Any] | str
    warnings: list[str]


def canonical(value: object) -> str:
    """The one JSON text of a value: keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder and below it, by its path relative to the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_checksum(path) for path in files}


def folder_checksum(folder: Path) -> str:
    """A name for the content of all files in a folder and below it."""
    return fingerprint(file_checksums(folder))


def fingerprint(value: object) -> str:
    """16 hexadecimal digits that name a JSON value."""
    # 64 bits: two of a million values have the same name with a probability of 3e-8.
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


@dataclass
class Manifest:
    """The record of a stage's output: what determines it, and what it is.

    Attributes:
        stage: The stage's name.
        config: Its configuration, field by field.
        inputs: A checksum for each input (for a folder of ours: its `fingerprint`).
        counts: Numbers of rows, selected and dropped, by reason; for an evaluation its metrics.
        extra: Information for later stages (prompt settings, base model, protocol).
        files: SHA-256 of each file of the output.
    """

    stage: str
    # Any: each stage knows the types of its own entries, and this class knows none of the stages.
    config: dict[str, Any]
    inputs: dict[str, str]
    counts: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def cause(self) -> str:
        """A name for the request: stage, configuration and inputs."""
        return fingerprint({"stage": self.stage, "config": self.config, "inputs": self.inputs})

    @property
    def fingerprint(self) -> str:
        """A name for the output's content."""
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
        state = "is not finished (it has no manifest.json)" if folder.is_dir() else "does not exist"
        raise DataError(
            f"{folder}: must be the finished output of {stage or 'a stage'}, but it {state}. "
            "Run that stage first."
        )
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        _check_types(manifest)
        # JSON may spell half of a surrogate pair, which is no text and has no checksum.
        canonical(dataclasses.asdict(manifest)).encode()
    # A TypeError: JSON that is no mapping, or one with other keys or values than the fields'. A
    # RecursionError: brackets within brackets, thousands of them.
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: must be a manifest, but it can't be read ({error}). Run the stage again."
        ) from error
    as_shape(path, manifest.extra, _Entries)
    if stage and manifest.stage != stage:
        raise DataError(
            f"{folder}: must be the output of {stage}, but it comes from {manifest.stage}. "
            "Give the right folder."
        )
    return manifest


def _check_types(manifest: Manifest) -> None:
    if not isinstance(manifest.stage, str):
        raise TypeError("stage is no text")
    for name in ("config", "inputs", "counts", "extra", "files"):
        if not isinstance(getattr(manifest, name), dict):
            raise TypeError(f"{name} is no mapping")
    for name in ("inputs", "files"):
        for key, value in getattr(manifest, name).items():
            if not isinstance(value, str):
                raise TypeError(f"{name}: {key} is no text")
    for key, value in manifest.counts.items():
        # None: a metric of nothing, such as the mean over no rows. A bool: a verdict.
        if not (is_number(value) or value is None or isinstance(value, bool)):
            raise TypeError(f"counts: {key} is no number")


def read_input(folder: Path, stage: str = "") -> Manifest:
    """The manifest of a finished output that is about to be read, its files checked against it.

    Args:
        folder: An output folder of a stage.
        stage: The stage it must come from ("" for any).

    Raises:
        DataError: As `read_manifest`; or a file is missing, changed or not of this output.
    """
    manifest = read_manifest(folder, stage)
    check_files(folder, manifest)
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare the files of an output with its manifest.

    Raises:
        DataError: One is missing, has changed, or is not of this output.
    """
    for name, checksum in manifest.files.items():
        path = folder / name
        if is_incomplete(path):
            continue
        if not path.is_file():
            raise _not_as_made(folder, name, "is missing")
        if _remembered_checksum(path) != checksum:
            raise _not_as_made(folder, name, "has changed")
    # A shard too many would be read like all others.
    for path in _entries(folder, manifest):
        name = str(path.relative_to(folder))
        is_ours = name in manifest.files or name in _UNLISTED or path.name.startswith(".")
        if path.is_file() and not is_ours:
            raise _not_as_made(folder, name, "is not one of them")


def _entries(folder: Path, manifest: Manifest) -> list[Path]:
    """All entries of an output, also those of its folders that are links."""
    entries = set(folder.rglob("*"))
    # `rglob` does not follow links, but readers do.
    for parent in {(folder / name).parent for name in manifest.files}:
        entries.update(parent.glob("*"))
    return sorted(entries)


def _remembered_checksum(path: Path) -> str:
    status = path.stat()
    times = (status.st_mtime_ns, status.st_ctime_ns)
    key = (status.st_dev, status.st_ino, status.st_size, *times)
    if key not in _checksums:
        _checksums[key] = file_checksum(path)
    return _checksums[key]


def _not_as_made(folder: Path, name: str, problem: str) -> DataError:
    return DataError(
        f"{folder / name}: {folder} must hold the files that its manifest names, as they were "
        f"made, but this one {problem}. Make {folder} anew."
    )


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, completely or not at all."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    # A rename within a folder is atomic: a reader sees the old file or the new one.
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def config_dict(config: Checked) -> dict[str, Any]:
    """A config as it stands in a manifest: without what no result depends on."""
    return recorded_fields(config)


def input_fingerprint(folder: Path) -> str:
    """The name of an input folder of ours in a manifest."""
    return read_input(folder).fingerprint


def keep_mapping(values: Mapping[str, object]) -> dict[str, object]:
    """A plain copy, as JSON gives it back (tuples become lists)."""
    return dict(json.loads(canonical(values)))
