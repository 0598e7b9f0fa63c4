"""The ways in which a user's files are to be read."""

from dataclasses import dataclass, field

from dynamicpo.core.config import DataConfig
from dynamicpo.core.config_inputs import ColumnMap, column_map
from dynamicpo.data.sources.text_values import MISSING, missing_markers
from dynamicpo.data.sources.timestamps import AUTO
from dynamicpo.data.sources.user_ids import UserIds


@dataclass(frozen=True)
class ReadingOptions:
    """Settings of readers.

    Attributes:
        needs_rating: Whether each interaction must have a rating.
        columns: The files' names of columns, by ours, where they differ.
        time_format: The unit or format of times.
        missing: Texts that mean that a value is missing.
        keep_events: Values of the column `event` that count; empty for all.
        users: Changes of user ids.
        drops_early_times: Whether interactions before 1970 are left out, and not refused.
        drops_unnamed_items: Whether items without an id or a title are.
    """

    needs_rating: bool = False
    keep_events: tuple[str, ...] = ()
    users: UserIds = UserIds()
    columns: ColumnMap = field(default_factory=dict)
    time_format: str = AUTO
    missing: tuple[str, ...] = MISSING
    drops_early_times: bool = False
    drops_unnamed_items: bool = False

    @classmethod
    def of(cls, config: DataConfig, users: UserIds) -> "ReadingOptions":
        """Take the settings of a configuration."""
        events = [event.strip() for event in config.keep_events.split(",")]
        return cls(
            needs_rating=config.min_rating > 0,
            columns=column_map(config.columns),
            time_format=config.time_format,
            missing=missing_markers(config.missing_values),
            keep_events=tuple(filter(None, events)),
            users=users,
        )
