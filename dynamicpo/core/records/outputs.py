"""Outputs of stages: whole or not at all, and reused where nothing has changed."""

import dataclasses
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest, file_checksum, read_manifest, write_json

log = logging.getLogger(__name__)


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
        raise DataError(
            f"{output}: must be writable, but {error.strerror}. Choose another output."
        ) from error
    try:
        yield partial
        manifest.files = {
            str(path.relative_to(partial)): file_checksum(path)
            for path in sorted(partial.rglob("*"))
            if path.is_file()
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
        raise DataError(
            f"{output}: must not exist yet, but something is there. Remove it or choose another output."
        )


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
