"""Settings of the watch for a collapse of preference training."""

from dataclasses import dataclass

from dynamicpo.core.choices import DELIVERED
from dynamicpo.core.config_fields import Checked, setting
from dynamicpo.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class WatchSettings(Checked):
    """Fields of preference training's configuration that tell how its ranking is watched."""

    # 300 rows of candidates in 6,400 rows of training: below 3 % of the time.
    watch_steps: int = setting(
        0,
        "steps between two looks at how validation rows are ranked (0: so many as take 6400 rows)",
        low=0,
        unit="steps",
    )
    watch_rows: int = setting(
        300, "validation rows that are ranked at each look (0: no watch)", low=0, unit="rows"
    )
    stop_on_collapse: bool = setting(
        False, "end training at the second look in a row that finds a collapse"
    )
    deliver: str = setting(
        "last",
        "weights that are delivered: the last ones, or those of the look with the best HitRatio@1",
        choices=DELIVERED,
    )


def check_watch(settings: WatchSettings, sharding: str) -> None:
    """Refuse the best look's weights where there is no look, or no process with whole weights.

    Raises:
        ConfigError: One of these.
    """
    if settings.deliver == "last":
        return
    if not settings.watch_rows:
        raise ConfigError(
            "deliver: 'best' needs looks at validation, got watch_rows 0. Raise it, or deliver "
            "the last weights."
        )
    if sharding != "none":
        raise ConfigError(
            f"deliver: 'best' needs whole weights in each process, got sharding {sharding!r}. "
            "Deliver the last weights, or set sharding to 'none'."
        )
