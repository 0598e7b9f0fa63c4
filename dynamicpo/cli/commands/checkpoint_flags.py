"""The flags of checkpoints: where and how often commands keep what they have finished."""

import dataclasses
from collections.abc import Mapping
from pathlib import PurePosixPath

from dynamicpo.core.config_checkpoints import CheckpointConfig
from dynamicpo.core.config_fields import from_mapping
from dynamicpo.core.json_values import JsonValue
from dynamicpo.core.storage import beside

_FIELDS = dataclasses.fields(CheckpointConfig)
_PLACE = "checkpoints"


def _text(item: "dataclasses.Field[object]") -> str:
    text: str = item.metadata["help"]
    return text if item.name == _PLACE else f"{text} (default: {item.default!r})"


# Names to help texts, as of the paths of a command.
CHECKPOINT_TEXTS: Mapping[str, str] = {item.name: _text(item) for item in _FIELDS}
# Those of them that are no paths.
CHECKPOINT_NUMBERS = frozenset(item.name for item in _FIELDS if item.type is not str)


def with_place(paths: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The paths of a command, with a place for checkpoints: beside the output."""
    output = str(paths["output"]).rstrip("/")
    name = PurePosixPath(output).name
    place = beside(output, f".{name}.checkpoints")
    return {**paths, _PLACE: paths.get(_PLACE) or place}


def checkpoints_of(paths: Mapping[str, object]) -> CheckpointConfig:
    """The settings of checkpoints among the paths of a command.

    Raises:
        ConfigError: One that can't be used.
    """
    given = {name: paths[name] for name in CHECKPOINT_TEXTS if name in paths}
    return from_mapping(CheckpointConfig, given, "checkpoints")
