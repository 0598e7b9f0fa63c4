"""Paths of stages in object stores: inputs are copied here before the work, outputs there after it.

What a stage reads only in part is fetched in part.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from dynamicpo.cli.commands.checkpoint_flags import CHECKPOINT_TEXTS
from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import DriftConfig
from dynamicpo.core.storage import FolderPart, LocalCopies, exists, is_remote, join, read_bytes
from dynamicpo.core.storage.partial_copies import WHOLE
from dynamicpo.distributed.group import is_main

# Prepared data comes in files of other people, which `prepare-data` fetches by itself.
_FETCHED_BY_STAGES = ("interactions", "items")
_MANIFEST = "manifest.json"
_RECORDS = FolderPart((_MANIFEST, "run.json", "items.parquet"))


def local_paths(
    paths: Mapping[str, object], config: object, copies: LocalCopies
) -> dict[str, object]:
    """The paths of a stage with local ones in the place of those in object stores.

    Raises:
        DataError: An input is not there, or an output can't be made.
    """
    local: dict[str, object] = {}
    for name, value in paths.items():
        if name in _FETCHED_BY_STAGES or name in CHECKPOINT_TEXTS:
            local[name] = value
        elif name == "output":
            local[name] = _output(str(value), copies)
        else:
            local[name] = _fetched(value, copies, _needed_parts(name, paths, config))
    return local


def _output(uri: str, copies: LocalCopies) -> str:
    """The local path of an output; a name alone where another process writes it."""
    return str(copies.output(uri)) if is_main() else PurePosixPath(uri).name


def _fetched(value: object, copies: LocalCopies, parts: Sequence[FolderPart]) -> object:
    """A path, or several, which may have names: `NAME=PATH`."""
    if isinstance(value, dict):
        return {name: _fetched(path, copies, parts) for name, path in value.items()}
    if isinstance(value, list):
        return [_fetched(entry, copies, parts) for entry in value]
    name, separator, uri = str(value).rpartition("=")
    is_named = separator and "/" not in name
    if is_named:
        return f"{name}={copies.fetch_output(uri, parts)}"
    return str(copies.fetch_output(str(value), parts))


def _needed_parts(name: str, paths: Mapping[str, object], config: object) -> Sequence[FolderPart]:
    """The parts of an input that a stage reads."""
    if not isinstance(config, DriftConfig) or name not in ("reference", "current"):
        return WHOLE
    # Its own windows only, and candidates for a model's scores alone.
    splits = [config.split] if name == "current" else []
    if name == "reference" or "reference" not in paths:
        splits += ["train", config.held_out]
    # A version has a model.
    has_model = "model" in paths or bool(config.store)
    return _split_parts(list(dict.fromkeys(splits)), with_candidates=has_model)


def audited_rows(uri: str, split: str, copies: LocalCopies) -> Path:
    """The local path of rows to audit: a preferences folder, one of its splits, or another file.

    Raises:
        DataError: Nothing is there, or it can't be read.
    """
    if not is_remote(uri):
        return Path(uri)
    folder, _, name = uri.rstrip("/").rpartition("/")
    if name in SPLITS and exists(join(folder, _MANIFEST)):
        return copies.fetch(folder, _audited_parts(folder, name)) / name
    return copies.fetch(uri, _audited_parts(uri, split))


def _audited_parts(uri: str, split: str) -> Sequence[FolderPart]:
    """The parts of preferences that an audit reads: its split, others where users count."""
    own = _split_parts([split], with_candidates=True)
    if not _excludes_other_splits(uri):
        return own
    others = [other for other in SPLITS if other != split]
    return [*own, *_split_parts(others, with_candidates=False)]


def _excludes_other_splits(uri: str) -> bool:
    """Tell whether negatives leave out what their user has in other rows."""
    try:
        manifest = json.loads(read_bytes(join(uri, _MANIFEST)))
        return bool(manifest["config"]["exclude"] != "window")
    # Published rows have no manifest. A damaged one is refused when it is read.
    except (ValueError, KeyError, TypeError):
        return True


def _split_parts(splits: Sequence[str], *, with_candidates: bool) -> list[FolderPart]:
    """Some splits of a preferences folder, without the columns that only training reads."""
    # Heavy: pyarrow and pandas.
    from dynamicpo.core.records.rows import CANDIDATES_FIELD, EXAMPLES

    columns = [*EXAMPLES.names]
    if with_candidates:
        columns.append(CANDIDATES_FIELD.name)
    names = tuple(f"{split}/*" for split in splits)
    return [_RECORDS, FolderPart(names, tuple(columns))]
