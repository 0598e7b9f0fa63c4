"""Outputs of stages: written completely or not at all, and reused where nothing has changed."""

import dataclasses
import json
import logging
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TypedDict, cast

from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.records.manifest import (
    Manifest,
    check_files,
    file_checksums,
    read_manifest,
    write_json,
)
from dynamicpo.core.records.partial_folders import check_place, partial_folder, publish

log = logging.getLogger(__name__)

_PACKAGES = ("dynamicpo", "torch", "transformers", "peft", "kfp", "pandas", "pyarrow")


class RunRecord(TypedDict):
    """The content of `run.json`: time and machine, which differ between runs of one result."""

    started: float
    duration_seconds: float
    host: str
    python: str
    versions: dict[str, str]


@contextmanager
def stage_output(output: Path, manifest: Manifest) -> Iterator[Path]:
    """A folder to write into, which is renamed to `output` when the block ends without an error.

    The block fills `manifest.counts` and `manifest.extra`; checksums are added here. What it writes
    into `run.json` stands there beside the time and the machine.

    Args:
        output: The result's folder. Must not exist, or be empty.
        manifest: Stage, configuration and inputs.

    Raises:
        DataError: The output exists, or can't be written.
    """
    started = time.time()
    with partial_folder(output) as partial:
        yield partial
        # Before run.json is written: it has the time and the host, which would make every
        # fingerprint differ.
        path = partial / "run.json"
        measured = _taken(path)
        manifest.files = file_checksums(partial)
        write_json(path, {**measured, **_run_record(started)})
        content = dataclasses.asdict(manifest)
        write_json(partial / "manifest.json", content)
        publish(partial, output)


def _taken(path: Path) -> JsonObject:
    """Take what a stage has measured of its run out of its folder; nothing where it has not."""
    if not path.is_file():
        return {}
    measured = cast(JsonObject, json.loads(path.read_text(encoding="utf-8")))
    path.unlink()
    return measured


def finished(output: Path, manifest: Manifest) -> Manifest | None:
    """The manifest of an output that was already made from the same configuration and inputs.

    Returns:
        None where nothing is there; the stage should then run.

    Raises:
        DataError: The output exists and comes from something else, or its files have changed.
    """
    if not (output / "manifest.json").is_file():
        check_place(output)
        return None
    existing = read_manifest(output)
    if existing.cause != manifest.cause:
        raise DataError(
            f"{output}: must be new or made from the same configuration and inputs, but it differs "
            f"in {difference(existing, manifest)}. Remove it or choose another output."
        )
    check_files(output, existing)
    log.info("%s: already there from the same configuration and inputs, used as it is", output)
    return existing


def difference(old: Manifest, new: Manifest) -> str:
    """The settings and inputs in which a request differs from an earlier one, as text."""
    if old.stage != new.stage:
        return f"stage ({old.stage}, asked for {new.stage})"
    differences = []
    for before, after in ((old.config, new.config), (old.inputs, new.inputs)):
        for name in sorted({*before, *after}):
            # An older version of a stage may lack a setting.
            old_value, new_value = before.get(name), after.get(name)
            if old_value != new_value:
                differences.append(f"{name} ({old_value}, asked for {new_value})")
    return ", ".join(differences)


def _run_record(started: float) -> RunRecord:
    return {
        "started": started,
        "duration_seconds": round(time.time() - started, 3),
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str:
    # Asks the installed metadata: importing torch for its version would take seconds.
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
