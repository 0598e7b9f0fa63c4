"""How a configuration checks itself, and how it is made from text.

A field says what it may be; every problem is reported at once.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any, TypeVar

from dynamicpo.core.errors import ConfigError, unknown_name

C = TypeVar("C")


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A dataclass field with its help text and its allowed values (`low` and `high` included, `above` not)."""
    limits = {"low": low, "high": high, "above": above}
    return field(default=default, metadata={"help": help, "choices": choices, **limits})


def check_fields(config: Any) -> None:
    """Report every field of a config that is out of its choices or limits, all at once.

    Raises:
        ConfigError: One or more fields can't be used; one line for each.
    """
    problems = [
        problem for item in dataclasses.fields(config) if (problem := _problem(config, item))
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _problem(config: Any, item: "dataclasses.Field[Any]") -> str:
    value, meta, name = getattr(config, item.name), item.metadata, item.name
    if not _has_type(value, item.type):
        return f"{name}: must be {_type_name(item.type)}, got {value!r}."
    if meta["choices"] and value not in meta["choices"]:
        return str(unknown_name(name, str(value), meta["choices"]))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if meta["low"] is not None and not value >= meta["low"]:
            return f"{name}: must be >= {meta['low']:g}, got {value:g}."
        if meta["above"] is not None and not value > meta["above"]:
            return f"{name}: must be > {meta['above']:g}, got {value:g}."
        if meta["high"] is not None and not value <= meta["high"]:
            return f"{name}: must be <= {meta['high']:g}, got {value:g}."
    return ""


def _has_type(value: Any, kind: Any) -> bool:
    if kind is float:
        return (
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        )
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _type_name(kind: Any) -> str:
    return {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "text",
    }.get(kind, str(kind))


class Checked:
    """Base of the configs: checks itself when made."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)


def from_mapping(kind: type[C], values: Mapping[str, Any], where: str) -> C:
    """A config from a mapping, with unknown keys refused.

    Args:
        kind: The config's class.
        values: Field names to values; text is converted to the field's type.
        where: What to name in messages, such as a file.

    Raises:
        ConfigError: Unknown keys, values of a wrong type or out of limits.
    """
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise unknown_name(where, name, fields)
    converted, problems = {}, []
    for name, value in values.items():
        try:
            converted[name] = _convert(value, fields[name], where)
        except ConfigError as error:
            problems.append(str(error))
    try:
        config = kind(**converted)
    except ConfigError as error:
        problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def _convert(value: Any, item: "dataclasses.Field[Any]", where: str) -> Any:
    kind = item.type
    if not isinstance(value, str) or kind is str:
        return float(value) if kind is float and type(value) is int else value
    try:
        if kind is bool:
            return {"true": True, "false": False}[value.lower()]
        return kind(value)  # type: ignore[operator]
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{where}: {item.name} must be {_type_name(kind)}, got {value!r}."
        ) from error
