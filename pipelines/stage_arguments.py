"""The arguments of one stage among those of a pipeline."""

from collections.abc import Mapping
from typing import Any


def grouped(arguments: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The arguments whose names begin with `prefix` and an underscore, without it."""
    start = f"{prefix}_"
    return {
        name.removeprefix(start): value
        for name, value in arguments.items()
        if name.startswith(start)
    }
