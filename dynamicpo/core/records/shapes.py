"""Content of JSON files as the types that its readers rely on: checked once, where it is read."""

import dataclasses
import typing
from pathlib import Path
from typing import Any, TypeVar

from dynamicpo.core.errors import DataError

Shape = TypeVar("Shape")


def as_shape(path: Path | str, content: object, shape: type[Shape]) -> Shape:
    """The content of a file as a dataclass, a TypedDict or a plain type; other keys are left out.

    Args:
        path: The file or its address, for messages.
        content: The content as JSON gives it.
        shape: Names and types that it must have.

    Raises:
        DataError: It has others.
    """
    try:
        import msgspec  # 20 ms, which commands without files of ours need not wait for
    except ModuleNotFoundError:
        return _unchecked(path, content, shape)
    try:
        return msgspec.convert(content, shape)
    except msgspec.ValidationError as error:
        raise _other_content(path, error) from error


def _unchecked(path: Path | str, content: object, shape: type[Shape]) -> Shape:
    """The same on a bare machine without msgspec, whose files are its own: types are believed."""
    try:
        made: Shape = _made(content, shape)
    except (TypeError, KeyError, AttributeError) as error:
        raise _other_content(path, error) from error
    return made


# Any: a type, of which only dataclasses, TypedDicts and tuples need making.
def _made(content: Any, shape: Any) -> Any:
    if typing.get_origin(shape) is tuple:
        return tuple(content)
    is_dataclass = dataclasses.is_dataclass(shape)
    if not is_dataclass and not typing.is_typeddict(shape):
        return content
    hints = typing.get_type_hints(shape)
    parts = {name: _made(content[name], hint) for name, hint in hints.items() if name in content}
    if is_dataclass:
        return shape(**parts)
    missing = sorted(shape.__required_keys__ - set(parts))
    if missing:
        raise KeyError(", ".join(missing))
    return parts


def _other_content(path: Path | str, error: Exception) -> DataError:
    return DataError(
        f"{path}: must be as a stage wrote it, but it isn't ({error}). "
        "Run the stage before this one again."
    )
