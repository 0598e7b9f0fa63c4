"""Quality of what was read: measured, held against limits, and written as a page and as JSON."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ibis.expr.types as ir

from dynamicpo.core.config import DataConfig
from dynamicpo.core.config_quality import end_of_known_time, quality_limits
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.records.manifest import write_json
from dynamicpo.data.quality.events import USER_CLASSES, EventQuality, measure_events
from dynamicpo.data.quality.limits import (
    QualityCheck,
    check_limits,
    event_checks,
    title_checks,
    unknown_check,
)
from dynamicpo.data.quality.near_titles import NearDuplicates, near_duplicates
from dynamicpo.data.quality.title_tokens import TOKEN_CLASSES, TitleTokens, measure_tokens
from dynamicpo.reports.pages.quality import (
    Classes,
    MeasuredLimit,
    QualityReport,
    TimeReport,
    quality_page,
)

_SHOWN_TITLES = 20
_SETTINGS = (
    *("bot_rate", "as_of", "tokenizer", "tokenizer_revision"),
    *("quality_limits", "max_unknown_share"),
)


class TitleQuality(NamedTuple):
    """Measures of titles.

    Attributes:
        num_titles: Their number.
        near: Those that are nearly equal.
        tokens: How they are tokenised; None without a tokenizer.
    """

    num_titles: int
    near: NearDuplicates
    tokens: TitleTokens | None


def checked_events(interactions: ir.Table, config: DataConfig) -> EventQuality:
    """Measure interactions, and stop where a limit of theirs is exceeded.

    Raises:
        DataError: It is.
    """
    # The clock tells what is in the future, and nothing else of the page.
    future_from = end_of_known_time(config, time.time())
    quality = measure_events(interactions, config.bot_rate, future_from)
    limits = quality_limits(config.quality_limits)
    checks = event_checks(quality, limits)
    check_limits(checks)
    return quality


def checked_titles(titles: Sequence[str], config: DataConfig) -> TitleQuality:
    """Measure the titles of all items, and stop where a limit of theirs is exceeded.

    Raises:
        DataError: It is, or a title can't be tokenised.
    """
    near = near_duplicates(titles, _SHOWN_TITLES)
    tokens = None
    if config.tokenizer:
        revision = config.tokenizer_revision
        tokens = measure_tokens(titles, config.tokenizer, revision, _SHOWN_TITLES)
    quality = TitleQuality(len(titles), near, tokens)
    limits = quality_limits(config.quality_limits)
    checks = title_checks(*quality, limits)
    check_limits(checks)
    return quality


def write_quality(
    folder: Path,
    events: EventQuality | None,
    titles: TitleQuality,
    counts: Mapping[str, int],
    config: DataConfig,
) -> None:
    """Write `report.html` and `quality.json`.

    Args:
        folder: Where to write them.
        events: Measures of interactions; None for rows without any.
        titles: Measures of titles.
        counts: Counts of data preparation.
        config: Its settings.
    """
    limits = quality_limits(config.quality_limits)
    checks = title_checks(*titles, limits)
    if events is not None:
        unknown = unknown_check(
            counts.get("dropped_unknown_items", 0), events.rows, config.max_unknown_share
        )
        checks = [*event_checks(events, limits), unknown, *checks]
    report = _report(events, titles, counts, checks, config)
    (folder / "report.html").write_text(quality_page(report), encoding="utf-8")
    write_json(folder / "quality.json", _json(checks))


def _report(
    events: EventQuality | None,
    titles: TitleQuality,
    counts: Mapping[str, int],
    checks: Sequence[QualityCheck],
    config: DataConfig,
) -> QualityReport:
    first_counts = _first_counts(events, titles, counts)
    time = users = token_classes = None
    alike: list[list[str]] = []
    if events is not None:
        time = _time_report(events)
        users = Classes(USER_CLASSES, events.by_class)
    tokens = titles.tokens
    if tokens is not None:
        token_classes = Classes(TOKEN_CLASSES, tokens.by_class)
        alike = tokens.alike
    return QualityReport(
        counts={**first_counts, **counts},
        limits=[_measured(check) for check in checks],
        time=time,
        users=users,
        tokens=token_classes,
        near_duplicates=titles.near.pairs,
        alike=alike,
        tokenizer=config.tokenizer,
        details={name: getattr(config, name) for name in _SETTINGS},
    )


def _measured(check: QualityCheck) -> MeasuredLimit:
    return MeasuredLimit(
        meaning=check.meaning,
        value=check.value,
        limit=check.limit,
        counted=check.counted,
        name=check.name,
    )


def _first_counts(
    events: EventQuality | None, titles: TitleQuality, counts: Mapping[str, int]
) -> dict[str, int]:
    """The numbers of the headline."""
    if events is None:
        return {
            "rows_read": counts["rows_read"],
            "users": counts["users"],
            "titles": titles.num_titles,
        }
    return {
        "interactions_read": events.rows,
        "users_read": events.users,
        "items_read": events.items,
        "titles": titles.num_titles,
    }


def _time_report(events: EventQuality) -> TimeReport:
    return TimeReport(
        first=events.first,
        last=events.last,
        by_period=events.by_period,
        gaps=[(gap.start, gap.end) for gap in events.gaps],
        most_in_a_day=events.most_in_a_day,
    )


def _json(checks: Sequence[QualityCheck]) -> JsonObject:
    return {
        check.name: {
            "value": check.value,
            "limit": check.limit,
            "meaning": check.meaning,
            "count": check.counted,
        }
        for check in checks
    }
