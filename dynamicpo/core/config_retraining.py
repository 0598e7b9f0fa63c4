"""The settings of retraining: when it starts, on which window, and how much it may take."""

from dataclasses import dataclass

from dynamicpo.core.config_fields import Checked, check_fields, setting
from dynamicpo.core.config_inputs import epoch_seconds

WARM = "warm"
SCRATCH = "scratch"
RETRAIN_MODES = (WARM, SCRATCH)


@dataclass(frozen=True, kw_only=True)
class RetrainConfig(Checked):
    """Retraining on a new window, and what keeps it from starting."""

    store: str = setting(
        "", "where versions and decisions are: gs://..., s3://..., minio://... or a folder"
    )
    mode: str = setting(
        WARM,
        "where SFT starts: from the champion's weights, or from the backbone's",
        choices=RETRAIN_MODES,
    )
    forced: bool = setting(False, "train though nothing drifted, or a drift was answered already")
    until: str = setting("", "end of the new window, a date (UTC; empty: today)")
    window_days: int = setting(
        28,
        "the window's last days, which nobody trains on: champion and challenger are compared"
        " there",
        low=1,
        unit="days",
    )
    validation_days: int = setting(
        7, "the days before them, by which a challenger is chosen", low=1, unit="days"
    )
    # A warm start hands on what the champion has learnt wrong, too.
    scratch_every: int = setting(
        4,
        "start at least every so many trainings from the backbone (0: never)",
        low=0,
        unit="trainings",
    )
    min_days: int = setting(
        7, "days between the windows of two trainings, at least", low=0, unit="days"
    )
    max_runs: int = setting(8, "trainings in 30 days, at most (0: any)", low=0, unit="trainings")
    max_gpu_hours: float = setting(
        0.0, "hours of trainings and evaluations in 30 days, at most (0: any)", low=0, unit="hours"
    )
    hour_price: float = setting(
        0.0,
        "price of such an hour, for the cost of a decision (0: not stated)",
        low=0,
        unit="any currency",
    )

    def __post_init__(self) -> None:
        """Check the fields, then the date."""
        check_fields(self)
        epoch_seconds("until", self.until)
