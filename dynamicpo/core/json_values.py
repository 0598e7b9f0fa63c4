"""Types of what JSON and YAML files hold, for what has no shape of its own."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

JsonScalar: TypeAlias = str | int | float | bool | None
# Sequence and Mapping, not list and dict: a list of texts is a sequence of JSON values, too.
JsonValue: TypeAlias = "JsonScalar | Sequence[JsonValue] | Mapping[str, JsonValue]"
JsonObject: TypeAlias = dict[str, JsonValue]
