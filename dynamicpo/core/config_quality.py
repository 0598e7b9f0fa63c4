"""Settings of the quality page of data preparation, and the limits that stop it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dynamicpo.core.config_fields import Checked, setting
from dynamicpo.core.config_inputs import epoch_seconds
from dynamicpo.core.errors import ConfigError, unknown_name

_DAY = 86_400

# The largest values with which data preparation goes on. They are far from what ordinary data sets
# have: each is a mistake of an export more likely than a trait of the data.
QUALITY_LIMITS: Mapping[str, float] = MappingProxyType(
    {
        "duplicates": 0.5,
        "gap": 0.9,
        "future": 0.001,
        "bots": 0.2,
        "near_duplicates": 0.5,
        "title_tokens": 128.0,
        "same_tokens": 0.01,
    }
)


@dataclass(frozen=True, kw_only=True)
class QualitySettings(Checked):
    """Fields of the configuration of data preparation that tell what is measured, and its limits.

    How many interactions may have unknown items is a setting of its own, `max_unknown_share`.
    """

    quality_limits: str = setting(
        "",
        "largest values that don't stop, where they differ: duplicates=0.1,bots=1 (of "
        f"{', '.join(QUALITY_LIMITS)})",
    )
    bot_rate: int = setting(
        1000,
        "interactions in one day (UTC) above which a user counts as a bot",
        low=1,
        unit="interactions",
    )
    # A clock's reading would make the same files give another page another day.
    as_of: str = setting(
        "", "times from this date on are in the future (UTC; empty: after tomorrow)"
    )
    tokenizer: str = setting(
        "",
        "count the tokens of titles with this backbone's tokenizer (empty: none; in a pipeline "
        "that of sft_backbone, where it writes titles)",
    )
    tokenizer_revision: str = setting("main", "revision of the tokenizer's Hugging Face model")


def quality_limits(text: str) -> dict[str, float]:
    """All limits by name, from those that differ: `duplicates=0.1,bots=1`.

    Raises:
        ConfigError: Not of this form, an unknown name, or a limit that is no number from 0 on.
    """
    limits = dict(QUALITY_LIMITS)
    for entry in filter(None, text.split(",")):
        name, _, value = (part.strip() for part in entry.partition("="))
        if name not in QUALITY_LIMITS:
            raise unknown_name("quality_limits", name, QUALITY_LIMITS)
        limits[name] = _limit(entry, value)
    return limits


def _limit(entry: str, text: str) -> float:
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    # A comparison with NaN is never true.
    if not 0 <= limit < math.inf:
        raise ConfigError(
            f"quality_limits: must be NAME=NUMBER with commas, numbers >= 0, got {entry!r}."
        )
    return limit


def check_quality(config: QualitySettings) -> None:
    """Check the fields that are texts with a form of their own.

    Raises:
        ConfigError: One or both can't be used; one line for each.
    """
    problems = []
    for check in (
        lambda: quality_limits(config.quality_limits),
        lambda: epoch_seconds("as_of", config.as_of),
    ):
        try:
            check()
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))


def end_of_known_time(config: QualitySettings, now: float) -> float:
    """Epoch seconds from which on times are in the future.

    Args:
        config: A date, or none.
        now: The reading of a clock, for none.
    """
    end = epoch_seconds("as_of", config.as_of)
    if end is not None:
        return end
    # Tomorrow has begun already in some time zone.
    today = now // _DAY
    return (today + 2) * _DAY
