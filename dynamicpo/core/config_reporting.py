"""Settings of what else shows the metrics of a training, besides its own files."""

from dataclasses import dataclass

from dynamicpo.core.choices import REPORTERS
from dynamicpo.core.config_fields import Checked, check_fields, setting
from dynamicpo.core.config_lists import entries_of
from dynamicpo.core.errors import ConfigError, unknown_name
from dynamicpo.core.messages import quoted

NO_REPORTERS = "none"


@dataclass(frozen=True, kw_only=True)
class ReportingSettings(Checked):
    """Fields of a training's configuration that tell who is sent its metrics."""

    report_to: str = setting(
        NO_REPORTERS,
        "send each step's metrics to tensorboard, mlflow, wandb (with commas), or to none",
        recorded=False,
    )
    report_folder: str = setting(
        "", "folder for TensorBoard's event files, which needs one", recorded=False
    )

    def __post_init__(self) -> None:
        """Check every field, and the list."""
        check_fields(self)
        check_reporting(self)


def reporters_of(settings: ReportingSettings) -> list[str]:
    """The names in a training's list; none by default."""
    return [] if settings.report_to == NO_REPORTERS else entries_of(settings.report_to)


def check_reporting(settings: ReportingSettings) -> None:
    """Refuse unknown names, and TensorBoard without a folder of this machine.

    Raises:
        ConfigError: One of these.
    """
    names = reporters_of(settings)
    for name in names:
        if name not in REPORTERS:
            raise unknown_name("report_to", name, (NO_REPORTERS, *REPORTERS))
    # TensorBoard's writer appends, which object stores do not offer.
    is_local = "://" not in settings.report_folder and bool(settings.report_folder)
    if "tensorboard" in names and not is_local:
        raise ConfigError(
            "report_folder: must be a local or mounted folder with report_to 'tensorboard', got "
            f"{quoted(settings.report_folder)}. Name one."
        )
