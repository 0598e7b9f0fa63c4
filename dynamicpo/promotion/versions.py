"""Versions of a recommender: immutable folders of a store, named by their content.

A store has three folders: `versions/NAME/` with `model/`, `items.parquet`, `rows.parquet`,
`users.parquet` and `card.json`; `published/`, a chain of files, one for each version in the order
of their publication; and `champion/`, another one, for the champion's moves.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict

import pyarrow.parquet as pq

from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.records.manifest import Manifest, read_input, write_json
from dynamicpo.core.records.partial_folders import partial_folder, publish
from dynamicpo.core.storage.addresses import join
from dynamicpo.core.storage.failures import LostRaceError
from dynamicpo.core.storage.files import delete, exists, read_bytes
from dynamicpo.core.storage.publication import (
    fetch_published,
    move_pointer,
    pointer_history,
    publish_folder,
)
from dynamicpo.evaluation.result_files import read_result
from dynamicpo.promotion.gate_rows import seen_until
from dynamicpo.promotion.trained_users import write_trained_users

# Shorter beginnings of names would be typing errors rather than names.
_SHORTEST = 6
# A publication waits for no more than this many others at once.
_ATTEMPTS = 100
# Time and machine differ between two makings of the same model.
_NOT_OF_THE_CONTENT = shutil.ignore_patterns("run.json")


class VersionCard(TypedDict):
    """The content of a version's `card.json`.

    Attributes:
        model: The model's name in its evaluation.
        fingerprint: A name for the content of the model's folder.
        stage: The stage that made it.
        backbone: The base model that serving needs beside the version.
        base_version: The base's checksum or commit; "" where the version holds all weights.
        licence: The licence, as its publisher gave it.
        config: The settings of the training.
        data: A name for the content of each input of the training.
        seen_until: Time of the last row that training may have looked at, in epoch seconds.
        evaluation: A name for the content of the evaluation.
        protocol: The rows and candidates of the evaluation.
        metrics: Its metrics of the model, with the bounds of their 95 % intervals.
    """

    model: str
    fingerprint: str
    stage: str
    backbone: str
    base_version: str
    licence: str
    config: JsonObject
    data: dict[str, str]
    seen_until: float
    evaluation: str
    protocol: JsonObject
    metrics: dict[str, float | None]


class Version(NamedTuple):
    """A published version: its name, its URI, and its card."""

    name: str
    uri: str
    card: VersionCard


class VersionSource(NamedTuple):
    """The folders that a version is made of.

    Attributes:
        model: The output of `fine-tune` or `train-preferences`.
        evaluation: An output of `evaluate` with this model.
        preferences: The rows that it was trained on.
        licence: Under which the model may be used.
    """

    model: Path
    evaluation: Path
    preferences: Path
    licence: str = ""


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
    name = _evaluated_name(source, manifest, evaluation)
    card = _card(source, manifest, evaluation, name)
    with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
        folder = Path(scratch) / "version"
        shutil.copytree(source.model, folder / "model", ignore=_NOT_OF_THE_CONTENT)
        shutil.copyfile(source.evaluation / "items.parquet", folder / "items.parquet")
        _write_evaluated_rows(source.evaluation / name, folder)
        write_trained_users(source.preferences, folder)
        write_json(folder / "card.json", card)
        uri = publish_folder(folder, join(store, "versions"))
    published = Version(uri.rpartition("/")[2], uri, card)
    _list(store, published.name)
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
    return exists(join(version_uri(store, name), "contents.json"))


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
    path = join(uri, "card.json")
    try:
        card: VersionCard = json.loads(read_bytes(path))
        missing = sorted(VersionCard.__required_keys__ - set(card))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path}: must be the card of a version, but it can't be read ({error}). "
            "Publish the version again."
        ) from error
    if missing:
        raise DataError(
            f"{path}: must say {', '.join(missing)}, but it does not. Publish the version again."
        )
    return Version(name, uri, card)


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
    uri = version_uri(store, name)
    # Readers take a folder without its list for one that is not there.
    delete(join(uri, "contents.json"))
    delete(uri)


def _check_rows(source: VersionSource, manifest: Manifest) -> None:
    """Refuse other rows than those that the model was trained on."""
    fingerprint = read_input(source.preferences).fingerprint
    trained_on = manifest.inputs.get("preferences", "none")
    if fingerprint != trained_on:
        raise DataError(
            f"{source.preferences}: must be the rows that {source.model} was trained on "
            f"({trained_on}), got others ({fingerprint}). Give the folder of that training."
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


def _card(
    source: VersionSource, manifest: Manifest, evaluation: Manifest, name: str
) -> VersionCard:
    base = manifest.extra.get("base", {})
    result = read_result(source.evaluation / name, evaluation.config["split"])
    return VersionCard(
        model=name,
        fingerprint=manifest.fingerprint,
        stage=manifest.stage,
        backbone=str(base.get("backbone", "")),
        base_version=_base_version(source.model, base),
        licence=source.licence,
        config=manifest.config,
        data=manifest.inputs,
        seen_until=seen_until(source.preferences),
        evaluation=evaluation.fingerprint,
        protocol=evaluation.extra["protocol"],
        metrics=dict(result.metrics),
    )


def _base_version(model: Path, base: Mapping[str, object]) -> str:
    is_adapter = (model / "adapter_config.json").exists()
    return str(base.get("checksum") or base.get("revision", "")) if is_adapter else ""


def _write_evaluated_rows(result: Path, folder: Path) -> None:
    """Keep the ids of the rows that the model was judged on: a later gate needs others."""
    rows = pq.read_table(result / "ranks.parquet", columns=["example_id"])
    # Without what pandas and others add to a table: the bytes name the version.
    pq.write_table(rows.replace_schema_metadata(None), folder / "rows.parquet", compression="zstd")


def _list(store: str, name: str) -> None:
    """Add a version to the list of publications, unless it stands there."""
    chain = join(store, "published")
    for _ in range(_ATTEMPTS):
        history = pointer_history(chain)
        if any(step.target == name for step in history):
            return
        try:
            move_pointer(chain, name, since=history[-1] if history else None)
        except LostRaceError:
            continue
        return
    raise DataError(
        f"{chain}: must be written, but {_ATTEMPTS} other publications were first. "
        "Publish the version again."
    )
