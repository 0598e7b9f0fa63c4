"""Fields of configurations: their limits, their checks, and their values from text.

A field says what it may be; every problem is reported at once.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from dynamicpo.core.errors import ConfigError, unknown_name
from dynamicpo.core.messages import shown

Value = TypeVar("Value")
ConfigClass = TypeVar("ConfigClass")
Field = dataclasses.Field[object]

_TYPE_NAMES: Mapping[object, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
}
# Kubeflow passes numbers as floats of 64 bits, which hold whole numbers up to here exactly.
LARGEST_EXACT = 2**53 - 1
# torch, NumPy and Parquet hold no larger ones.
_LARGEST = 2**63 - 1
# A bootstrap keeps a mean for each of them; an interval gets no better by more.
MOST_RESAMPLES = 100_000
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a number; None where there is none.

    Attributes:
        low: The smallest value.
        high: The largest value.
        above: A value that is just too small.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None

    def as_text(self) -> str:
        """The bounds as text: `0 to 1`, `>= 1`, `> 0`; empty where there is none."""
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f">= {self.low:g}"
        if self.above is not None:
            return f"> {self.above:g}"
        return "" if self.high is None else f"<= {self.high:g}"

    def problem(self, number: float) -> str:
        """The bound that a number violates, as text; empty where it violates none."""
        # `not number >= low` rather than `number < low`: a NaN violates every bound.
        if self.low is not None and not number >= self.low:
            return f">= {self.low:g}"
        if self.above is not None and not number > self.above:
            return f"> {self.above:g}"
        if self.high is not None and not number <= self.high:
            return f"<= {self.high:g}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Base of the configs: checks itself when made."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)


def setting(  # noqa: PLR0913
    default: Value,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    unit: str = "",
    recorded: bool = True,
) -> Value:
    """A dataclass field with its help text and its allowed values.

    Args:
        default: The value without a user's choice.
        help: The help text of the flag and the description of the component's parameter.
        choices: The names to choose from; empty where any value of the type is allowed.
        low: The smallest number allowed.
        high: The largest number allowed.
        above: A number that must be exceeded.
        unit: The unit of a number.
        recorded: Whether a result depends on it, and so is made anew where it changes.
    """
    limits = Limits(low=low, high=high, above=above)
    # The command line and the READMEs read this metadata; one text serves all of them.
    metadata = {"help": help, "choices": choices, "limits": limits, "unit": unit}
    return field(default=default, metadata={**metadata, "recorded": recorded})


def check_fields(config: Checked) -> None:
    """Report every field of a config that is out of its choices or limits, all at once.

    Raises:
        ConfigError: One or more fields can't be used; one line for each.
    """
    problems = []
    for item in dataclasses.fields(config):
        problem = _problem(getattr(config, item.name), item)
        if problem:
            problems.append(problem)
    if problems:
        raise ConfigError("\n".join(problems))


def limits_of(item: Field) -> Limits:
    """The limits that a field was made with."""
    limits: Limits = item.metadata["limits"]
    return limits


def choices_of(item: Field) -> tuple[str, ...]:
    """The choices that a field was made with."""
    choices: tuple[str, ...] = item.metadata["choices"]
    return choices


def recorded_fields(config: Checked) -> dict[str, object]:
    """The values of a config that results depend on, by name."""
    return {
        item.name: getattr(config, item.name)
        for item in dataclasses.fields(config)
        if item.metadata.get("recorded", True)
    }


def unit_of(item: Field) -> str:
    """The unit that a field was made with; empty where it is no number."""
    unit: str = item.metadata["unit"]
    return unit


def range_of(item: Field) -> str:
    """The values that a field may have, as text; empty where any of its type will do."""
    choices = choices_of(item)
    return ", ".join(choices) if choices else limits_of(item).as_text()


def _problem(value: object, item: Field) -> str:
    choices = choices_of(item)
    if choices and value not in choices:
        return str(unknown_name(item.name, str(value), choices))
    if not _has_type(value, item.type):
        return f"{item.name}: must be {_type_name(item.type)}, got {value!r}."
    if isinstance(value, str) and not _is_text(value):
        return f"{item.name}: must be text, got {shown(value)}, which holds half of a character."
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"{item.name}: must be below 2^63, got {shown(value)}."
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        violated = limits_of(item).problem(value)
        if violated:
            return f"{item.name}: must be {violated}, got {value:g}."
    return ""


def _is_text(value: str) -> bool:
    """False for half of a surrogate pair, which YAML can spell and no file can hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_type(value: object, kind: object) -> bool:
    # bool is a subclass of int in Python, but `--seed true` is a mistake.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float:
        # A whole number of hundreds of digits is no float; `_problem` refuses it as too large.
        is_whole = isinstance(value, int)
        return is_number and (is_whole or math.isfinite(value))  # type: ignore[arg-type]
    if kind is int:
        return is_number and isinstance(value, int)
    return isinstance(kind, type) and isinstance(value, kind)


def _type_name(kind: object) -> str:
    return _TYPE_NAMES.get(kind, str(kind))


def from_mapping(kind: type[ConfigClass], values: Mapping[str, object], where: str) -> ConfigClass:
    """A config from a mapping, with unknown keys refused.

    Args:
        kind: The config's class.
        values: Field names to values; text is converted to the field's type.
        where: The source of the values for messages, such as a file.

    Raises:
        ConfigError: Unknown keys, values of a wrong type or out of limits.
    """
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise unknown_name(where, name, fields)
    converted = {}
    problems = []
    for name, value in values.items():
        try:
            converted[name] = _convert(value, fields[name], where)
        except ConfigError as error:
            problems.append(str(error))
    # The fields that could be converted are checked even if others could not: a user who has made
    # two mistakes reads of both.
    try:
        config = kind(**converted)
    except ConfigError as error:
        problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def _convert(value: object, item: Field, where: str) -> object:
    kind = item.type
    # YAML reads `beta: 1` as a whole number; in a manifest it must be the same 1.0 as the default.
    if kind is float and type(value) is int and abs(value) <= _LARGEST:
        return float(value)
    # Kubeflow delivers 40 as 40.0 in dictionaries.
    if kind is int and isinstance(value, float) and value.is_integer():
        return _exact(value, item, where)
    if not isinstance(value, str) or kind is str:
        return value
    try:
        return _from_text(value, kind)
    except (KeyError, ValueError) as error:
        problem = f"{where}: {item.name} must be {_type_name(kind)}, got {value!r}."
        raise ConfigError(problem) from error


def _exact(value: float, item: Field, where: str) -> int:
    """A whole float as the number that it was before it became a float."""
    if abs(value) > LARGEST_EXACT:
        raise ConfigError(
            f"{where}: {item.name} must be text above {LARGEST_EXACT}, because larger numbers lose "
            f"digits on their way, got {value:g}. Put it in quotes."
        )
    return int(value)


def _from_text(text: str, kind: object) -> object:
    # `bool("false")` is True.
    if kind is bool:
        return _BOOLEANS[text.lower()]
    if kind is int:
        return int(text)
    return float(text)
