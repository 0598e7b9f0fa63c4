"""Measures with their limits, and the error where a limit is exceeded."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dynamicpo.core.errors import DataError
from dynamicpo.data.quality.events import DAY, EventQuality
from dynamicpo.data.quality.near_titles import NearDuplicates
from dynamicpo.data.quality.title_tokens import TitleTokens

# Wrong times make gaps of decades; in a small table of some weeks a long one is no surprise.
_YEAR = 365 * DAY


class QualityCheck(NamedTuple):
    """A measure with its limit.

    Attributes:
        name: Its name among the limits; that of a setting for `max_unknown_share`.
        meaning: What is measured.
        value: What came, in the unit of the limit.
        limit: The largest value that is let pass.
        counted: What the value is a share of, as text.
        remedy: What to do.
    """

    name: str
    meaning: str
    value: float
    limit: float
    counted: str
    remedy: str

    @property
    def is_exceeded(self) -> bool:
        """True where the value is above the limit."""
        return self.value > self.limit


def event_checks(quality: EventQuality, limits: Mapping[str, float]) -> list[QualityCheck]:
    """Checks of interactions."""
    gap = quality.gaps[0].seconds if quality.gaps else 0.0
    rows = f"{quality.rows:,}"
    return [
        QualityCheck(
            name="duplicates",
            meaning="share of interactions that repeat user, item and time of another",
            value=quality.repeated / quality.rows,
            limit=limits["duplicates"],
            counted=f"{quality.repeated:,} of {rows}",
            remedy="Look for a file that was read or joined twice.",
        ),
        QualityCheck(
            name="gap",
            meaning="longest time without any interaction, as a share of all time",
            value=gap / quality.seconds if quality.seconds > _YEAR else 0.0,
            limit=limits["gap"],
            counted=f"{gap / DAY:,.1f} of {quality.seconds / DAY:,.1f} days",
            remedy="Look for times that are zero or wrong, or for a part that is missing.",
        ),
        QualityCheck(
            name="future",
            meaning="share of interactions at a time that has not come yet",
            value=quality.future / quality.rows,
            limit=limits["future"],
            counted=f"{quality.future:,} of {rows}",
            remedy="Correct the times or their format (time_format).",
        ),
        QualityCheck(
            name="bots",
            meaning="share of interactions of users with more in one day than a person has",
            value=quality.busy_rows / quality.rows,
            limit=limits["bots"],
            counted=f"{quality.busy_rows:,} of {rows}, of {quality.busy_users:,} users",
            remedy="Take these users out (forget), or raise bot_rate.",
        ),
    ]


def unknown_check(unknown: int, rows: int, limit: float) -> QualityCheck:
    """The check of items that the items table lacks, which has a setting of its own."""
    return QualityCheck(
        name="max_unknown_share",
        meaning="share of interactions with items that the items table lacks",
        value=unknown / rows,
        limit=limit,
        counted=f"{unknown:,} of {rows:,}",
        remedy="Complete the items.",
    )


def title_checks(
    num_titles: int,
    near: NearDuplicates,
    tokens: TitleTokens | None,
    limits: Mapping[str, float],
) -> list[QualityCheck]:
    """Checks of titles; those of tokens where a tokenizer was given."""
    checks = [
        QualityCheck(
            name="near_duplicates",
            meaning="share of titles that are nearly equal to another",
            value=near.num_titles / num_titles,
            limit=limits["near_duplicates"],
            counted=f"{near.num_titles:,} of {num_titles:,}",
            remedy="Join items that are one.",
        )
    ]
    if tokens is None:
        return checks
    return [
        *checks,
        QualityCheck(
            name="title_tokens",
            meaning="tokens that 95 of 100 titles have at most",
            value=tokens.large,
            limit=limits["title_tokens"],
            counted=f"the longest has {tokens.most:,}",
            remedy="Shorten the titles, or choose a backbone made for their language.",
        ),
        QualityCheck(
            name="same_tokens",
            meaning="share of titles with the same tokens as another",
            value=tokens.num_alike / num_titles,
            limit=limits["same_tokens"],
            counted=f"{tokens.num_alike:,} of {num_titles:,}",
            remedy="Change these titles, or choose a backbone that knows their letters.",
        ),
    ]


def check_limits(checks: Sequence[QualityCheck]) -> None:
    """Stop where a limit is exceeded.

    Raises:
        DataError: One line for each limit that is.
    """
    problems = []
    for check in checks:
        if not check.is_exceeded:
            continue
        name = check.name
        raised = _above(check.value)
        problems.append(
            f"quality: {name} ({check.meaning}) must be at most {check.limit:g}, got "
            f"{check.value:.4g} ({check.counted}). {check.remedy} If that is as it should be, "
            f"raise the limit: quality_limits={name}={raised}."
        )
    if problems:
        raise DataError("\n".join(problems))


def _above(value: float) -> str:
    """A number of two digits that is at least the value."""
    text = f"{value:.2g}"
    return text if float(text) >= value else f"{value * 1.05:.2g}"
