"""The ways in which a user's files are to be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dynamicpo.data.sources.text_values import MISSING
from dynamicpo.data.sources.timestamps import AUTO


@dataclass(frozen=True)
class ReadingOptions:
    """Settings of readers.

    Attributes:
        needs_rating: Whether each interaction must have a rating.
        columns: The files' names of columns, by ours, where they differ.
        time_format: The unit or format of times.
        missing: Texts that mean that a value is missing.
    """

    needs_rating: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    time_format: str = AUTO
    missing: tuple[str, ...] = MISSING
