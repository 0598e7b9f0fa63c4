"""Types of JSON and YAML content that has no class of its own."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

JsonScalar: TypeAlias = str | int | float | bool | None
# Sequence and Mapping are covariant, list and dict are not: a list[str] is a sequence of JSON
# values, but not a list of them.
JsonValue: TypeAlias = "JsonScalar | Sequence[JsonValue] | Mapping[str, JsonValue]"
JsonObject: TypeAlias = dict[str, JsonValue]


def is_number(value: object) -> bool:
    """Tell whether a value is a number that a float holds: JSON has whole ones of any length."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True
