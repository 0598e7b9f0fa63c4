"""Content of JSON files as the types that its readers rely on: checked once, where it is read."""

from pathlib import Path
from typing import TypeVar

from dynamicpo.core.errors import DataError

Shape = TypeVar("Shape")


def as_shape(path: Path, content: object, shape: type[Shape]) -> Shape:
    """The content of a file as a dataclass, a TypedDict or a plain type; other keys are left out.

    Args:
        path: The file, for messages.
        content: The content as JSON gives it.
        shape: Names and types that it must have.

    Raises:
        DataError: It has others.
    """
    import msgspec  # 20 ms, which commands without files of ours need not wait for

    try:
        return msgspec.convert(content, shape)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{path}: must be as a stage wrote it, but it isn't ({error}). "
            "Run the stage before this one again."
        ) from error
