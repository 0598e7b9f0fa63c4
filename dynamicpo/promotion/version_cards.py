"""The card of a version: what it was made of and from, and how good it was."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

from dynamicpo.core.choices import NO_GENERATOR
from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.shapes import as_shape
from dynamicpo.core.storage.files import read_bytes
from dynamicpo.evaluation.result_files import read_result
from dynamicpo.promotion.gate_rows import seen_until


class VersionCard(TypedDict):
    """The content of a version's `card.json`.

    Attributes:
        model: The model's name in its evaluation.
        fingerprint: A name for the content of the model's folder.
        stage: The stage that made it.
        backbone: The base model that serving needs beside the version.
        base_version: The base's checksum or commit; "" where the version holds all weights.
        base_revision: The base's revision, as it was asked for.
        base_checksum: The checksum of its weights, where it was made.
        licence: The licence, as its publisher gave it.
        config: The settings of the training.
        data: A name for the content of each input of the training.
        seen_until: Time of the last row that training may have looked at, in epoch seconds.
        evaluation: A name for the content of the evaluation.
        protocol: The rows and candidates of the evaluation.
        metrics: Its metrics of the model, with the bounds of their 95 % intervals.
        generator: What proposes the items that it ranks when it serves: "sasrec" or "cooccurrence"
            of `generators/`, "catalogue" where it ranks all, "none" where that was not measured.
        proposals: How many.
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
    # Of cards since candidate generators.
    base_revision: NotRequired[str]
    base_checksum: NotRequired[str]
    generator: NotRequired[str]
    proposals: NotRequired[int]


# JSON within JSON has no end, which a check of types can't follow.
class _CheckedCard(VersionCard):
    config: dict[str, Any]
    protocol: dict[str, Any]


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


def make_card(
    source: VersionSource, manifest: Manifest, evaluation: Manifest, name: str
) -> VersionCard:
    """The card of a version.

    Args:
        source: What it is made of.
        manifest: Of its model.
        evaluation: The manifest of its evaluation.
        name: The model's name there.

    Raises:
        DataError: Something can't be read.
    """
    base = manifest.extra.get("base", {})
    settings = evaluation.config
    result = read_result(source.evaluation / name, settings["split"])
    card = VersionCard(
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
    card["base_revision"] = str(base.get("revision", ""))
    card["base_checksum"] = str(base.get("checksum", ""))
    card["generator"] = str(settings.get("generator", NO_GENERATOR))
    card["proposals"] = int(settings.get("proposals", 0))
    return card


def read_card(uri: str) -> VersionCard:
    """Read a card.

    Raises:
        DataError: It is missing, damaged or says too little.
    """
    try:
        card: VersionCard = json.loads(read_bytes(uri))
        missing = sorted(VersionCard.__required_keys__ - set(card))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{uri}: must be the card of a version, but it can't be read ({error}). "
            "Publish the version again."
        ) from error
    if missing:
        raise DataError(
            f"{uri}: must say {', '.join(missing)}, but it does not. Publish the version again."
        )
    as_shape(uri, card, _CheckedCard)
    return card


def _base_version(model: Path, base: Mapping[str, object]) -> str:
    is_adapter = (model / "adapter_config.json").exists()
    return str(base.get("checksum") or base.get("revision", "")) if is_adapter else ""
