"""Versions of a recommender: immutable folders of a store, named by their content.

A store has three folders: `versions/NAME/` with `model/`, `generators/` (what proposes items to
the model), `reference/` (what drift is measured against), `items.parquet`, `rows.parquet`,
`users.parquet` and `card.json`; `published/`, a chain
of files, one for each version in the order of their publication; and `champion/`, another one, for
the champion's moves.
"""

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest, read_input, write_json
from dynamicpo.core.records.partial_folders import partial_folder, publish
from dynamicpo.core.records.version_folders import CARD, GENERATORS_FOLDER, MODEL_FOLDER
from dynamicpo.core.storage.addresses import join
from dynamicpo.core.storage.chains import append_once
from dynamicpo.core.storage.files import delete, exists, put, read_bytes
from dynamicpo.core.storage.publication import (
    CONTENTS,
    fetch_published,
    pointer_history,
    publish_folder,
)
from dynamicpo.monitoring.references import write_reference
from dynamicpo.promotion.trained_users import write_trained_users
from dynamicpo.promotion.version_cards import VersionCard, make_card, read_card
from dynamicpo.promotion.version_cards import VersionSource as VersionSource

# Shorter beginnings of names would be typing errors rather than names.
_SHORTEST = 6
# Time and machine differ between two makings of the same model.
_NOT_OF_THE_CONTENT = shutil.ignore_patterns("run.json")


class Version(NamedTuple):
    """A published version: its name, its URI, and its card."""

    name: str
    uri: str
    card: VersionCard


def make_version(source: VersionSource, store: str) -> Version:
    """Publish a model with all that serving needs besides its base, or find it there.

    Args:
        source: The folders.
        store: A folder or prefix for all versions.

    Returns:
        The version: the same for the same content.

    Raises:
        DataError: A folder can't be read, the evaluation is of other models, the model was trained
            on other rows, or the store can't be written.
    """
    manifest = read_input(source.model)
    evaluation = read_input(source.evaluation, "evaluate")
    _check_rows(source, manifest)
    _check_generators(source, evaluation)
    name = _evaluated_name(source, manifest, evaluation)
    card = make_card(source, manifest, evaluation, name)
    with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
        folder = Path(scratch) / "version"
        shutil.copytree(source.model, folder / MODEL_FOLDER, ignore=_NOT_OF_THE_CONTENT)
        shutil.copyfile(source.evaluation / "items.parquet", folder / "items.parquet")
        if (source.evaluation / GENERATORS_FOLDER).is_dir():
            shutil.copytree(source.evaluation / GENERATORS_FOLDER, folder / GENERATORS_FOLDER)
        _write_evaluated_rows(source.evaluation / name, folder)
        write_trained_users(source.preferences, folder)
        write_reference(source.preferences, source.evaluation, name, folder)
        write_json(folder / CARD, card)
        uri = publish_folder(folder, join(store, "versions"))
    published = Version(uri.rpartition("/")[2], uri, card)
    append_once(join(store, "published"), published.name)
    return published


def published_names(store: str) -> list[str]:
    """The names of all versions, the oldest first; those that were deleted are left out.

    Raises:
        DataError: The store can't be read.
    """
    # A version that was deleted may have been published again.
    names = dict.fromkeys(step.target for step in pointer_history(join(store, "published")))
    return [name for name in names if is_published(store, name)]


def is_published(store: str, name: str) -> bool:
    """Tell whether a version is there, whole."""
    return exists(_contents_uri(store, name))


def version_uri(store: str, name: str) -> str:
    """The URI of a version's folder."""
    return join(store, f"versions/{name}")


def find_version(store: str, text: str) -> str:
    """The name of the version that a text begins.

    Raises:
        DataError: There is none, or more than one.
    """
    names = published_names(store)
    found = [name for name in names if name.startswith(text) and len(text) >= _SHORTEST]
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} versions begin so" if found else "there is none"
    raise DataError(
        f"{store}: must have one version {text!r} (a name, or {_SHORTEST} or more characters "
        f"of its beginning), but {problem}. See `dynamicpo list-versions`."
    )


def read_version(store: str, name: str) -> Version:
    """Read the card of a version.

    Raises:
        DataError: The version was deleted, or its card can't be read.
    """
    uri = version_uri(store, name)
    return Version(name, uri, read_card(join(uri, CARD)))


def fetch_version(store: str, name: str, output: Path) -> None:
    """Copy a version into a folder, checked file by file.

    Args:
        store: The store of versions.
        name: The version's name.
        output: The folder to make.

    Raises:
        DataError: It is not whole, or the folder exists.
    """
    with (
        tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch,
        partial_folder(output) as partial,
    ):
        local = fetch_published(version_uri(store, name), Path(scratch))
        shutil.copytree(local, partial, dirs_exist_ok=True)
        publish(partial, output)


def delete_version(store: str, name: str) -> None:
    """Delete a version, whole or so that nobody takes the rest for one."""
    # Readers take a folder without its list for one that is not there.
    delete(_contents_uri(store, name))
    delete(version_uri(store, name))


def hide_version(store: str, name: str) -> bytes:
    """Let readers take a version for one that is not there; what shows it again.

    Raises:
        DataError: It is not there, or the store can't be written.
    """
    uri = _contents_uri(store, name)
    contents = read_bytes(uri)
    delete(uri)
    return contents


def show_version_again(store: str, name: str, contents: bytes) -> None:
    """Undo `hide_version`, with what it gave."""
    with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
        file = Path(scratch) / CONTENTS
        file.write_bytes(contents)
        put(file, _contents_uri(store, name))


def _contents_uri(store: str, name: str) -> str:
    return join(version_uri(store, name), CONTENTS)


def _check_rows(source: VersionSource, manifest: Manifest) -> None:
    """Refuse other rows than those that the model was trained on."""
    fingerprint = read_input(source.preferences).fingerprint
    trained_on = manifest.inputs.get("preferences", "none")
    if fingerprint != trained_on:
        raise DataError(
            f"{source.preferences}: must be the rows that {source.model} was trained on "
            f"({trained_on}), got others ({fingerprint}). Give the folder of that training."
        )


def _check_generators(source: VersionSource, evaluation: Manifest) -> None:
    """Refuse candidate generators that were trained on other rows than the model."""
    evaluated = evaluation.inputs.get("preferences")
    is_kept = (source.evaluation / GENERATORS_FOLDER).is_dir()
    if is_kept and evaluated != read_input(source.preferences).fingerprint:
        raise DataError(
            f"{source.evaluation}: must be an evaluation on rows of {source.preferences}, whose "
            f"training rows its candidate generators know, got one on others ({evaluated}). "
            "Evaluate the model on those."
        )


def _evaluated_name(source: VersionSource, manifest: Manifest, evaluation: Manifest) -> str:
    """The name of the model in its evaluation."""
    models = evaluation.extra.get("models", {})
    for name, provenance in models.items():
        if provenance.get("fingerprint") == manifest.fingerprint:
            return str(name)
    raise DataError(
        f"{source.evaluation}: must be an evaluation of {source.model} "
        f"({manifest.fingerprint}), but it is one of {', '.join(models) or 'none'}. "
        "Evaluate this model."
    )


def _write_evaluated_rows(result: Path, folder: Path) -> None:
    """Keep the ids of the rows that the model was judged on: a later gate needs others."""
    rows = pq.read_table(result / "ranks.parquet", columns=["example_id"])
    # Without what pandas and others add to a table: the bytes name the version.
    pq.write_table(rows.replace_schema_metadata(None), folder / "rows.parquet", compression="zstd")
